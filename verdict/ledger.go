package verdict

import (
	"fmt"
	"time"

	"espalier/ipsec"
)

// ledgerID names what a NIC counts together.
type ledgerID struct {
	ifindex   int
	direction ipsec.Direction
}

// ledger sets what a device has counted against what its SAs have.
type ledger struct {
	ledgerID
	e      *Evidence
	device *Device // nil: nothing is known of it
	trust  Trust

	// What the device counted in the interval.
	done, dropped, link, lost span

	past    []entry // SAs whose packets are shown to have gone past the NIC
	through []entry // all others
	sent    uint64  // packets of those, but for what the CPU was seen to do
	watched bool    // the CPU was watched
	// unsteady: SAs came or went, so that what the SAs have sent is not known to the last packet.
	unsteady bool
}

// entry is one SA in the books.
type entry struct {
	sa     *SA
	index  int // in Evidence.SAs
	moved  uint64
	byCPU  uint64 // of those, what the kernel's own ESP was seen to do
	reason Reason // of SOFTWARE, for one that went past
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

func newLedger(e *Evidence, id ledgerID) *ledger {
	l := &ledger{ledgerID: id, e: e, device: e.device(id.ifindex)}
	for _, g := range e.Gone {
		l.unsteady = l.unsteady || g == Gone{id.ifindex, id.direction}
	}
	if d := l.device; d != nil {
		l.trust = TrustIn(d.Driver)
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

// unbounded is the upper end of what a counter grew by that was reset.
const unbounded = ^uint64(0)

func growth(n [4]uint64) span {
	if n[1] < n[0] || n[2] < n[1] || n[3] < n[2] {
		return span{0, unbounded}
	}
	return span{n[2] - n[1], n[3] - n[0]}
}

// enter puts an SA into the books.
func (l *ledger) enter(sa *SA, index int) {
	n := entry{sa: sa, index: index, moved: sa.Moved()}
	if n.reason, n.why = l.wentPast(sa); n.reason != "" {
		l.past = append(l.past, n)
		return
	}
	if sa.CPU != nil {
		l.watched = true
		n.byCPU = min(sa.CPU.Low, n.moved)
	}
	l.through = append(l.through, n)
	l.sent += n.moved - n.byCPU
	l.unsteady = l.unsteady || sa.Changed && n.moved > 0
}

// wentPast tells why the packets of an SA cannot have been the NIC's to encrypt, "" if nothing says
// so. For crypto offload the kernel decides packet by packet (xfrm_dev_offload_ok, esp_xmit), and
// encrypts itself whatever it cannot hand over. Of packet offload there is no such fall-back.
func (l *ledger) wentPast(sa *SA) (Reason, string) {
	d := l.device
	if d == nil || sa.Offload.Mode != ipsec.CryptoOffload {
		return "", ""
	}
	out := l.direction == ipsec.Outbound
	switch {
	case sa.CPU != nil && sa.CPU.Low > 0 && sa.CPU.Low+l.late(sa) >= sa.worked():
		return KernelESP, fmt.Sprintf("offloaded to %s, but the kernel's own ESP did %s", d.Name, packets(sa.worked()))
	case out && sa.Route != 0 && sa.Route != d.Index:
		return RoutedElsewhere, fmt.Sprintf("offloaded to %s, but its packets leave by %s", d.Name, l.routeName(sa.Route))
	case out && d.ESP[0] == FeatureOff && d.ESP[1] == FeatureOff:
		return SwitchedOff, fmt.Sprintf("esp-hw-offload of %s is off: the kernel encrypts each packet itself", d.Name)
	case d.Problem == "" && d.Up && d.Carrier && l.link.high == 0 && l.done.high == 0 && l.dropped.high == 0 && l.lost.high == 0:
		verb := "sent"
		if !out {
			verb = "received"
		}
		return LinkStill, fmt.Sprintf("%s has %s nothing at all: the packets go another way", d.Name, verb)
	}
	return "", ""
}

// routeName is the device that packets leave by, and what it has to do with the SA's.
func (l *ledger) routeName(index int) string {
	via := l.e.device(index)
	switch {
	case via == nil:
		return fmt.Sprintf("interface %d", index)
	case via.Kind != "" && via.Lower == l.device.Name:
		return fmt.Sprintf("%s, a %s on it, which the kernel does not offload for", via.Name, via.Kind)
	}
	return via.Name
}

// underWay is how long a packet may be under way between the stack, which numbers it, and the NIC,
// which counts it: in the queue of the device and in that of its driver.
const underWay = 5 * time.Millisecond

// refreshed is how old the counts of packet offload may be, which mlx5_core brings up to date about
// once in this time.
const refreshed = time.Second

// allowance is how many packets may have been under way when the books were opened or closed, at the
// rate of the interval.
func (l *ledger) allowance() uint64 {
	delay := underWay
	for _, n := range l.through {
		if n.sa.Offload.Mode == ipsec.PacketOffload {
			delay = refreshed
		}
	}
	return l.within(l.sent, delay)
}

// late is how many packets of one SA may have been under way.
func (l *ledger) late(sa *SA) uint64 { return l.within(sa.Moved(), underWay) }

func (l *ledger) within(n uint64, delay time.Duration) uint64 {
	return uint64(float64(n) * delay.Seconds() / max(l.e.Interval, time.Millisecond).Seconds())
}
