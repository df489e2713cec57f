package tunnel

import (
	"net/netip"
	"slices"

	"espalier/config"
	"espalier/ipsec"
)

// endID is what a host's end of a pair of the file is known by.
type endID struct {
	host          int
	tunnel        string
	local, remote netip.Addr
}

// wanted is a pair of the file.
type wanted struct {
	t *config.Tunnel
	p *config.Pair
}

// recognize finds out which pairs of the file those are that hosts have. Between two addresses a pair is
// the same as long as its policies are for the same traffic, whatever it is called; if they are not, it is
// the one of that name.
func (m *maker) recognize() {
	pairs := map[[2]netip.Addr][]wanted{}
	for i := range m.file.Tunnels {
		t := &m.file.Tunnels[i]
		for j := range t.Pairs {
			p := &t.Pairs[j]
			id := pairOf("", p.A.Address, p.B.Address)
			ends := [2]netip.Addr{id.low, id.high}
			pairs[ends] = append(pairs[ends], wanted{t, p})
		}
	}
	for i := range m.plan.Hosts {
		if m.first(i) != i {
			continue
		}
		there := map[[2]netip.Addr][]*Owned{} // from local to remote
		owned := m.plan.Hosts[i].Facts.Owned
		for j := range owned {
			o := &owned[j]
			ends := [2]netip.Addr{o.Local, o.Remote}
			there[ends] = append(there[ends], o)
			for k := range o.Policies {
				for _, processing := range o.Policies[k].Processing {
					m.taken[processing.RequestID] = true
				}
			}
		}
		for ends, owned := range there {
			id := pairOf("", ends[0], ends[1])
			for w, o := range m.match(pairs[[2]netip.Addr{id.low, id.high}], owned) {
				m.known[endID{i, w.t.Name, o.Local, o.Remote}] = o
				m.stays[o] = true
			}
		}
	}
}

// match tells pairs of the file among those that a host has between the same two addresses.
func (m *maker) match(file []wanted, owned []*Owned) map[wanted]*Owned {
	is, free := map[wanted]*Owned{}, slices.Clone(owned)
	take := func(w wanted, fits func(*Owned) bool) {
		if i := slices.IndexFunc(free, fits); i >= 0 && is[w] == nil {
			is[w] = free[i]
			free = slices.Delete(free, i, i+1)
		}
	}
	named := func(w wanted) func(*Owned) bool { return func(o *Owned) bool { return o.Tunnel == w.t.Name } }
	if len(file) == 1 && len(owned) == 1 && named(file[0])(owned[0]) {
		return map[wanted]*Owned{file[0]: owned[0]}
	}
	for _, w := range file {
		take(w, func(o *Owned) bool { return named(w)(o) && o.protects(w) })
	}
	for _, w := range file {
		take(w, func(o *Owned) bool {
			return (o.Origin == m.opt.Origin || m.opt.Adopt || m.opt.Yield) && o.protects(w)
		})
	}
	for again := true; again; { // a name is free once what has it is called otherwise, or it has to go first
		again = false
		for w, o := range is {
			if o.Tunnel != w.t.Name && slices.ContainsFunc(free, named(w)) {
				delete(is, w)
				free, again = append(free, o), true
			}
		}
	}
	for _, w := range file {
		take(w, named(w))
	}
	return is
}

// protects reports whether what a host has protects just the traffic that a pair of the file is for, in the
// same mode and directions.
func (o *Owned) protects(w wanted) bool {
	wanted := map[policyAt]bool{}
	for _, lane := range w.p.Lanes {
		for _, entry := range lane.Protect {
			s := entry.Selector
			if o.Local == w.p.B.Address {
				s = config.Mirror(s)
			}
			for _, d := range directions(w.t) {
				wanted[policyAt{sel: toward(d, s), dir: d, mark: w.t.Mark, ifID: w.t.IfID}] = true
			}
		}
	}
	n := 0
	for i := range o.Policies {
		p := &o.Policies[i]
		if p.Action != ipsec.Protect {
			continue
		}
		if n++; !wanted[at(0, "", p)] || len(p.Processing) != 1 || p.Processing[0].Mode != w.t.Mode.IPsec() {
			return false
		}
	}
	return n > 0 && n == len(wanted)
}

// requestIDs gives the lanes of a pair the request IDs that hosts have for their traffic already: SAs and
// policies of the pair then stay what they are to each other, whatever it is called. Where they have none, or
// two, it is the file's, or the next one if that is another pair's.
func (m *maker) requestIDs(p *config.Pair, had *[2]*Owned) *config.Pair {
	ours := map[uint32]bool{}
	var have [2][]uint32
	for i, o := range had {
		if o == nil {
			continue
		}
		have[i] = o.requestIDs(p)
		for k := range o.Policies {
			for _, processing := range o.Policies[k].Processing {
				ours[processing.RequestID] = true
			}
		}
	}
	if have[0] == nil {
		have[0] = have[1]
	}
	if have[1] == nil {
		have[1] = have[0]
	}
	out := *p
	out.Lanes = slices.Clone(p.Lanes)
	for i := range out.Lanes {
		id := &out.Lanes[i].RequestID
		if have[0] != nil && have[0][i] == have[1][i] && have[0][i] != 0 {
			*id = have[0][i]
			continue
		}
		for m.taken[*id] && !ours[*id] {
			*id++
		}
		m.taken[*id] = true
	}
	return &out
}

// requestIDs are those that a host has for the lanes of a pair; 0: none, or not for that one alone.
func (o *Owned) requestIDs(p *config.Pair) []uint32 {
	lanes := map[ipsec.Selector]int{}
	for i, lane := range p.Lanes {
		for _, entry := range lane.Protect {
			s := entry.Selector
			if o.Local == p.B.Address {
				s = config.Mirror(s)
			}
			lanes[s] = i
		}
	}
	ids := make([]uint32, len(p.Lanes))
	of := map[uint32]int{} // the lane of a request ID
	distinct := map[uint32]bool{}
	const several = -1
	for i := range o.Policies {
		policy := &o.Policies[i]
		if policy.Direction != ipsec.Outbound || len(policy.Processing) == 0 {
			continue
		}
		id := policy.Processing[0].RequestID
		distinct[id] = true
		lane, known := lanes[policy.Selector]
		if !known {
			continue
		}
		if before, seen := of[id]; seen && before != lane {
			lane = several
		}
		of[id] = lane
	}
	if len(p.Lanes) == 1 {
		if len(distinct) == 1 {
			for id := range distinct {
				ids[0] = id
			}
		}
		return ids
	}
	twice := map[int]bool{}
	for id, lane := range of {
		if lane == several {
			continue
		}
		if ids[lane] != 0 {
			twice[lane] = true
		}
		ids[lane] = id
	}
	for lane := range twice {
		ids[lane] = 0
	}
	return ids
}
