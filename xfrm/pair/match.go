package pair

import (
	"net/netip"

	"espalier/ipsec"
	"espalier/xfrm"
)

// Matching tells what belongs together. States and policies are named by their place in the slices
// given to Match.
type Matching struct {
	Directions []ipsec.Direction // of the states; AnyDirection if nothing tells
	Serves     [][]int           // policies that each state serves
	ServedBy   [][]int           // states that serve each policy
	Near       []int             // of a policy that none serves: the state that is nearly right (Differences), of those that serve none of its direction; -1: none
	Pairs      []Pair            // in the order of the states that come first
}

// Match finds what belongs together. local tells which addresses are this host's; nil: not known.
// Policies of sockets serve nobody.
func Match(states []*xfrm.State, policies []*xfrm.Policy, local func(netip.Addr) bool) *Matching {
	m := &Matching{
		Directions: make([]ipsec.Direction, len(states)),
		Serves:     make([][]int, len(states)),
		ServedBy:   make([][]int, len(policies)),
		Near:       make([]int, len(policies)),
	}
	x := newIndex(states)
	for i, p := range policies {
		m.Near[i] = -1
		if p.IsSocket() {
			continue
		}
		for t := range p.Tmpls {
			for _, s := range x.candidates(p, &p.Tmpls[t]) {
				if Fits(p, &p.Tmpls[t], states[s]) {
					m.Serves[s] = append(m.Serves[s], i)
					m.ServedBy[i] = append(m.ServedBy[i], s)
				}
			}
		}
	}
	for i, p := range policies {
		if len(m.ServedBy[i]) == 0 && !p.IsSocket() {
			m.Near[i] = m.near(p, policies, x)
		}
	}
	for i, s := range states {
		m.Directions[i] = direction(s, m.Serves[i], policies, local)
	}
	m.Pairs = pairs(states, m.Directions)
	return m
}

// direction of a state: what it says itself, else that of the policies it serves, else by whose its
// addresses are, else by which sequence numbers it has used.
func direction(s *xfrm.State, serves []int, policies []*xfrm.Policy, local func(netip.Addr) bool) ipsec.Direction {
	switch {
	case s.Dir == xfrm.StateDirOut, s.Offload != nil && s.Offload.Flags&xfrm.OffloadInbound == 0:
		return ipsec.Outbound
	case s.Dir == xfrm.StateDirIn, s.Offload != nil:
		return ipsec.Inbound
	}
	var in, out bool
	for _, p := range serves {
		if policies[p].Dir == xfrm.PolicyOut {
			out = true
		} else {
			in = true
		}
	}
	if in == out && local != nil {
		in, out = local(s.Dst), local(s.Src)
	}
	if r := s.Replay; in == out && r != nil {
		in, out = r.Seq|r.SeqHi != 0, r.OSeq|r.OSeqHi != 0
	}
	switch {
	case out && !in:
		return ipsec.Outbound
	case in && !out:
		return ipsec.Inbound
	}
	return ipsec.AnyDirection
}
