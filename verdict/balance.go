package verdict

import (
	"fmt"
	"math"
	"time"

	"espalier/ipsec"
)

// judge closes the books and writes a judgement of each SA in them.
func (l *ledger) judge(into []Judgement) {
	for i := range l.entries {
		n := &l.entries[i]
		c := &account{ledger: l, n: n, share: l.share(n)}
		for _, r := range rules {
			if r.when(c) {
				into[n.index] = Judgement{r.verdict, r.reason, r.why(c), r.unchecked}
				break
			}
		}
		if j := &into[n.index]; j.Verdict == Hardware {
			j.Unchecked = c.unchecked()
		}
	}
}

// account is one SA in its ledger.
type account struct {
	*ledger
	n     *entry
	share span // of its packets, those that were the NIC's
}

// rule is a judgement and when it is given.
type rule struct {
	verdict   Verdict
	reason    Reason
	when      func(*account) bool
	why       func(*account) string
	unchecked []string
}

// rules are tried one after the other: the first that applies is the judgement, the last always does.
//
// Those of HARDWARE, SOFTWARE and MIXED go by the SA's share, which is certain; what stands before them
// is where the counters are worth nothing.
var rules = []rule{
	{Unknown, Uncounted, (*account).uncounted, func(c *account) string {
		return c.counted() + "; this kernel does not tell of which SAs of packet offload"
	}, nil},
	{Idle, NoPacket, func(c *account) bool { return c.n.moved.high == 0 }, func(*account) string { return idle().Why }, nil},
	{Unknown, NotAsked, func(c *account) bool { return c.n.device == nil }, func(c *account) string {
		return fmt.Sprintf("offloaded to interface %d, which is not there", c.n.sa.Offload.Interface)
	}, nil},
	{Unknown, NotAsked, func(c *account) bool { return c.n.device.Problem != "" }, func(c *account) string {
		return fmt.Sprintf("%s could not be asked: %s", c.n.device.Name, c.n.device.Problem)
	}, nil},
	{Unknown, NotAsked, func(c *account) bool { return c.n.device.Shifted }, func(c *account) string {
		return c.n.device.Name + " changed its active port meanwhile"
	}, nil},
	{Unknown, NotAsked, func(c *account) bool {
		return c.device.Counts && (c.done.high == unbounded || c.dropped.high == unbounded)
	}, func(c *account) string { return fmt.Sprintf("the counters of %s were reset meanwhile", c.device.Name) }, nil},
	{Unknown, Surplus, func(c *account) bool { return c.n.past != "" && (c.share.low > 0 || c.surplus() && !c.open) },
		func(c *account) string { return c.n.why + "; yet " + c.counted() }, nil},
	{Software, KernelESP, func(c *account) bool { return c.n.past == KernelESP && c.few() },
		func(c *account) string { return c.n.why }, nil},
	{Software, RoutedElsewhere, func(c *account) bool { return c.n.past == RoutedElsewhere && c.share.high == 0 },
		func(c *account) string { return c.n.why }, nil},
	{Software, SwitchedOff, func(c *account) bool { return c.n.past == SwitchedOff },
		func(c *account) string { return c.n.why }, nil},
	{Emulated, Simulated, func(c *account) bool { return !c.device.Counts && c.trust == Emulation }, func(c *account) string {
		return fmt.Sprintf("offloaded to %s, whose driver %s only plays a NIC", c.device.Name, c.device.Driver)
	}, nil},
	{Unknown, NoCounters, func(c *account) bool { return !c.device.Counts }, func(c *account) string {
		why := fmt.Sprintf("%s (%s) does not count what it encrypts: nobody knows who did", c.device.Name, orNone(c.device.Driver))
		if c.n.past != "" {
			why = c.n.why + "; but " + why
		}
		return why
	}, nil},
	{Unknown, NoCarrier, func(c *account) bool { return (!c.device.Up || !c.device.Carrier) && c.done.high == 0 },
		func(c *account) string { return c.device.Name + " has no carrier: what is sent is lost" }, nil},
	{Unknown, CameOrWent, func(c *account) bool { return c.surplus() && c.unsteady() }, (*account).cameOrWent, nil},
	{Unknown, Surplus, (*account).surplus, func(c *account) string {
		return fmt.Sprintf("%s, but its SAs had only %s: somebody else's, or made up", c.counted(), digits(c.room))
	}, nil},
	{Unknown, Dropped, func(c *account) bool {
		return c.done.high == 0 && c.direction == ipsec.Outbound && c.dropped.low > 0 && nearly(c.dropped.high, c.room)
	}, func(c *account) string { return fmt.Sprintf("%s dropped all of %s", c.device.Name, packets(c.room)) }, nil},
	{Unknown, LinkStill, func(c *account) bool {
		return c.done.high == 0 && c.n.sa.CPU == nil && c.link.high == 0 && c.dropped.high == 0 && c.lost.high == 0
	}, func(c *account) string {
		if c.direction == ipsec.Inbound {
			return c.device.Name + " has received nothing at all: the packets came another way"
		}
		return c.device.Name + " has sent nothing at all: the packets went another way, or were lost before it (no neighbour, a packet filter)"
	}, []string{whoDid}},
	{Unknown, Nobody, func(c *account) bool { return c.done.high == 0 && c.n.sa.CPU != nil }, func(c *account) string {
		return fmt.Sprintf("%s counted none of %s, and the kernel's own ESP was not seen to do them", c.device.Name, packets(c.n.most))
	}, []string{"whether packets leave in clear: `espalier verify` tells"}},
	{Unknown, StoodStill, func(c *account) bool { return c.done.high == 0 }, func(c *account) string {
		return fmt.Sprintf("%s counted none of %s: the kernel did them (IPv4 options, larger than the MTU), or nobody", c.device.Name, packets(c.n.most))
	}, []string{whoDid}},
	{Unknown, Strange, func(c *account) bool { return c.all() && c.trust == Stranger }, func(c *account) string {
		return fmt.Sprintf("%s, as many as its SAs had; but nobody has looked yet at what counters of %s are worth", c.counted(), orNone(c.device.Driver))
	}, nil},
	{Emulated, Balanced, func(c *account) bool { return c.all() && c.trust == Emulation }, func(c *account) string {
		return c.balanced() + "; but its driver " + c.device.Driver + " only plays a NIC"
	}, nil},
	{Hardware, Balanced, (*account).all, (*account).balanced, nil},
	{Unknown, CameOrWent, (*account).unsteady, (*account).cameOrWent, nil},
	{Unknown, Lost, func(c *account) bool {
		missing := c.room - min(c.given().high, c.room)
		return c.direction == ipsec.Outbound && missing > 0 && missing <= c.lost.high
	}, func(c *account) string {
		return fmt.Sprintf("%s of %s of its SAs, and %s were lost in its queue", c.counted(), digits(c.room), digits(c.lost.high))
	}, nil},
	{Mixed, Partly, func(c *account) bool { return c.some() && c.n.sa.CPU != nil && c.n.sa.CPU.Low > 0 }, func(c *account) string {
		return fmt.Sprintf("%s; the kernel's own ESP did %s of %s of this SA", c.counted(), digits(c.n.sa.CPU.Low), packets(c.n.sa.Moved()))
	}, nil},
	{Mixed, Partly, (*account).some, func(c *account) string {
		return fmt.Sprintf("%s %s %s of %s of the SA; the kernel does what it cannot hand over: IPv4 options, larger than the MTU",
			c.device.Name, c.verbed(), c.share, packets(c.n.sa.Moved()))
	}, []string{whoDidOthers}},
	{Unknown, Coarse, func(c *account) bool { return c.given().high >= c.room }, func(c *account) string {
		return fmt.Sprintf("%s, and its SAs had %s: of %s of this one that is certain of %s only; a longer --interval helps (%s)",
			c.counted(), digits(c.room), packets(c.n.sa.Moved()), digits(c.share.low), c.longer())
	}, nil},
	{Unknown, SomeOfThem, func(*account) bool { return true }, func(c *account) string {
		return fmt.Sprintf("%s of %s of its SAs; which is not known", c.counted(), digits(c.room))
	}, []string{whoDidOthers}},
}

const (
	whoDid       = "who did: `espalier verify` tells, or --probe"
	whoDidOthers = "who did the others: `espalier verify` tells, or --probe"
)

// uncounted: the NIC has counted packets, and all that there is are SAs of packet offload that have not.
func (c *account) uncounted() bool {
	return c.n.moved.high == 0 && c.room == 0 && c.device != nil && c.device.Counts && c.done.low > 0 && c.done.high != unbounded
}

// surplus: the NIC has counted more than its SAs had, by more than can be put down to the reading of it.
func (c *account) surplus() bool {
	given := c.given().low
	return given > c.room && !nearly(c.room, given)
}

// all of the SA's packets were the NIC's, whatever it did of the others.
func (c *account) all() bool { return nearly(c.share.low, c.n.moved.high) }

// some of the SA's packets were the NIC's, and some were not, nor lost.
func (c *account) some() bool {
	return c.n.sa.Offload.Mode == ipsec.CryptoOffload && c.trust != Stranger && c.share.low > 0 &&
		!nearly(c.share.high+min(c.lost.high, c.n.moved.high), c.n.moved.low)
}

// few, if any, of the SA's packets can have been the NIC's: those that passed while it was read.
func (c *account) few() bool { return c.share.high <= c.n.moved.high/100 }

// unsteady: SAs came or went, so that what the SAs have sent is not known to the last packet.
func (c *account) unsteady() bool {
	if c.open {
		return true
	}
	for _, n := range c.entries {
		if n.sa.Changed && n.moved.high > 0 {
			return true
		}
	}
	return false
}

func (c *account) cameOrWent() string {
	return fmt.Sprintf("%s of %s of its SAs: some came or went meanwhile, and what those had is not known", c.counted(), digits(c.room))
}

// longer is an interval in which what is not certain would be one percent, were all else the same.
func (c *account) longer() time.Duration {
	rest := c.room - min(c.given().low, c.room) + c.n.moved.high - c.n.moved.low
	times := float64(rest) * 100 / float64(max(c.n.sa.Moved(), 1))
	return time.Duration(math.Ceil(min(max(times*c.e.Interval.Seconds(), 1), 1e6))) * time.Second
}

// balanced says why all of an SA's packets were the NIC's.
func (c *account) balanced() string {
	why := c.counted()
	switch whole := (span{c.room, c.room}); {
	case c.done == whole && len(c.entries) == 1:
		why += ", every one of the SA's"
	case c.done == whole:
		why += ", every one of its SAs'"
	default:
		why += fmt.Sprintf(", its SAs had %s: the same, but for what passed while they were read", digits(c.room))
	}
	if c.dropped.high > 0 && c.direction == ipsec.Outbound {
		why += fmt.Sprintf("; it dropped %s", digits(c.dropped.high))
	}
	return why
}

// unchecked is what could be otherwise of an SA that is HARDWARE.
func (c *account) unchecked() []string {
	all := []string{"whether the NIC's counters are true: `espalier verify` asks the peer"}
	if c.n.sa.CPU == nil {
		all = append(all, "whether the kernel's own ESP was at work besides: --probe")
	}
	if c.n.sa.Offload.Mode == ipsec.PacketOffload {
		all = append(all, "the SA's packets: with packet offload that count is the NIC's own, too")
	}
	return all
}

// counted says what the device did: "p4p1 encrypted 5,977 packets".
func (l *ledger) counted() string {
	if l.done == (span{1, 1}) {
		return l.device.Name + " " + l.verbed() + " 1 packet"
	}
	return fmt.Sprintf("%s %s %s packets", l.device.Name, l.verbed(), l.done)
}

func (l *ledger) verbed() string {
	if l.direction == ipsec.Inbound {
		return "decrypted"
	}
	return "encrypted"
}

func orNone(driver string) string {
	if driver == "" {
		return "no driver"
	}
	return driver
}
