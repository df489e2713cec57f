package tunnel

import (
	"fmt"
	"slices"

	"espalier/config"
	"espalier/ipsec"
)

// policyAt is what a policy is known by.
type policyAt struct {
	host   int
	engine string
	sel    ipsec.Selector
	dir    ipsec.Direction
	mark   config.Mark
	ifID   uint32
}

func at(host int, engine string, p *Policy) policyAt {
	return policyAt{host, engine, p.Selector, p.Direction, p.Mark, p.IfID}
}

// saAt is what an SA is known by.
type saAt struct {
	host   int
	engine string
	id     SAID
}

// index notes which policies and SAs a host has, and who owns them.
func (m *maker) index(host int) {
	facts, first := m.plan.Hosts[host].Facts, m.first(host)
	for j := range facts.Engines {
		e := &facts.Engines[j]
		for k := range e.Policies {
			m.policies[at(first, e.Name, &e.Policies[k].Policy)] = &e.Policies[k]
		}
		for k := range e.SAs {
			m.sas[saAt{first, e.Name, e.SAs[k].SAID}] = &e.SAs[k]
		}
	}
	for j := range facts.Owned {
		o := &facts.Owned[j]
		for k := range o.Policies {
			m.owners[at(first, o.Engine, &o.Policies[k])] = o
		}
	}
}

// claim notes the policies of a pair, and leaves those out that an earlier one has already: two
// tunnels between the same hosts bypass the same neighbour discovery.
func (m *maker) claim(p *Pair) {
	for i := range p.Ends {
		e := &p.Ends[i]
		e.Policies = slices.DeleteFunc(e.Policies, func(policy Policy) bool {
			id := at(e.Host, e.Engine, &policy)
			again := m.wanted[id]
			m.wanted[id] = true
			return again
		})
	}
}

// compare finds out what is to become of a pair, from what both ends have.
func (m *maker) compare(p *Pair) {
	var had [2]*Owned
	there := false
	for i := range p.Ends {
		e := &p.Ends[i]
		live := m.plan.Hosts[e.Host].Facts.Engine(e.Engine)
		had[i] = m.known[endID{e.Host, p.Tunnel, e.Local, e.Remote}]
		if !m.mine(p, e, had[i], live) {
			p.stay()
			return
		}
		e.Old = oldSAs(live, e, had[i])
		there = there || had[i] != nil || len(e.Old) > 0
	}
	sas, policies := p.differentSAs(m, &had), p.differentPolicies(m, &had)
	p.Why = slices.Concat(sas, policies)
	switch {
	case !there:
		p.Action, p.Why = Create, nil
	case len(sas) > 0:
		p.Action = Replace
		if len(p.Ends[0].Old) == 0 && len(p.Ends[1].Old) == 0 {
			p.Action = Create
		}
	case len(policies) > 0 && p.noted(&had):
		p.Action = Adjust
	case len(policies) > 0:
		p.Action = Replace
	default:
		p.Action = Keep
	}
	m.takeOver(p, &had)
	p.rename(&had)
	m.restore(p, &had)
	m.rotate(p, &had, len(policies) > 0)
	if p.Action == Keep || p.Action == Adjust {
		p.stay()
	}
}

// stay leaves the SAs as they are.
func (p *Pair) stay() {
	if p.Action == "" {
		p.Action = Keep
	}
	for i := range p.Ends {
		p.Ends[i].Outbound, p.Ends[i].Inbound, p.Ends[i].Old = nil, nil, nil
	}
}

// takeOver has hosts note that a pair is of this file, if it was of another one.
func (m *maker) takeOver(p *Pair, had *[2]*Owned) {
	for i, o := range had {
		if o == nil || o.Origin == m.opt.Origin || !m.opt.Adopt {
			continue
		}
		p.Why = append(p.Why, fmt.Sprintf("it is of %s on %s", o.Origin, m.name(p.Ends[i].Host)))
		if p.Action == Keep {
			p.Action = Adjust
		}
	}
}

// rename has hosts note what a pair is called now.
func (p *Pair) rename(had *[2]*Owned) {
	for i, o := range had {
		if o == nil || o.Tunnel == p.Tunnel {
			continue
		}
		p.Ends[i].Former = o.Tunnel
		if why := fmt.Sprintf("tunnel %s is called %s now", o.Tunnel, p.Tunnel); !slices.Contains(p.Why, why) {
			p.Why = append(p.Why, why)
		}
		if p.Action == Keep {
			p.Action = Adjust
		}
	}
}

// noted reports whether both hosts were set up for the very policies that are wanted: then it does not
// matter to the other one that some are put back. Otherwise new SAs show that both have the new ones.
func (p *Pair) noted(had *[2]*Owned) bool {
	for i := range p.Ends {
		if had[i] == nil || !samePolicies(had[i].Policies, p.Ends[i].Policies) {
			return false
		}
	}
	return true
}

// restore has what was lost put back of what lasts beyond the command that made it: no SA changes.
func (m *maker) restore(p *Pair, had *[2]*Owned) {
	if p.Action != Keep || m.opt.Kind == Down {
		return
	}
	for i := range p.Ends {
		if host := p.Ends[i].Host; had[i] != nil {
			p.lost(m.name(host), m.plan.Hosts[host].Facts)
		}
	}
	if here := m.opt.Here; here != nil && !slices.ContainsFunc(m.plan.Hosts, func(h Host) bool { return h.Facts.Same(here) }) {
		p.lost(here.Hostname, here)
	}
}

func (p *Pair) lost(host string, f *Facts) {
	for _, what := range f.Lost {
		p.Action = Adjust
		p.Why = append(p.Why, what+" on "+host)
	}
}

// rotate makes of a comparison what a rotation is: new SAs, and nothing that the hosts have not
// been set up for.
func (m *maker) rotate(p *Pair, had *[2]*Owned, policies bool) {
	if m.opt.Kind != Rotate {
		return
	}
	if had[0] == nil && had[1] == nil {
		m.problem(p.Of.Place("name"), fmt.Sprintf("tunnel %s is not set up between %s and %s", p.Tunnel, p.Ends[0].Local, p.Ends[1].Local), "espalier apply sets it up")
		return
	}
	for i := range p.Ends {
		if had[i] != nil && !samePolicies(had[i].Policies, p.Ends[i].Policies) {
			m.problem(p.Of.Place("name"), fmt.Sprintf("tunnel %s was set up on %s for other traffic than the file has now", p.Tunnel, m.name(p.Ends[i].Host)), "espalier apply changes it")
			return
		}
	}
	if m.opt.Only != nil && !m.opt.Only(p) {
		p.Action, p.Why = Keep, nil
		m.restore(p, had)
		return
	}
	if p.Action == Keep || p.Action == Adjust {
		p.Action = Replace
		if !policies { // what was lost is put back by the way
			p.Why = []string{"rotation"}
		}
	}
}

// mine reports whether what is there of an end is this file's, or nobody's, or is taken over. If not,
// that was told.
func (m *maker) mine(p *Pair, e *End, had *Owned, live *Engine) bool {
	if m.opt.Adopt {
		return true
	}
	const adopt = "take it down there, or apply with --adopt to take it over"
	if had != nil && had.Origin != m.opt.Origin && m.opt.Yield {
		p.Yielded = had.Origin
		return false
	}
	if had != nil && had.Origin != m.opt.Origin {
		m.problem(p.Of.Place("name"), fmt.Sprintf("%s has tunnel %s from %s already", m.name(e.Host), p.Tunnel, had.Origin), adopt)
		return false
	}
	for i := range e.Policies {
		policy := &e.Policies[i]
		there := m.policy(e, policy)
		if there == nil {
			continue
		}
		owner := m.owners[at(e.Host, e.Engine, policy)]
		if owner != nil && owner.Origin == m.opt.Origin {
			continue
		}
		what := fmt.Sprintf("%s of %s has a policy %s %s", live.words(), m.name(e.Host), policy.Direction, policy.Selector)
		if owner == nil {
			m.problem(p.Of.Place("name"), what+" that is not espalier's", "delete it, or apply with --adopt to take it over")
		} else {
			m.problem(p.Of.Place("name"), fmt.Sprintf("%s for tunnel %s of %s", what, owner.Tunnel, owner.Origin), adopt)
		}
		return false
	}
	return true
}

// policy that an end has with the identity of p; nil if there is none.
func (m *maker) policy(e *End, p *Policy) *LivePolicy { return m.policies[at(e.Host, e.Engine, p)] }

// sa that an end has; nil if it is gone.
func (m *maker) sa(e *End, id SAID) *LiveSA { return m.sas[saAt{e.Host, e.Engine, id}] }

// oldSAs are all that an end has for the pair: those that it owns, and those between the two addresses
// with a request id of the pair's, which nobody else would choose.
func oldSAs(e *Engine, end *End, had *Owned) (old []SAID) {
	ours := map[uint32]bool{}
	note := func(policies []Policy) {
		for i := range policies {
			for _, p := range policies[i].Processing {
				ours[p.RequestID] = true
			}
		}
	}
	note(end.Policies)
	owned := map[SAID]bool{}
	if had != nil {
		note(had.Policies)
		for _, id := range slices.Concat(had.Outbound, had.Inbound) {
			owned[id] = true
		}
	}
	for i := range e.SAs {
		sa := &e.SAs[i]
		between := sa.Src == end.Local && sa.Dst == end.Remote || sa.Src == end.Remote && sa.Dst == end.Local
		if !sa.Lingering && (owned[sa.SAID] || between && ours[sa.RequestID]) {
			old = append(old, sa.SAID)
		}
	}
	return old
}

// differentSAs says why the SAs that are there cannot stay.
func (p *Pair) differentSAs(m *maker, had *[2]*Owned) (whys []string) {
	for i := range p.Ends {
		sender, receiver := &p.Ends[i], &p.Ends[1-i]
		from, to := m.name(sender.Host), m.name(receiver.Host)
		if had[i] == nil {
			whys = append(whys, "it is not set up on "+from)
			continue
		}
		if had[i].Undecided {
			whys = append(whys, from+" does not know what became of its last change elsewhere")
			continue
		}
		if had[1-i] == nil {
			continue // said in the other turn
		}
		out, in := had[i].Outbound, had[1-i].Inbound
		if len(out) == 0 && len(in) == 0 {
			whys = append(whys, fmt.Sprintf("there are no SAs from %s to %s", from, to))
			continue
		}
		if len(out) != len(sender.Outbound) || len(in) != len(receiver.Inbound) {
			whys = append(whys, fmt.Sprintf("%d SAs from %s to %s, not %d", len(out), from, to, len(sender.Outbound)))
			continue
		}
		for k := range out {
			sent, received := m.sa(sender, out[k]), m.sa(receiver, in[k])
			why := ""
			switch {
			case sent == nil:
				why = fmt.Sprintf("SA %s is gone from %s", out[k].SAID, from)
			case received == nil:
				why = fmt.Sprintf("SA %s is gone from %s", in[k].SAID, to)
			case out[k].SAID != in[k].SAID:
				why = fmt.Sprintf("%s sends by SA %s, which %s does not have", from, out[k].SAID, to)
			default:
				if why = sent.differs(&sender.Outbound[k], p.Of); why != "" {
					why += " on " + from
				} else if why = received.differs(&receiver.Inbound[k], p.Of); why != "" {
					why += " on " + to
				}
			}
			if why != "" {
				whys = append(whys, why)
				break
			}
		}
	}
	return whys
}

// differs says in what an SA is not what is wanted, "" if in nothing. NICs that did not take an SA
// did so without a word: that is no reason to give them another, unless they have to.
func (l *LiveSA) differs(want *SA, t *config.Tunnel) string {
	offload := func(o ipsec.Offload) string {
		if o.Mode == ipsec.NoOffload {
			return "offload no"
		}
		return fmt.Sprintf("offload %s to device %d", o.Mode, o.Interface)
	}
	is := func(what string, is, wanted any) string { return fmt.Sprintf("%s %v, not %v", what, is, wanted) }
	silently := want.Offload.Mode == ipsec.CryptoOffload && l.Offload.Mode == ipsec.NoOffload && t.Offload != config.RequireOffload
	switch {
	case l.Other:
		return "an SA that espalier did not make"
	case l.Larval:
		return "an SA that is being negotiated"
	case l.Mode != want.Mode:
		return is("mode", l.Mode, want.Mode)
	case l.Direction != want.Direction:
		return is("direction", l.Direction, want.Direction)
	case l.RequestID != want.RequestID:
		return is("reqid", l.RequestID, want.RequestID)
	case l.KeyBits != uint32(t.KeySize):
		return is("a key of bits", l.KeyBits, t.KeySize)
	case l.ICVBits != uint32(want.ICVBits):
		return is("an ICV of bits", l.ICVBits, want.ICVBits)
	case l.ESN != want.ESN:
		return is("ESN", l.ESN, want.ESN)
	case l.Window != want.Window:
		return is("window", l.Window, want.Window)
	case !equal(l.Encap, want.Encap):
		return "another UDP encapsulation"
	case l.Selector != want.Selector:
		return "a selector of its own"
	case l.Offload != want.Offload && !silently:
		return offload(l.Offload) + ", not " + offload(want.Offload)
	case l.Limits != want.Limits:
		return "another lifetime"
	case l.Mark != want.Mark:
		return is("mark", l.Mark, want.Mark)
	case l.OutputMark != want.OutputMark:
		return is("output-mark", l.OutputMark, want.OutputMark)
	case l.IfID != want.IfID:
		return is("if_id", l.IfID, want.IfID)
	case !equal(l.CPU, want.CPU):
		return "another CPU"
	}
	return ""
}

// equal compares what may not be there.
func equal[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// differentPolicies says what of the policies is to change, and notes those that are Gone.
func (p *Pair) differentPolicies(m *maker, had *[2]*Owned) (whys []string) {
	for i := range p.Ends {
		e := &p.Ends[i]
		host := m.name(e.Host)
		missing, different := 0, 0
		for j := range e.Policies {
			want := &e.Policies[j]
			switch there := m.policy(e, want); {
			case there == nil:
				missing++
			case there.Other || !samePolicy(&there.Policy, want):
				different++
				p.Refuses = p.Refuses || refuses(&there.Policy, want)
			}
		}
		if had[i] != nil {
			e.Gone = m.gone(e, had[i])
			if !samePolicies(had[i].Policies, e.Policies) && missing+different+len(e.Gone) == 0 {
				whys = append(whys, "policies were not noted on "+host)
			}
			if had[i].Rotate != p.Rotate {
				whys = append(whys, "it is rotated at other times")
			}
		}
		for _, n := range []struct {
			count int
			what  string
		}{{missing, "missing on"}, {different, "different on"}, {len(e.Gone), "too many on"}} {
			if n.count > 0 {
				whys = append(whys, fmt.Sprintf("%d policies %s %s", n.count, n.what, host))
			}
		}
	}
	return slices.Compact(whys)
}

// refuses reports whether packets by SAs of before fit a policy no more, not even at level use: in tunnel mode
// each must have come as the policy says.
func refuses(there, want *Policy) bool {
	return want.Direction != ipsec.Outbound && len(want.Processing) == 1 && len(there.Processing) == 1 &&
		want.Processing[0].Mode == ipsec.Tunnel && want.Processing[0].RequestID != there.Processing[0].RequestID
}

// gone are the policies of a pair that are there and are not wanted any more, by no pair.
func (m *maker) gone(e *End, had *Owned) (gone []Policy) {
	for i := range had.Policies {
		p := &had.Policies[i]
		if id := at(e.Host, had.Engine, p); !m.wanted[id] && m.policies[id] != nil {
			gone = append(gone, *p)
		}
	}
	return gone
}

// samePolicy compares what is set of a policy, not what an SPD adds.
func samePolicy(a, b *Policy) bool {
	return a.Selector == b.Selector && a.Direction == b.Direction && a.Priority == b.Priority && a.Action == b.Action &&
		slices.Equal(a.Processing, b.Processing) && a.Limits == b.Limits && a.Mark == b.Mark && a.IfID == b.IfID && a.Offload == b.Offload
}

// samePolicies compares two lists in any order.
func samePolicies(a, b []Policy) bool {
	if len(a) != len(b) {
		return false
	}
	all := make(map[policyAt]*Policy, len(a))
	for i := range a {
		all[at(0, "", &a[i])] = &a[i]
	}
	for i := range b {
		if was := all[at(0, "", &b[i])]; was == nil || !samePolicy(was, &b[i]) {
			return false
		}
	}
	return true
}
