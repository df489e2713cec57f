package verdict

import (
	"fmt"

	"espalier/ipsec"
)

// judge closes the books and writes a judgement of each SA in them.
func (l *ledger) judge(into []Judgement) {
	surplus := l.device != nil && l.device.Counts && l.done.low > l.sent+l.allowance()
	for _, n := range l.past {
		into[n.index] = Judgement{Verdict: Software, Reason: n.reason, Why: n.why}
		if surplus {
			into[n.index] = Judgement{Verdict: Unknown, Reason: Surplus, Why: n.why + "; yet " + l.counted()}
		}
	}
	common := l.balance(surplus)
	for _, n := range l.through {
		switch {
		case n.moved == 0 && common.Reason != Uncounted:
			into[n.index] = idle()
		case common.Reason == Balanced && n.byCPU > l.late(n.sa):
			into[n.index] = Judgement{Verdict: Mixed, Reason: Partly,
				Why: fmt.Sprintf("%s; the kernel's own ESP did %s of %s of this SA", l.counted(), digits(n.byCPU), packets(n.moved))}
		case common.Reason == SomeOfThem:
			into[n.index] = l.share(&n)
		default:
			into[n.index] = common
		}
	}
}

// balance judges the SAs that may have gone through the NIC, all alike.
func (l *ledger) balance(surplus bool) Judgement {
	d := l.device
	unknown := func(r Reason, format string, args ...any) Judgement {
		return Judgement{Verdict: Unknown, Reason: r, Why: fmt.Sprintf(format, args...)}
	}
	switch {
	case d == nil:
		return unknown(NotAsked, "offloaded to interface %d, which is not there", l.ifindex)
	case d.Problem != "":
		return unknown(NotAsked, "%s could not be asked: %s", d.Name, d.Problem)
	case d.Shifted:
		return unknown(NotAsked, "%s changed its active port meanwhile", d.Name)
	case d.Counts && (l.done.high == unbounded || l.dropped.high == unbounded):
		return unknown(NotAsked, "the counters of %s were reset meanwhile", d.Name)
	case !d.Counts && l.trust == Emulation:
		return Judgement{Verdict: Emulated, Reason: Simulated, Why: fmt.Sprintf("offloaded to %s, whose driver %s only plays a NIC", d.Name, d.Driver)}
	case !d.Counts:
		return unknown(NoCounters, "%s (%s) does not count what it encrypts: nobody knows who did", d.Name, orNone(d.Driver))
	case l.sent == 0 && l.done.low > 0:
		return unknown(Uncounted, "%s; this kernel does not tell of which SAs of packet offload", l.counted())
	case l.sent == 0:
		return idle()
	case (!d.Up || !d.Carrier) && l.done.high == 0:
		return unknown(NoCarrier, "%s has no carrier: what is sent is lost", d.Name)
	case surplus && l.unsteady:
		return unknown(CameOrWent, "%s of %s of its SAs: others came or went meanwhile", l.counted(), digits(l.sent))
	case surplus:
		return unknown(Surplus, "%s, but its SAs had only %s: somebody else's, or made up", l.counted(), digits(l.sent))
	}
	return l.weigh()
}

// weigh compares what the NIC did with what its SAs had, once both are known.
func (l *ledger) weigh() Judgement {
	d, allowance := l.device, l.allowance()
	j := Judgement{Verdict: Unknown}
	out := l.direction == ipsec.Outbound
	done := l.done.high
	if out { // what it dropped it had been given, too
		done += l.dropped.high
	}
	switch missing := l.sent - min(done, l.sent); {
	case l.done.high == 0 && out && missing <= allowance:
		j.Reason, j.Why = Dropped, fmt.Sprintf("%s dropped all of %s", d.Name, packets(l.sent))
	case l.done.high == 0 && l.watched:
		j.Reason, j.Why = Nobody, fmt.Sprintf("%s counted none of %s, and the kernel's own ESP was not seen to do them", d.Name, packets(l.sent))
		j.Unchecked = []string{"whether packets leave in clear: `espalier verify` tells"}
	case l.done.high == 0:
		j.Reason, j.Why = StoodStill, fmt.Sprintf("%s counted none of %s: the kernel did them (IPv4 options, larger than the MTU), or nobody", d.Name, packets(l.sent))
		j.Unchecked = []string{"who did: `espalier verify` tells, or --probe"}
	case missing > allowance && l.unsteady:
		j.Reason, j.Why = CameOrWent, fmt.Sprintf("%s of %s of its SAs: some came or went meanwhile", l.counted(), digits(l.sent))
	case missing > allowance && out && missing-allowance <= l.lost.high:
		j.Reason, j.Why = Lost, fmt.Sprintf("%s of %s of its SAs, and %s were lost in its queue", l.counted(), digits(l.sent), digits(l.lost.high))
	case missing > allowance:
		j.Reason = SomeOfThem // share says more
	case l.done.high-l.done.low > l.sent/10+allowance:
		j.Reason, j.Why = Coarse, fmt.Sprintf("%s, and its SAs had %s: too much passed while they were read; a longer --interval helps", l.counted(), digits(l.sent))
	case l.trust == Stranger:
		j.Reason, j.Why = Strange, fmt.Sprintf("%s, as many as its SAs had; but nobody has looked yet at what counters of %s are worth", l.counted(), orNone(d.Driver))
	default:
		return l.balanced()
	}
	return j
}

// balanced is the judgement of books that balance.
func (l *ledger) balanced() Judgement {
	j := Judgement{Verdict: Hardware, Reason: Balanced, Why: l.counted()}
	switch {
	case l.done == span{l.sent, l.sent} && len(l.through) == 1:
		j.Why += ", every one of the SA's"
	case l.done == span{l.sent, l.sent}:
		j.Why += ", every one of its SAs'"
	default:
		j.Why += fmt.Sprintf(", its SAs had %s: the same, but for what passed while they were read", digits(l.sent))
	}
	if l.dropped.high > 0 && l.direction == ipsec.Outbound {
		j.Why += fmt.Sprintf("; it dropped %s", digits(l.dropped.high))
	}
	j.Unchecked = []string{"whether the NIC's counters are true: `espalier verify` asks the peer"}
	if !l.watched {
		j.Unchecked = append(j.Unchecked, "whether the kernel's own ESP was at work besides: --probe")
	}
	for _, n := range l.through {
		if n.sa.Offload.Mode == ipsec.PacketOffload {
			j.Unchecked = append(j.Unchecked, "the SA's packets: with packet offload that count is the NIC's own, too")
			break
		}
	}
	if l.trust == Emulation {
		j.Verdict = Emulated
		j.Why += "; but its driver " + l.device.Driver + " only plays a NIC"
		j.Unchecked = nil
	}
	return j
}

// share judges one SA when the NIC has done some of the packets of all: what it must have done and
// can have done of this SA's, however it did the others'.
func (l *ledger) share(n *entry) Judgement {
	allowance := l.allowance()
	others := l.sent - (n.moved - n.byCPU)
	least := l.done.low - min(others, l.done.low)
	most := min(n.moved, l.done.high)
	if least > allowance && n.moved-most > allowance && l.trust != Stranger {
		return Judgement{Verdict: Mixed, Reason: Partly,
			Why:       fmt.Sprintf("%s %s %s of %s of the SA; the kernel does what it cannot hand over: IPv4 options, larger than the MTU", l.device.Name, l.verbed(), span{least, most}, packets(n.moved)),
			Unchecked: []string{"who did the others: `espalier verify` tells, or --probe"}}
	}
	return Judgement{Verdict: Unknown, Reason: SomeOfThem,
		Why:       fmt.Sprintf("%s of %s of its SAs; which is not known", l.counted(), digits(l.sent)),
		Unchecked: []string{"who did the others: `espalier verify` tells, or --probe"}}
}

// counted says what the device did: "p4p1 encrypted 5,977 packets".
func (l *ledger) counted() string {
	if l.done == (span{1, 1}) {
		return l.device.Name + " " + l.verbed() + " 1 packet"
	}
	return fmt.Sprintf("%s %s %s packets", l.device.Name, l.verbed(), l.done)
}

func (l *ledger) verbed() string { return l.verb() + "ed" }

func (l *ledger) verb() string {
	if l.direction == ipsec.Inbound {
		return "decrypt"
	}
	return "encrypt"
}

func orNone(driver string) string {
	if driver == "" {
		return "no driver"
	}
	return driver
}
