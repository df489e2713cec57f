package dataplane

import (
	"sync"
	"sync/atomic"
	"time"

	"espalier/esp"
	"espalier/guard"
	"espalier/underlay"
)

// ESP comes by raw sockets, and by a tap for those SAs that have much to carry. The tap sees the packets
// of all SAs. What is of one that is not tapped, it leaves to the raw socket; once an SA has had some
// packets, it is tapped from then on, and the guard drops its whole packets behind the tap. Between the
// two some packets are received twice, and none never; so it does not matter when exactly the guard begins.
//
// An SA that comes in the place of a tapped one, as in rekeying, is tapped from the beginning: else its
// packets would change their way, and overtake one another. Nothing is on its way to it yet, so nothing comes
// twice, and what does is a replay.
//
// An SA without an anti-replay window is never tapped: it could not tell packets that come twice.

// tapped is what makes an SA a tapped one. It is there once the tap has seen the SA's packets.
type tapped struct {
	seen    atomic.Int64 // packets, while it was not
	on      atomic.Bool
	settled atomic.Int64 // when no packet comes twice any more, Unix nanoseconds; 0: it is
	errand  errand       // to tap it
}

// tapAfter is the number of packets that is worth a change of the guard.
const tapAfter = 256

// settleTime is how long packets may come twice after a change of who receives them. It is plenty: they
// wait in sockets only.
const settleTime = 500 * time.Millisecond

// settle has packets come twice for a while.
func (t *tapped) settle() { t.settled.Store(time.Now().Add(settleTime).UnixNano()) }

// settling reports whether packets of the SA may come twice.
func (t *tapped) settling() bool {
	settled := t.settled.Load()
	if settled == 0 {
		return false
	}
	if time.Now().UnixNano() > settled {
		t.settled.CompareAndSwap(settled, 0)
		return false
	}
	return true
}

// findTapped finds the SA of a datagram from the tap, nil if it is not for the tap. All that is wrong with
// it, the raw socket will find out.
func (in *inbound) findTapped(dg *underlay.Datagram) *association {
	if len(dg.Payload) < esp.HeaderLen {
		return nil
	}
	a := in.named(dg)
	if a == nil || !in.d.canTap(a) {
		return nil
	}
	t := in.d.tappedOf(a)
	if t.on.Load() {
		return a
	}
	if t.seen.Add(1) == tapAfter {
		in.d.keeper.ask(&t.errand)
	}
	return nil
}

// fresh leaves out what has come twice while the SA was settling, and must not count as replayed.
func (in *inbound) fresh(a *association, datagrams []*underlay.Datagram) []*underlay.Datagram {
	fresh := datagrams[:0]
	for _, dg := range datagrams {
		if !a.in.Refuses(dg.Payload) {
			fresh = append(fresh, dg)
		}
	}
	return fresh
}

func (d *Device) canTap(a *association) bool {
	return a.in != nil && a.sa.Window != 0 && a.encap.Load() == nil && d.locals.has(a.id.Dst)
}

// tappedOf is what makes an SA a tapped one, once it is. Several may ask at once.
func (d *Device) tappedOf(a *association) *tapped {
	if t := a.tapped.Load(); t != nil {
		return t
	}
	t := &tapped{}
	t.errand.do = func() {
		d.control.Lock()
		defer d.control.Unlock()
		if !t.on.Load() {
			t.settle()
			d.tapSA(a, t)
		}
	}
	if !a.tapped.CompareAndSwap(nil, t) {
		return a.tapped.Load()
	}
	return t
}

// followTapped taps an SA that comes in the place of one that is. Device.control is held.
func (d *Device) followTapped(a *association) {
	if d.tap.busy[keyOf(a)] > 0 && d.canTap(a) {
		d.tapSA(a, d.tappedOf(a))
	}
}

// tapSA has an SA received by the tap. Device.control is held.
func (d *Device) tapSA(a *association, t *tapped) {
	if d.closed || a.gone || !d.tap.isOpen() {
		return
	}
	t.on.Store(true)
	if err := d.guard.AddTapped(guardedOf(a)); err != nil {
		t.on.Store(false)
		d.log.Warn("ESP goes on by the raw socket, which takes more CPU", "spi", a.sa.SPI, "dst", a.sa.Dst, "err", err)
		return
	}
	d.tap.count(a, 1)
}

func guardedOf(a *association) guard.Tapped { return guard.Tapped{Dst: a.sa.Dst, SPI: a.sa.SPI} }

// untap gives SAs back to the raw sockets. Device.control is held.
func (d *Device) untap(all ...*association) error {
	var gone []guard.Tapped
	for _, a := range all {
		if t := a.tapped.Load(); t != nil && t.on.Swap(false) {
			t.seen.Store(0)
			d.tap.count(a, -1)
			gone = append(gone, guardedOf(a))
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return d.guard.RemoveTapped(gone...)
}

// tapPort are the taps of the underlay device, if it has any: as many as raw sockets of a family.
type tapPort struct {
	mu   sync.Mutex
	taps []*underlay.Tap
	lost uint64 // by those that are gone

	busy map[outboundKey]int // SAs that are tapped, by what rekeying leaves alone; under Device.control
}

// count adds to the SAs that are tapped. Device.control is held.
func (t *tapPort) count(a *association, n int) {
	if t.busy == nil {
		t.busy = make(map[outboundKey]int)
	}
	k := keyOf(a)
	if t.busy[k] += n; t.busy[k] == 0 {
		delete(t.busy, k)
	}
}

// openTap opens taps on the underlay device as it is now, in the place of those there are. Without any
// the raw sockets receive all. Device.control is held, or not needed yet.
func (d *Device) openTap() error {
	taps, err := d.listenTap()
	if err != nil {
		d.log.Warn("ESP is received by raw sockets alone, which take more CPU", "device", d.link.name, "err", err)
	}
	d.closeTaps(d.tap.replace(taps))
	if len(taps) == 0 {
		return d.untap(d.sad.list()...)
	}
	for _, a := range d.sad.list() {
		if t := a.tapped.Load(); t != nil && t.on.Load() {
			t.settle()
		}
	}
	return nil
}

// listenTap opens the taps; none on a device that packets do not come by in this way: one that is not
// Ethernet, or a part of a bridge, a bond or a VRF.
func (d *Device) listenTap() ([]*underlay.Tap, error) {
	link, err := d.nl.LinkByName(d.link.name)
	if err != nil {
		return nil, err
	}
	at := link.Attrs()
	if at.EncapType != "ether" || at.MasterIndex != 0 {
		return nil, nil
	}
	cfg := d.udp.config
	cfg.Share = min(len(d.crews), mostRaw)
	taps, err := underlay.ListenTap(cfg, at.Index, at.MTU)
	for i, tap := range taps {
		in := newInbound(d, false, d.writeTUN(d.tun.Queues()[i]))
		in.tap = true
		d.crews[i].listen(&socketSource{tap, in})
	}
	return taps, err
}

// closeTaps closes taps once nobody reads them.
func (d *Device) closeTaps(taps []*underlay.Tap) {
	for i, tap := range taps {
		tap.Close()
		d.crews[i].leave()
		tap.TryReceive(make([]underlay.Datagram, 1)) // lets go of what was received last
	}
}

func (t *tapPort) replace(by []*underlay.Tap) (old []*underlay.Tap) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old = t.taps
	for _, tap := range old {
		t.lost += tap.Lost()
	}
	t.taps = by
	return old
}

func (t *tapPort) isOpen() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.taps) > 0
}

// fits reports whether packets of this MTU fit into the rings of the taps, if there are any.
func (t *tapPort) fits(mtu int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.taps) == 0 || mtu <= t.taps[0].Capacity()
}

// overrun is what all taps so far have lost.
func (t *tapPort) overrun() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	lost := t.lost
	for _, tap := range t.taps {
		lost += tap.Lost()
	}
	return lost
}
