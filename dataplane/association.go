package dataplane

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"espalier/esp"
	"espalier/ipsec"
)

// association is one SA at work, or a larval one that has no work yet. What packets need of it is
// in two cache lines, as in policy: with many SAs it is those that packets pay for. The first line
// finds an SA and tells whether it will do, the second one counts.
type association struct {
	blemishes  blemishes
	anyTraffic bool // its selector matches all
	mode       ipsec.Mode
	queue      uint16 // 1 and the number of the TUN queue that it sends for; 0: for all
	id         ipsec.SAID
	out        *esp.Outbound // nil for an inbound or larval SA
	in         *esp.Inbound  // nil for an outbound or larval SA
	encap      atomic.Pointer[encapsulation]

	carriage
	// sending makes numbers leave in the order in which they were reserved, so that a
	// receiver with a small window never sees its own peer as a replay.
	sending sync.Mutex
	*particulars
}

// blemishes are what an SA has that is not the best choice for outbound packets.
type blemishes struct{ bits atomic.Uint32 }

const (
	superseded = 1 << iota // it is not the newest of its candidates, or was not once
	dying                  // a soft limit was reached: others are preferred
	spent                  // a hard limit was: it carries nothing more
)

func (b *blemishes) none() bool                  { return b.bits.Load() == 0 }
func (b *blemishes) has(which uint32) bool       { return b.bits.Load()&which != 0 }
func (b *blemishes) clear(which uint32)          { b.bits.And(^which) }
func (b *blemishes) add(which uint32) (was bool) { return b.bits.Or(which)&which != 0 }

// particulars are what packets seldom need of an SA.
type particulars struct {
	sa       parameters
	pmtu     pmtu // beside what else a packet needs of particulars
	progress progress
	path     path
	lifetime
	keepalive    keepalive
	mapping      mapping
	sums         natSums
	exhausted    sync.Once    // says so, once
	order        uint64       // larger is newer
	older, newer *association // in the SAD: candidates for the same

	errand errand // to tend it
	tapped atomic.Pointer[tapped]
	// Guarded by Device.control.
	timer *time.Timer
	gone  bool // out of the SAD
}

// parameters are what an SA was added with and keeps: see ipsec.SA.
type parameters struct {
	Src, Dst         netip.Addr
	SPI              ipsec.SPI
	RequestID        uint32
	AcquireID        uint32
	Window           uint32
	Selector         *ipsec.Selector // never nil
	device           int32           // that it is offloaded to, as ipsec.Offload has it
	keyLen, icvBytes uint8
	offloadMode      ipsec.OffloadMode
	offloadDirection ipsec.Direction
	Mode             ipsec.Mode
	Direction        ipsec.Direction
	ESN, Larval      bool
}

// everything is the selector of most SAs.
var everything ipsec.Selector

func parametersOf(sa *ipsec.SA) parameters {
	p := parameters{
		Src: sa.Src, Dst: sa.Dst, SPI: sa.SPI, RequestID: sa.RequestID, AcquireID: sa.AcquireID, Window: sa.Window,
		Selector: &everything, keyLen: uint8(sa.Key.Len()), icvBytes: uint8(sa.ICVBits / 8),
		Mode: sa.Mode, Direction: sa.Direction, ESN: sa.ESN, Larval: sa.Larval,
		device: int32(sa.Offload.Interface), offloadMode: sa.Offload.Mode, offloadDirection: sa.Offload.Direction,
	}
	if sa.Selector != everything {
		selector := sa.Selector
		p.Selector = &selector
	}
	return p
}

// ID is the identity of the SA in a SAD.
func (p *parameters) ID() ipsec.SAID { return ipsec.SAID{Dst: p.Dst, SPI: p.SPI} }

// read is the SA without what changes by itself. Its key is all zero.
func (p *parameters) read() ipsec.SA {
	sa := ipsec.SA{
		Src: p.Src, Dst: p.Dst, SPI: p.SPI, RequestID: p.RequestID, AcquireID: p.AcquireID, Window: p.Window,
		Selector: *p.Selector, ICVBits: 8 * int(p.icvBytes),
		Mode: p.Mode, Direction: p.Direction, ESN: p.ESN, Larval: p.Larval,
		Offload: ipsec.Offload{Mode: p.offloadMode, Interface: int(p.device), Direction: p.offloadDirection},
	}
	if p.keyLen > 0 {
		sa.Key = ipsec.NewKey(make([]byte, p.keyLen))
	}
	return sa
}

// directionOf is the direction an SA works in: one that names none has that of its offload.
func directionOf(sa *ipsec.SA) ipsec.Direction {
	if sa.Direction == ipsec.AnyDirection && sa.Offload.Mode != ipsec.NoOffload {
		return sa.Offload.Direction
	}
	return sa.Direction
}

// queueOf is the queue that an SA sends for, as association has it.
func queueOf(sa *ipsec.SA) uint16 {
	if sa.CPU == nil {
		return 0
	}
	return uint16(*sa.CPU) + 1
}

// newState is an SA that does nothing yet.
func newState(lines *slab[association], sa *ipsec.SA, added time.Time) *association {
	a := lines.new()
	a.mode, a.id, a.anyTraffic, a.queue = sa.Mode, sa.ID(), sa.Selector == everything, queueOf(sa)
	a.particulars = &particulars{sa: parametersOf(sa)}
	a.added = added
	a.keepalive.interval, a.mapping.age = sa.NATKeepalive, sa.MappingAge
	a.progress.notify(sa.Notice)
	a.start(sa.Limits)
	return a
}

func newAssociation(lines *slab[association], sa ipsec.SA, e *encapsulation, n *nonces) (*association, error) {
	a := newState(lines, &sa, time.Now())
	a.encap.Store(e)
	dir := directionOf(&sa)
	var err error
	if dir != ipsec.Inbound {
		if a.out, err = esp.NewOutbound(&sa); err != nil {
			return nil, err
		}
		a.out.Share(n.numbers(sa.Key))
	}
	if dir != ipsec.Outbound {
		if a.in, err = esp.NewInbound(&sa); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// numbers are the last sequence number sent and the highest received.
func (a *association) numbers() (sent, received uint64) {
	if a.out != nil {
		sent = a.out.Sent()
	}
	if a.in != nil {
		received = a.in.Highest()
	}
	return sent, received
}

// read is the SA as a SAD reads it back: its key all zero.
func (a *association) read() ipsec.SA {
	sa := a.sa.read()
	if e := a.encap.Load(); e != nil {
		ports := e.ports
		sa.Encap = &ports
	}
	if a.queue != 0 {
		cpu := uint32(a.queue) - 1
		sa.CPU = &cpu
	}
	sa.NATKeepalive, sa.MappingAge = a.keepalive.interval, a.mapping.age
	a.mu.Lock()
	sa.Limits, sa.Notice = *a.limits, a.progress.notice.Load()
	c := ipsec.Counters{Added: a.added}
	a.mu.Unlock()
	c.Bytes, c.Packets = a.bytes.Load(), a.packets.Load()
	c.Used, c.LastUsed = notBefore(c.Added, unixTime(a.used.Load())), notBefore(c.Added, unixTime(a.last.Load()))
	if a.out != nil {
		c.Sent = a.out.Sent()
	}
	if a.in != nil {
		got := a.in.Counters()
		c.Received, c.Bitmap = got.Received, got.Bitmap
		c.ReplayDrops, c.WindowDrops, c.IntegrityDrops = got.ReplayDrops, got.WindowDrops, got.IntegrityDrops
	}
	sa.Counters = c
	return sa
}

// retire keeps the keeper from an SA that has left the SAD, and wipes its keys. A packet still
// under way with them is dropped. Device.control is held.
func (a *association) retire() {
	a.gone = true
	a.path.forsake()
	if a.timer != nil {
		a.timer.Stop()
	}
	if a.out != nil {
		a.out.Wipe()
	}
	if a.in != nil {
		a.in.Wipe()
	}
}

// checkSA refuses what this device does not do. What no engine does, package esp refuses.
func (d *Device) checkSA(sa *ipsec.SA) error {
	switch {
	case !sa.Src.IsValid() || !sa.Dst.IsValid() || sa.Src.Is4() != sa.Dst.Is4():
		return fmt.Errorf("%w: source and destination must be addresses of one family", ipsec.ErrInvalid)
	case sa.Dst.IsUnspecified() || sa.Dst.IsMulticast():
		return fmt.Errorf("%w: destination %s is not a host", ipsec.ErrInvalid, sa.Dst)
	case sa.Mode != ipsec.Transport && sa.Mode != ipsec.Tunnel:
		return fmt.Errorf("%w: mode %s", ipsec.ErrUnsupported, sa.Mode)
	case sa.Selector.Interface != 0:
		return fmt.Errorf("%w: a selector with an interface", ipsec.ErrUnsupported)
	case sa.CPU != nil && sa.Direction == ipsec.AnyDirection:
		return fmt.Errorf("%w: an SA for one CPU needs a direction", ipsec.ErrInvalid)
	case sa.CPU != nil && *sa.CPU >= uint32(len(d.senders)):
		return fmt.Errorf("pCPU number too big: CPUs are queues here, and their numbers end before %d: %w", len(d.senders), ipsec.ErrRange)
	case sa.Direction == ipsec.Outbound && sa.Window != 0 && !sa.ESN:
		return fmt.Errorf("%w: an outbound SA has no replay window: leave replay-window out", ipsec.ErrInvalid)
	case sa.Encap != nil && (sa.Encap.SrcPort == 0 || sa.Encap.DstPort == 0):
		return fmt.Errorf("%w: UDP encapsulation needs both ports", ipsec.ErrInvalid)
	case sa.NATKeepalive != 0 && (sa.Encap == nil || sa.Direction != ipsec.Outbound):
		return fmt.Errorf("%w: NAT keepalives are for outbound SAs with UDP encapsulation", ipsec.ErrInvalid)
	case sa.MappingAge != 0 && (sa.Encap == nil || sa.Direction == ipsec.Outbound):
		return fmt.Errorf("%w: the age of a mapping is for inbound SAs with UDP encapsulation", ipsec.ErrInvalid)
	case sa.NATKeepalive < 0 || sa.MappingAge < 0 || sa.NATKeepalive%time.Second != 0 || sa.MappingAge%time.Second != 0:
		return fmt.Errorf("%w: NAT keepalives and mappings go by whole seconds", ipsec.ErrInvalid)
	}
	return d.checkOffload(sa)
}

func (d *Device) checkOffload(sa *ipsec.SA) error {
	o := &sa.Offload
	switch {
	case o.Mode == ipsec.NoOffload:
		return nil
	case o.Mode == ipsec.PacketOffload:
		return fmt.Errorf("%w: packet offload; this device offers crypto offload", ipsec.ErrUnsupported)
	case int64(o.Interface) != d.link.index.Load():
		return fmt.Errorf("%w: offload to interface %d; this device stands behind %s (%d)", ipsec.ErrInvalid, o.Interface, d.link.name, d.link.index.Load())
	case sa.Direction != ipsec.AnyDirection && sa.Direction != o.Direction:
		return fmt.Errorf("%w: Mismatched SA and offload direction", ipsec.ErrInvalid)
	}
	return nil
}
