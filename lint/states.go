package lint

import (
	"fmt"

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
	if d == ipsec.Inbound && s.ReplayWindow == 0 {
		c.add(Finding{ID: NoReplayWindow, Severity: Warning, About: aboutState(s), States: []int{i},
			Text: "replay-window 0: a packet that is sent again is accepted again",
			Fix:  "add it with replay-window 64"})
	}
}

// pair finds SAs in one direction only. Larval ones wait for their other half; of those that are
// rekeyed one may be alone for a while.
func (c *check) pair(p pair.Pair) {
	i, missing := p.Out, "in: the peer's answers do not arrive"
	if p.Out < 0 {
		i, missing = p.In, "out: nothing is answered"
	}
	if p.Out >= 0 && p.In >= 0 || c.states[i].IsLarval() || c.m.Directions[i] == ipsec.AnyDirection || c.whole[relationOf(c.states[i])] {
		return
	}
	c.add(Finding{ID: OneSided, Severity: Warning, About: aboutState(c.states[i]), States: []int{i},
		Text: "there is no SA " + missing, Fix: "add the SA of the other direction"})
}
