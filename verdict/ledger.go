package verdict

import (
	"fmt"
	"math/bits"
	"time"

	"espalier/ipsec"
)

// ledgerID names what a NIC counts together.
type ledgerID struct {
	counter   string // the device that counts
	direction ipsec.Direction
}

// ledger sets what a device has counted against what its SAs have.
//
// A NIC counts the packets of all its SAs together. What it must have done of one SA's, and can have
// done, follows from how many the others can have taken of its count at the most: see share. Nothing
// is assumed of how the packets of several SAs are spread.
type ledger struct {
	ledgerID
	e      *Evidence
	device *Device // nil: nothing is known of it
	trust  Trust

	// What the device counted of its SAs' packets.
	done, dropped, link, lost span

	entries []entry
	room    uint64 // packets that the NIC can have done: all but those that the CPU was seen to do
	// open: somebody besides may have had packets, nobody knows how many. Then none of those that the NIC
	// has counted need be those of an SA in the books.
	open bool
}

// entry is one SA in the books.
type entry struct {
	sa     *SA
	index  int     // in Evidence.SAs
	device *Device // that it is offloaded to; nil: nothing is known of it
	moved  span    // its packets
	most   uint64  // of these, those that the NIC can have done
	past   Reason  // why its packets should not have been the NIC's; "": nothing says so
	why    string
}

// span is a number that is known to be between two.
type span struct{ low, high uint64 }

func (s span) String() string {
	if s.low == s.high {
		return digits(s.low)
	}
	return digits(s.low) + "–" + digits(s.high)
}

// unbounded is the upper end of what a counter grew by that was reset.
const unbounded = ^uint64(0)

// idOf finds the ledger of a device's SAs: a bond and its active port have one counter.
func (e *Evidence) idOf(ifindex int, direction ipsec.Direction) ledgerID {
	d := e.device(ifindex)
	switch {
	case d == nil:
		return ledgerID{fmt.Sprint("interface ", ifindex), direction}
	case d.Kind == "bond":
		return ledgerID{d.Lower, direction}
	}
	return ledgerID{d.Name, direction}
}

func newLedger(e *Evidence, id ledgerID, device *Device) *ledger {
	l := &ledger{ledgerID: id, e: e, device: device}
	for _, g := range e.Gone {
		switch {
		case e.idOf(g.Device, g.Direction) != id:
		case g.Packets == nil:
			l.open = true
		default:
			l.room += *g.Packets
		}
	}
	for i := range e.Devices {
		l.open = l.open || e.Devices[i].Shifted // its SAs had another port, too
	}
	if device != nil {
		l.trust = TrustIn(device.Driver)
		l.done = l.span(func(t *Tally) uint64 { return t.ESP })
		l.dropped = l.span(func(t *Tally) uint64 { return t.Dropped })
		l.link = l.span(func(t *Tally) uint64 { return t.Link })
		l.lost = l.span(func(t *Tally) uint64 { return t.Lost })
	}
	return l
}

// span is by how much a counter grew while the SAs' own did. Those were read between the first and
// the second reading, and between the third and the fourth. One that went backwards was reset: it
// has no upper end.
func (l *ledger) span(of func(*Tally) uint64) span {
	var n [4]uint64
	for i := range n {
		r := &l.device.Readings[i]
		if l.direction == ipsec.Inbound {
			n[i] = of(&r.Received)
		} else {
			n[i] = of(&r.Sent)
		}
	}
	return growth(n)
}

func growth(n [4]uint64) span {
	if n[1] < n[0] || n[2] < n[1] || n[3] < n[2] {
		return span{0, unbounded}
	}
	return span{n[2] - n[1], n[3] - n[0]}
}

// given is what the NIC was handed of its SAs' packets: outbound it may drop one of them.
func (l *ledger) given() span {
	if l.device == nil || !l.device.Counts {
		return span{0, unbounded}
	}
	if l.direction == ipsec.Inbound {
		return l.done
	}
	high, over := bits.Add64(l.done.high, l.dropped.high, 0)
	if over != 0 {
		high = unbounded
	}
	return span{l.done.low + l.dropped.low, high}
}

// refreshed is how old the counts of packet offload may be, which mlx5_core brings up to date about
// once in this time.
const refreshed = time.Second

// enter puts an SA into the books.
func (l *ledger) enter(sa *SA, index int) {
	n := entry{sa: sa, index: index, device: l.e.device(sa.Offload.Interface)}
	moved := sa.Moved()
	n.moved = span{moved, moved}
	if sa.Offload.Mode == ipsec.PacketOffload {
		old := uint64(float64(moved) * refreshed.Seconds() / max(l.e.Interval, time.Millisecond).Seconds())
		n.moved = span{moved - min(old, moved), moved + old}
		// One that has never counted anything may be a kernel's that does not tell.
		l.open = l.open || sa.After.Packets == 0 && sa.After.Sequence == 0
	}
	n.most = n.moved.high
	if sa.CPU != nil {
		n.most -= min(sa.CPU.Low, n.most)
	}
	if n.past, n.why = l.wentPast(&n); n.past == SwitchedOff {
		n.most = 0
	}
	l.room += n.most
	l.entries = append(l.entries, n)
}

// wentPast tells why the packets of an SA should not have been the NIC's to encrypt, "" if nothing says
// so. For crypto offload the kernel decides packet by packet (xfrm_dev_offload_ok, esp_xmit), and
// encrypts itself whatever it cannot hand over. Of packet offload there is no such fall-back.
//
// A route is not the last word: sockets that are bound to a device and rules of routing may send some
// packets another way.
func (l *ledger) wentPast(n *entry) (Reason, string) {
	d, sa := n.device, n.sa
	if d == nil || sa.Offload.Mode != ipsec.CryptoOffload {
		return "", ""
	}
	out := l.direction == ipsec.Outbound
	switch {
	case sa.CPU != nil && sa.CPU.High >= sa.worked() && nearly(sa.CPU.Low, sa.worked()):
		return KernelESP, fmt.Sprintf("offloaded to %s, but the kernel's own ESP did %s", d.Name, packets(sa.worked()))
	case out && sa.Route != 0 && sa.Route != d.Index:
		return RoutedElsewhere, fmt.Sprintf("offloaded to %s, but its packets leave by %s", d.Name, l.routeName(d, sa.Route))
	case out && d.ESP[0] == FeatureOff && d.ESP[1] == FeatureOff:
		return SwitchedOff, fmt.Sprintf("esp-hw-offload of %s is off: the kernel encrypts each packet itself", d.Name)
	}
	return "", ""
}

// routeName is the device that packets leave by, and what it has to do with the SA's.
func (l *ledger) routeName(d *Device, index int) string {
	via := l.e.device(index)
	switch {
	case via == nil:
		return fmt.Sprintf("interface %d", index)
	case via.Kind != "" && via.Lower == d.Name:
		return fmt.Sprintf("%s, a %s on it, which the kernel does not offload for", via.Name, via.Kind)
	}
	return via.Name
}

// share is how many packets of one SA the NIC must have done and can have done, however it did the
// others'.
func (l *ledger) share(n *entry) span {
	given := l.given()
	s := span{high: min(n.most, given.high)}
	if others := l.room - n.most; !l.open && given.low > others {
		s.low = min(given.low-others, n.most)
	}
	return s
}

// nearly reports whether part is 99 % of all: what is not known of the rest does not matter.
func nearly(part, all uint64) bool { return part >= all || all-part <= all/100 }
