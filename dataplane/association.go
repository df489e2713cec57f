package dataplane

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"espalier/esp"
	"espalier/ipsec"
)

// association is one SA at work, or a larval one that has no work yet. As in policy, what every
// packet needs comes first.
type association struct {
	// superseded tells that it is not the newest of its candidates, or was not once.
	superseded atomic.Bool
	anyTraffic bool       // its selector matches all
	mode       ipsec.Mode // that of sa
	lifetime

	sa    ipsec.SA // as added, its key wiped; Encap and Limits are kept apart
	order uint64   // larger is newer

	out *esp.Outbound // nil for an inbound or larval SA
	in  *esp.Inbound  // nil for an outbound or larval SA

	// sending makes numbers leave in the order in which they were reserved, so that a
	// receiver with a small window never sees its own peer as a replay.
	sending   sync.Mutex
	exhausted sync.Once // says so, once

	encap    atomic.Pointer[encapsulation]
	progress progress

	errand errand // to tend it
	// Guarded by Device.control.
	timer *time.Timer
	gone  bool // out of the SAD
}

// directionOf is the direction an SA works in: one that names none has that of its offload.
func directionOf(sa *ipsec.SA) ipsec.Direction {
	if sa.Direction == ipsec.AnyDirection && sa.Offload.Mode != ipsec.NoOffload {
		return sa.Offload.Direction
	}
	return sa.Direction
}

func newAssociation(sa ipsec.SA, e *encapsulation, n *nonces) (*association, error) {
	a := &association{sa: sa, mode: sa.Mode, anyTraffic: sa.Selector == (ipsec.Selector{})}
	a.encap.Store(e)
	a.added = time.Now()
	a.start(sa.Limits)
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

func newLarva(sa ipsec.SA, added time.Time) *association {
	a := &association{sa: sa}
	a.added = added
	a.start(sa.Limits)
	return a
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
	sa := a.sa
	if e := a.encap.Load(); e != nil {
		sa.Encap = &ipsec.Encap{SrcPort: e.ports.SrcPort, DstPort: e.ports.DstPort}
	}
	a.mu.Lock()
	sa.Limits, sa.Notice = a.limits, a.progress.notice.Load()
	c := ipsec.Counters{Added: a.added}
	a.mu.Unlock()
	c.Bytes, c.Packets = a.bytes.Load(), a.packets.Load()
	c.Used, c.LastUsed = unixTime(a.used.Load()), unixTime(a.last.Load())
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
