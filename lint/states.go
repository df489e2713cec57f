package lint

import (
	"fmt"
	"net/netip"

	"espalier/ipsec"
	"espalier/xfrm"
	"espalier/xfrm/pair"
)

func aboutState(s *xfrm.State) string { return "SA " + s.ID().String() }

func (c *check) state(i int) {
	s := c.states[i]
	if s.IsLarval() {
		c.add(Finding{ID: Larval, Severity: Note, About: aboutState(s), States: []int{i},
			Text: "holds a place for an SA that is being negotiated", Fix: "see whether the key exchange runs"})
		return
	}
	d := c.m.Directions[i]
	if len(c.m.Serves[i]) == 0 && !c.nearby[i] {
		f := Finding{ID: SAWithoutPolicy, Severity: Warning, About: aboutState(s), States: []int{i}}
		switch {
		case d == ipsec.Outbound:
			f.Text = fmt.Sprintf("no out policy asks for its reqid %s: nothing is sent through it", reqid(s.Reqid))
			f.Fix = fmt.Sprintf("add an out policy with a template of reqid %s", reqid(s.Reqid))
		case d == ipsec.Inbound && s.Mode == xfrm.ModeTunnel:
			f.Text = fmt.Sprintf("no in policy asks for its reqid %s: what it decrypts is dropped (XfrmInNoPols)", reqid(s.Reqid))
			f.Counter = "XfrmInNoPols"
			f.Fix = fmt.Sprintf("add an in policy with a template of reqid %s, and fwd for what goes on to others", reqid(s.Reqid))
		case d == ipsec.Inbound:
			f.Text = fmt.Sprintf("no in policy asks for its reqid %s: it decrypts, but nobody asks that the traffic be encrypted", reqid(s.Reqid))
			f.Fix = fmt.Sprintf("add an in policy with a template of reqid %s", reqid(s.Reqid))
		default:
			f.Text = fmt.Sprintf("no policy asks for its reqid %s", reqid(s.Reqid))
			f.Fix = "add policies for it, or delete it"
		}
		c.add(f)
	}
	if d == ipsec.Inbound && s.ReplayWindow == 0 && !c.misdirected[ends(s)] {
		c.add(Finding{ID: NoReplayWindow, Severity: Warning, About: aboutState(s), States: []int{i},
			Text: "replay-window 0: a packet that is sent again is accepted again",
			Fix:  "add it with replay-window 64"})
	}
}

// direction finds an SA that says another direction than that of a policy it serves.
func (c *check) direction(i int) {
	s := c.states[i]
	if s.Dir == 0 && s.Offload == nil {
		return
	}
	d := c.m.Directions[i]
	for _, p := range c.m.Serves[i] {
		out := c.policies[p].Dir == xfrm.PolicyOut
		if out == (d == ipsec.Outbound) {
			continue
		}
		f := Finding{ID: WrongDirection, Severity: Error, About: aboutState(s), Counter: "XfrmInStateDirError", States: []int{i}, Policies: []int{p},
			Text: fmt.Sprintf("says dir out, and its policy %s is for receiving: nothing is received by it (XfrmInStateDirError from Linux 6.10 on), nor decrypted by a NIC", c.policies[p].ID()),
			Fix:  "say dir in, also of its offload, if the SA is for receiving; else give the policies the reqid of another SA"}
		if out {
			f.Counter = "XfrmOutStateDirError"
			f.Text = fmt.Sprintf("says dir in, and its policy %s is for sending: nothing is sent by it (XfrmOutStateDirError from Linux 6.10 on), nor encrypted by a NIC", c.policies[p].ID())
			f.Fix = "say dir out, also of its offload, if the SA is for sending; else give the policy the reqid of another SA"
		}
		c.misdirected[ends(s)] = true
		c.add(f)
		return
	}
}

// ends are the two addresses of an SA, the lower one first.
func ends(s *xfrm.State) [2]netip.Addr {
	if s.Dst.Less(s.Src) {
		return [2]netip.Addr{s.Dst, s.Src}
	}
	return [2]netip.Addr{s.Src, s.Dst}
}

// pair finds SAs in one direction only. Larval ones wait for their other half; of those that are
// rekeyed one may be alone for a while.
func (c *check) pair(p pair.Pair) {
	i, missing := p.Out, "in: the peer's answers do not arrive"
	if p.Out < 0 {
		i, missing = p.In, "out: nothing is answered"
	}
	if p.Out >= 0 && p.In >= 0 || c.states[i].IsLarval() || c.m.Directions[i] == ipsec.AnyDirection || c.whole[relationOf(c.states[i])] ||
		c.misdirected[ends(c.states[i])] || c.unpaired[ends(c.states[i])] {
		return
	}
	c.add(Finding{ID: OneSided, Severity: Warning, About: aboutState(c.states[i]), States: []int{i},
		Text: "there is no SA " + missing, Fix: "add the SA of the other direction"})
}
