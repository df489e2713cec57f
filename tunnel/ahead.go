package tunnel

import (
	"fmt"
	"net/netip"
	"strings"

	"espalier/ipsec"
)

// surroundings are the policies of a host's engine, as they are to be.
type surroundings struct {
	senders Senders
	foreign []*LivePolicy // that are nobody's whom espalier knows
}

type engineAt struct {
	host   int
	engine string
}

// ahead tells of what comes before the policies of pairs: of somebody else's policies, and where all that probes
// could be goes by others.
func (m *maker) ahead() {
	if m.opt.Kind != Apply {
		return
	}
	around := map[engineAt]*surroundings{}
	for i := range m.plan.Pairs {
		p := &m.plan.Pairs[i]
		if p.Of == nil || p.Yielded != "" {
			continue
		}
		var never []string
		for j := range p.Ends {
			e := &p.Ends[j]
			id := engineAt{e.Host, e.Engine}
			if around[id] == nil {
				around[id] = m.surroundings(id)
			}
			m.foreignFirst(p, e, around[id].foreign)
			never = append(never, m.untried(e, &around[id].senders)...)
		}
		if len(never) > 0 {
			p.Notes = append(p.Notes, fmt.Sprintf("not proven by probes: %s (%s)", strings.Join(some(never), ", "), ErrElsewhere))
		}
	}
}

func (m *maker) surroundings(of engineAt) *surroundings {
	s := new(surroundings)
	gone := map[policyAt]bool{}
	for i := range m.plan.Pairs {
		p := &m.plan.Pairs[i]
		for j := range p.Ends {
			e := &p.Ends[j]
			if e.Host != of.host || e.Engine != of.engine {
				continue
			}
			for k := range e.Policies {
				s.senders.Add(&e.Policies[k])
			}
			for k := range e.Gone {
				gone[at(of.host, of.engine, &e.Gone[k])] = true
			}
		}
	}
	live := m.plan.Hosts[of.host].Facts.Engine(of.engine)
	if live == nil {
		return s
	}
	for i := range live.Policies {
		p := &live.Policies[i]
		id := at(of.host, of.engine, &p.Policy)
		if m.wanted[id] || gone[id] {
			continue
		}
		s.senders.Add(&p.Policy)
		if m.owners[id] == nil && !isDetour(&p.Policy) {
			s.foreign = append(s.foreign, p)
		}
	}
	return s
}

// untried is which traffic that an end sends no probe can be part of.
func (m *maker) untried(e *End, all *Senders) (list []string) {
	local := []netip.Addr{e.Local}
	for i := range m.plan.Hosts[e.Host].Facts.Devices {
		for _, a := range m.plan.Hosts[e.Host].Facts.Devices[i].Addresses {
			local = append(local, a.Addr())
		}
	}
	for i := range e.Policies {
		policy := &e.Policies[i]
		if policy.Direction != ipsec.Outbound || policy.Action != ipsec.Protect {
			continue
		}
		flows, err := Trials(&policy.Selector, local, []netip.Addr{e.Remote})
		if _, ok := all.First(policy, flows); err == nil && !ok {
			list = append(list, policy.Selector.String())
		}
	}
	return list
}

// some of what there is to tell: the first, and how many more there are.
func some(list []string) []string {
	const most = 3
	if n := len(list) - most; n > 0 {
		return append(list[:most:most], fmt.Sprintf("and %d more", n))
	}
	return list
}

// isDetour reports whether a policy has the form of those of detours, which are there while a command needs them.
func isDetour(p *Policy) bool {
	return p.Priority == detourPriority && p.Selector.Protocol == protocolTCP && p.Selector.HasPorts()
}
