package lint

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"espalier/xfrm"
	"espalier/xfrm/pair"
)

// Check looks at a SAD and an SPD. m is what belongs together in them, defaults what becomes of packets
// without a policy (nil: they are accepted, as Linux has it if nobody says otherwise). Findings come with the worst
// first, and else in the order of the policies and states.
func Check(states []*xfrm.State, policies []*xfrm.Policy, m *pair.Matching, defaults *xfrm.Defaults) []Finding {
	return (&check{states: states, policies: policies, m: m}).run(defaults)
}

func (c *check) run(defaults *xfrm.Defaults) []Finding {
	states, policies, m := c.states, c.policies, c.m
	c.nearby, c.misdirected = map[int]bool{}, map[[2]netip.Addr]bool{}
	c.ways, c.whole = make(map[way]bool, len(states)), make(map[relation]bool, len(states))
	c.in = make(map[xfrm.Selector]bool, len(policies)/2)
	for _, s := range states {
		c.ways[way{s.Src, s.Dst, s.Reqid}] = true
	}
	for _, p := range m.Pairs {
		if p.Out >= 0 && p.In >= 0 {
			c.whole[relationOf(states[p.Out])], c.whole[relationOf(states[p.In])] = true, true
		}
	}
	for _, p := range policies {
		if p.Dir == xfrm.PolicyIn && protects(p) {
			c.in[p.Sel] = true
		}
	}
	for i := range policies {
		c.policy(i)
	}
	c.missingIn(defaults)
	for i := range states {
		c.direction(i)
	}
	for i := range states {
		c.state(i)
	}
	for _, p := range m.Pairs {
		c.pair(p)
	}
	slices.SortStableFunc(c.found, func(a, b Finding) int { return cmp.Compare(rank(a.Severity), rank(b.Severity)) })
	return c.found
}

func rank(s Severity) int { return slices.Index([]Severity{Error, Warning, Note}, s) }

// check is one run.
type check struct {
	states   []*xfrm.State
	policies []*xfrm.Policy
	m        *pair.Matching
	nearby   map[int]bool // states that were told to have another reqid than their policy wants
	ways     map[way]bool
	whole    map[relation]bool      // of states that have their other half
	in       map[xfrm.Selector]bool // what in policies protect
	// misdirected are the ends, in order, between which an SA has the wrong direction.
	misdirected map[[2]netip.Addr]bool
	// script: each line counts, also where two say the same.
	script bool
	found  []Finding
}

// way is what an SA carries from where to where.
type way struct {
	src, dst netip.Addr
	reqid    uint32
}

// relation is what the SAs of a tunnel have in common, in one direction.
type relation struct {
	src, dst netip.Addr
	proto    uint8
	mode     xfrm.Mode
	ifID     uint32
}

func relationOf(s *xfrm.State) relation { return relation{s.Src, s.Dst, s.Proto, s.Mode, s.IfID} }

func (c *check) add(f Finding) { c.found = append(c.found, f) }

// protects reports whether a policy asks for ESP.
func protects(p *xfrm.Policy) bool {
	return !p.IsSocket() && p.Action == xfrm.PolicyAllow && len(p.Tmpls) > 0
}

func (c *check) policy(i int) {
	p := c.policies[i]
	if !protects(p) {
		return
	}
	if p.Dir == xfrm.PolicyOut {
		c.cleartextAllowed(i)
	}
	if len(c.m.ServedBy[i]) > 0 {
		c.halfOffloaded(i)
		return
	}
	switch {
	case !c.script && p.Dir == xfrm.PolicyFwd && c.in[p.Sel]: // what there is to say is said of the in policy
	case c.m.Near[i] >= 0:
		c.reqidMismatch(i, c.m.Near[i])
	default:
		c.withoutSA(i)
	}
}

// consequence is what becomes of packets that fall under a policy that nothing serves.
func consequence(p *xfrm.Policy) string {
	if p.Dir == xfrm.PolicyOut {
		return "nothing is sent (" + unserved(p) + ")"
	}
	return "nothing is accepted (" + unserved(p) + ")"
}

// unserved is what counts them.
func unserved(p *xfrm.Policy) string {
	if p.Dir == xfrm.PolicyOut {
		return "XfrmOutNoStates"
	}
	return "XfrmInTmplMismatch"
}

// reqidMismatch is about a policy and the SA that would serve it, had it another reqid.
func (c *check) reqidMismatch(i, s int) {
	p, state := c.policies[i], c.states[s]
	t := &p.Tmpls[0]
	for j := range p.Tmpls {
		if pair.FitsButReqid(p, &p.Tmpls[j], state) {
			t = &p.Tmpls[j]
			break
		}
	}
	c.nearby[s] = true
	text := fmt.Sprintf("wants reqid %s, but the SA between its addresses has %s: %s", reqid(t.Reqid), reqid(state.Reqid), consequence(p))
	if c.ways[way{state.Dst, state.Src, t.Reqid}] {
		text = fmt.Sprintf("wants reqid %s, which is the other direction's; the SA of this one has %s: %s", reqid(t.Reqid), reqid(state.Reqid), consequence(p))
	}
	c.add(Finding{ID: ReqidMismatch, Severity: Error, About: "policy " + p.ID().String(), Text: text,
		Fix:     fmt.Sprintf("give the template reqid %s, or the SA reqid %s", reqid(state.Reqid), reqid(t.Reqid)),
		Counter: unserved(p), States: []int{s}, Policies: []int{i}})
}

func reqid(n uint32) string {
	if n < 1<<16 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%#x", n)
}

func (c *check) withoutSA(i int) {
	p := c.policies[i]
	f := Finding{ID: PolicyWithoutSA, Severity: Error, About: "policy " + p.ID().String(), Policies: []int{i}}
	t := &p.Tmpls[0]
	switch optional := !slices.ContainsFunc(p.Tmpls, func(t xfrm.Tmpl) bool { return !t.Optional }); {
	case optional && p.Dir == xfrm.PolicyOut:
		f.Text = fmt.Sprintf("no SA with reqid %s serves it: everything is sent in clear (level use)", reqid(t.Reqid))
	case optional:
		f.Text = fmt.Sprintf("no SA with reqid %s serves it: cleartext is accepted (level use)", reqid(t.Reqid))
	default:
		f.Text = fmt.Sprintf("no SA with reqid %s serves it: %s", reqid(t.Reqid), consequence(p))
		f.Counter = unserved(p)
	}
	f.Fix = fmt.Sprintf("add an SA with reqid %s, mode %s, or see whether the key exchange runs; delete the policy if it is not wanted", reqid(t.Reqid), t.Mode)
	if c.script {
		f.Fix = fmt.Sprintf("add an SA between its addresses with reqid %s, mode %s, or delete the policy", reqid(t.Reqid), t.Mode)
	}
	c.add(f)
}

func (c *check) cleartextAllowed(i int) {
	p := c.policies[i]
	if !slices.ContainsFunc(p.Tmpls, func(t xfrm.Tmpl) bool { return t.Optional }) || len(c.m.ServedBy[i]) == 0 {
		return
	}
	c.add(Finding{ID: CleartextAllowed, Severity: Warning, About: "policy " + p.ID().String(), Policies: []int{i},
		Text: "its template is optional (level use): when its SA goes, packets leave in clear",
		Fix:  "leave level use out"})
}

// halfOffloaded: the kernel and the driver want both in packet mode, or neither.
func (c *check) halfOffloaded(i int) {
	p := c.policies[i]
	offloaded := p.Offload != nil && p.Offload.Flags&xfrm.OffloadPacket != 0
	for _, s := range c.m.ServedBy[i] {
		o := c.states[s].Offload
		if packet := o != nil && o.Flags&xfrm.OffloadPacket != 0; packet == offloaded {
			continue
		}
		f := Finding{ID: HalfOffloaded, Severity: Error, About: "policy " + p.ID().String(), States: []int{s}, Policies: []int{i},
			Text: fmt.Sprintf("packet offload, but its SA %s has none: the two do not come together", c.states[s].SPI),
			Fix:  "add the SA with offload packet, too"}
		if !offloaded {
			f.Text = fmt.Sprintf("its SA %s has packet offload, and the policy has none (Linux 6.1 takes and forgets it): the two do not come together", c.states[s].SPI)
			f.Fix = "add the policy with offload packet dev …, on Linux 6.2 or newer, or use offload crypto"
		}
		c.add(f)
		return
	}
}
