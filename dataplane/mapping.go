package dataplane

import (
	"math"
	"net/netip"
	"sync/atomic"
	"time"

	"espalier/ipsec"
)

// mapping is where the peer of an inbound SA with UDP encapsulation was seen, if that is not where
// the SA has it: a NAT between has given it another address or port. The device tells who has the
// SA's keys, and changes nothing by itself: an authentic packet says who has sealed it, but anybody
// may have sent it from elsewhere.
//
// As in Linux (km_new_mapping) another place is told at once, and the same one again after age.
// Without an age Linux tells it with every packet, this device once.
type mapping struct {
	age    time.Duration // 0: the same place is not told again
	seen   atomic.Pointer[sighting]
	untold atomic.Pointer[netip.AddrPort] // for the keeper
}

// sighting is a place that was told, and until when it is not again, in Unix seconds.
type sighting struct {
	place netip.AddrPort
	until int64
}

// note takes down that the newest packet came from a place, and reports whether that is to be told.
// remote is where the SA has the peer, now is in Unix seconds.
func (m *mapping) note(from, remote netip.AddrPort, now int64) bool {
	last := m.seen.Load()
	switch {
	case from == remote:
		if last != nil && m.age == 0 {
			m.seen.CompareAndSwap(last, nil) // if it leaves again, that is a change
		}
		return false
	case last != nil && last.place == from && now <= last.until:
		return false
	}
	is := &sighting{place: from, until: math.MaxInt64}
	if m.age != 0 {
		is.until = now + int64(m.age/time.Second)
	}
	if !m.seen.CompareAndSwap(last, is) {
		return false // another socket's reader has just taken it down
	}
	m.untold.Store(&is.place)
	return true
}

// forget begins anew: the SA has another place for its peer.
func (m *mapping) forget() {
	m.seen.Store(nil)
	m.untold.Store(nil)
}

// followPeer looks where the newest packet of a batch came from. It counts only if it also is the
// newest that the SA has received: what was held back on the way says nothing of today. (An SA without
// anti-replay takes a copy of its newest packet, from wherever it comes.)
func (in *inbound) followPeer(a *association, from netip.AddrPort, seq uint64) {
	e := a.encap.Load()
	if e == nil {
		return
	}
	from = netip.AddrPortFrom(from.Addr().WithZone(""), from.Port())
	if from == e.ends.Remote && a.mapping.seen.Load() == nil || seq != a.in.Highest() {
		return
	}
	if a.mapping.note(from, e.ends.Remote, in.d.keeper.now.Load()) {
		in.d.keeper.ask(&a.errand)
	}
}

// tellMoved tells that the peer has moved, if it has.
func (d *Device) tellMoved(a *association) {
	to := a.mapping.untold.Swap(nil)
	if to == nil {
		return
	}
	is := a.read()
	d.log.Info("the peer's packets come from elsewhere than the SA says: a NAT has moved it", "spi", is.SPI, "src", is.Src, "from", *to)
	d.observers.tell(ipsec.PeerMoved{SA: is, To: *to})
}
