package tunnel

import (
	"fmt"
	"slices"
	"strings"

	"espalier/config"
	"espalier/ipsec"
)

// foreignFirst refuses a pair where somebody else's policy takes all of the traffic of one of its own, and notes
// those that take a part.
func (m *maker) foreignFirst(p *Pair, e *End, foreign []*LivePolicy) {
	var parts []string
	for _, other := range foreign {
		for i := range e.Policies {
			policy := &e.Policies[i]
			if policy.Action != ipsec.Protect || !other.meets(policy) || other.Priority == policy.Priority && m.policy(e, policy) != nil {
				continue
			}
			what := fmt.Sprintf("%s %s (priority %d)", other.Direction, other.Selector, other.Priority)
			if !other.takesAll(policy) {
				parts = append(parts, what+": "+other.effect())
				break
			}
			problem := config.ProblemAt(m.file.Name, p.Of.Place("name"),
				fmt.Sprintf("%s of %s has a policy %s that is not espalier's and comes before that of the tunnel: %s", m.plan.Hosts[e.Host].Facts.Engine(e.Engine).words(), m.name(e.Host), what, other.effect()),
				fmt.Sprintf("delete it, or give it a priority of more than %d, which is the tunnel's", policy.Priority))
			if !slices.Contains(m.problems, problem) {
				m.problems = append(m.problems, problem)
			}
			break
		}
	}
	if len(parts) > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("on %s somebody else's policies come first: %s", m.name(e.Host), strings.Join(some(parts), "; ")))
	}
}

// meets reports whether some packets that a policy would decide on are decided on by this one.
func (l *LivePolicy) meets(p *Policy) bool {
	return l.Direction == p.Direction && l.Priority <= p.Priority && l.IfID == p.IfID &&
		(l.Mark.Value^p.Mark.Value)&l.Mark.Mask&p.Mark.Mask == 0 && l.Selector.Overlaps(&p.Selector)
}

// takesAll reports whether all packets that a policy would decide on, and that meet this one, are decided on by it.
func (l *LivePolicy) takesAll(p *Policy) bool {
	return l.Selector.Covers(&p.Selector) && l.Mark.Mask&^p.Mark.Mask == 0
}

// effect is what becomes of the traffic that a policy takes.
func (l *LivePolicy) effect() string {
	switch {
	case l.Other:
		return "that traffic goes by it"
	case l.Action == ipsec.Discard:
		return "that traffic is dropped"
	case l.Action == ipsec.Bypass && l.Direction == ipsec.Outbound:
		return "that traffic leaves in clear"
	case l.Action == ipsec.Bypass:
		return "what comes in clear is taken"
	case l.Direction == ipsec.Outbound:
		return "that traffic goes by other SAs"
	}
	return "only what came by other SAs is taken"
}
