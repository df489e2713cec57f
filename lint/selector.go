package lint

import (
	"fmt"
	"net/netip"

	"espalier/ipsec"
	"espalier/xfrm"
)

// traffic is what a policy leaves to an SA: in transport mode, of all its traffic, that between the SA's addresses.
type traffic struct {
	policy   int
	src, dst netip.Addr // transport mode
}

func (c *check) trafficOf(policy, state int) (t traffic, sel ipsec.Selector) {
	s := c.states[state]
	t, sel = traffic{policy: policy}, c.policies[policy].Sel.Selector
	if s.Mode == xfrm.ModeTransport {
		t.src, t.dst = s.Src, s.Dst
		sel.Src, sel.Dst = netip.PrefixFrom(s.Src, s.Src.BitLen()), netip.PrefixFrom(s.Dst, s.Dst.BitLen())
	}
	return t, sel
}

// selectors looks whether the own selectors of SAs take the traffic of their policies: those of one of them do.
func (c *check) selectors() {
	covered := map[traffic]bool{}
	for i, s := range c.states {
		for _, p := range c.m.Serves[i] {
			if t, sel := c.trafficOf(p, i); !covered[t] && covers(&s.Sel.Selector, &sel) {
				covered[t] = true
			}
		}
	}
	for i := range c.states {
		for _, p := range c.m.Serves[i] {
			if t, sel := c.trafficOf(p, i); !covered[t] {
				c.selector(i, p, &sel)
				break
			}
		}
	}
}

func (c *check) selector(i, p int, wanted *ipsec.Selector) {
	s, policy := c.states[i], c.policies[p]
	f := Finding{ID: SASelector, Severity: Warning, About: aboutState(s), States: []int{i}, Policies: []int{p},
		Fix: "leave sel out, or make it " + wanted.String()}
	amount := "a part"
	if !overlap(&s.Sel.Selector, wanted) {
		f.Severity, amount = Error, "all"
	}
	verb := "receives"
	f.Counter = "XfrmInStateMismatch"
	if policy.Dir == xfrm.PolicyOut {
		verb, f.Counter = "sends", "XfrmOutNoStates"
	}
	f.Text = fmt.Sprintf("its own selector, %s, leaves out %s of what policy %s %s: that is dropped", s.Sel.Selector, amount, policy.ID(), verb)
	c.add(f)
}

// covers reports whether all of b is in a.
func covers(a, b *ipsec.Selector) bool {
	return contains(a.Src, b.Src) && contains(a.Dst, b.Dst) && (a.Protocol == 0 || a.Protocol == b.Protocol) &&
		(a.SrcPort.Any() || a.SrcPort == b.SrcPort) && (a.DstPort.Any() || a.DstPort == b.DstPort)
}

func overlap(a, b *ipsec.Selector) bool {
	prefixes := func(a, b netip.Prefix) bool { return !a.IsValid() || !b.IsValid() || a.Overlaps(b) }
	ports := func(a, b ipsec.PortMatch) bool { return a.Any() || b.Any() || (a.Value^b.Value)&a.Mask&b.Mask == 0 }
	return prefixes(a.Src, b.Src) && prefixes(a.Dst, b.Dst) && (a.Protocol == 0 || b.Protocol == 0 || a.Protocol == b.Protocol) &&
		ports(a.SrcPort, b.SrcPort) && ports(a.DstPort, b.DstPort)
}
