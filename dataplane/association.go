package dataplane

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"espalier/esp"
	"espalier/ipsec"
)

// association is one SA at work.
type association struct {
	sa    ipsec.SA // as added, its key wiped; Encap is kept apart
	order uint64   // larger is newer
	added time.Time

	out *esp.Outbound // nil for an inbound SA
	in  *esp.Inbound  // nil for an outbound SA

	// sending makes numbers leave in the order in which they were reserved, so that a
	// receiver with a small window never sees its own peer as a replay.
	sending   sync.Mutex
	exhausted sync.Once // says so, once

	encap          atomic.Pointer[encapsulation]
	bytes, packets atomic.Uint64
	used           atomic.Int64 // Unix seconds of the first use, 0: never
}

// directionOf is the direction an SA works in: one that names none has that of its offload.
func directionOf(sa *ipsec.SA) ipsec.Direction {
	if sa.Direction == ipsec.AnyDirection && sa.Offload.Mode != ipsec.NoOffload {
		return sa.Offload.Direction
	}
	return sa.Direction
}

func newAssociation(sa ipsec.SA, e *encapsulation, order uint64, n *nonces) (*association, error) {
	a := &association{sa: sa, order: order, added: time.Now()}
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

// carried counts packets that were sent or delivered, and their ESP payload.
func (a *association) carried(packets, bytes int) {
	a.packets.Add(uint64(packets))
	a.bytes.Add(uint64(bytes))
	if a.used.Load() == 0 {
		a.used.CompareAndSwap(0, time.Now().Unix())
	}
}

// read is the SA as a SAD reads it back: its key all zero.
func (a *association) read() ipsec.SA {
	sa := a.sa
	if e := a.encap.Load(); e != nil {
		sa.Encap = &ipsec.Encap{SrcPort: e.ports.SrcPort, DstPort: e.ports.DstPort}
	}
	c := ipsec.Counters{Bytes: a.bytes.Load(), Packets: a.packets.Load(), Added: a.added}
	if t := a.used.Load(); t != 0 {
		c.Used = time.Unix(t, 0)
	}
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

// retire wipes the keys. A packet still under way with them is dropped.
func (a *association) retire() {
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
	case !sa.Limits.IsZero():
		return fmt.Errorf("%w: lifetimes (the device does not enforce them yet)", ipsec.ErrUnsupported)
	case sa.Direction == ipsec.Outbound && sa.Window != 0 && !sa.ESN:
		return fmt.Errorf("%w: an outbound SA has no replay window: leave replay-window out", ipsec.ErrInvalid)
	case sa.Encap != nil && (sa.Encap.SrcPort == 0 || sa.Encap.DstPort == 0):
		return fmt.Errorf("%w: UDP encapsulation needs both ports", ipsec.ErrInvalid)
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
