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
			if t, sel := c.trafficOf(p, i); !covered[t] && s.Sel.Covers(&sel) {
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
	if !s.Sel.Overlaps(wanted) {
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
