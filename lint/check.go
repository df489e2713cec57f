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
	c.nearby, c.strayed, c.misdirected = map[int]bool{}, map[int]bool{}, map[[2]netip.Addr]bool{}
	c.unpaired = map[[2]netip.Addr]bool{}
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
	c.selectors()
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
	nearby   map[int]bool // states that were told to be other than their policy wants
	strayed  map[int]bool // policies that an SA of other addresses would serve
	ways     map[way]bool
	whole    map[relation]bool      // of states that have their other half
	in       map[xfrm.Selector]bool // what in policies protect
	// misdirected are the ends, in order, between which an SA has the wrong direction.
	misdirected map[[2]netip.Addr]bool
	// unpaired are those of an SA that is so different from what its policy wants that it may not be known as one's half.
	unpaired map[[2]netip.Addr]bool
	// at is where the SA of a policy stands, " (line 3)"; nil: nowhere.
	at func(policy, state int) string
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
	served := len(c.m.ServedBy[i]) > 0
	if !c.script && p.Dir == xfrm.PolicyFwd && c.in[p.Sel] && !served {
		return // what there is to say is said of the in policy
	}
	if optional(p) && (c.script || p.Dir != xfrm.PolicyFwd || !c.in[p.Sel]) {
		c.cleartextAllowed(i)
	}
	switch {
	case served:
		c.halfOffloaded(i)
	case c.m.Near[i] >= 0:
		c.mismatch(i, c.m.Near[i])
	default:
		c.withoutSA(i)
	}
}

// optional reports whether packets may do without ESP and AH (level use), as those that IPComp does not make shorter do.
func optional(p *xfrm.Policy) bool {
	return !slices.ContainsFunc(p.Tmpls, func(t xfrm.Tmpl) bool { return !t.Optional && t.Proto != protoIPComp })
}

// consequence is what becomes of packets that fall under a policy that nothing serves, and what counts them.
func consequence(p *xfrm.Policy) (text, counter string) {
	counter = unserved(p)
	switch {
	case p.Dir == xfrm.PolicyOut && optional(p):
		return "everything is sent in clear (level use)", ""
	case p.Dir == xfrm.PolicyOut:
		return "nothing is sent (" + counter + ")", counter
	case optional(p) && p.Tmpls[0].Mode == xfrm.ModeTransport:
		return "cleartext is accepted (level use)", ""
	case optional(p):
		return "cleartext is accepted (level use), and what comes by ESP is not (" + counter + ")", counter
	}
	return "nothing is accepted (" + counter + ")", counter
}

// unserved is what counts them.
func unserved(p *xfrm.Policy) string {
	if p.Dir == xfrm.PolicyOut {
		return "XfrmOutNoStates"
	}
	return "XfrmInTmplMismatch"
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
	text, counter := consequence(p)
	f.Text, f.Counter = fmt.Sprintf("no SA with reqid %s serves it: %s", reqid(t.Reqid), text), counter
	f.Fix = fmt.Sprintf("add an SA with reqid %s, mode %s, or see whether the key exchange runs; delete the policy if it is not wanted", reqid(t.Reqid), t.Mode)
	if c.script {
		f.Fix = fmt.Sprintf("add an SA between its addresses with reqid %s, mode %s, or delete the policy", reqid(t.Reqid), t.Mode)
	}
	c.add(f)
}

// cleartextAllowed is about an optional template. Of what is received, Linux takes cleartext then, SA or not
// (xfrm_policy_ok).
func (c *check) cleartextAllowed(i int) {
	p := c.policies[i]
	f := Finding{ID: CleartextAllowed, Severity: Warning, About: "policy " + p.ID().String(), Policies: []int{i},
		Text: "its template is optional (level use): when its SA goes, packets leave in clear", Fix: "leave level use out"}
	switch {
	case p.Dir != xfrm.PolicyOut:
		f.Severity, f.Text = Error, "its template is optional (level use): cleartext is accepted, with an SA, too"
	case len(c.m.ServedBy[i]) == 0:
		f.Text = "its template is optional (level use): packets leave in clear as long as no SA serves it"
	}
	c.add(f)
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
