package tunnel

import (
	"fmt"
	"net/netip"
	"slices"
)

// pairID is what a pair is known by, lower address first.
type pairID struct {
	tunnel    string
	low, high netip.Addr
}

func pairOf(tunnel string, a, b netip.Addr) pairID {
	if b.Less(a) {
		a, b = b, a
	}
	return pairID{tunnel, a, b}
}

// removed adds what hosts have of this file, and that is not in it any more; with Down, all.
func (m *maker) removed() {
	if m.opt.Kind == Rotate {
		return
	}
	in := map[pairID]int{} // in the plan
	for i := range m.plan.Pairs {
		p := &m.plan.Pairs[i]
		in[pairOf(p.Tunnel, p.Ends[0].Local, p.Ends[1].Local)] = i
	}
	if m.opt.Kind != Down {
		for i := range m.file.Tunnels { // those that could not be planned are not gone
			t := &m.file.Tunnels[i]
			for _, p := range t.Pairs {
				if id := pairOf(t.Name, p.A.Address, p.B.Address); m.at[p.A.Address] == nil || m.at[p.B.Address] == nil {
					in[id] = -1
				}
			}
		}
	}
	for i := range m.plan.Hosts {
		if m.first(i) != i {
			continue
		}
		facts := m.plan.Hosts[i].Facts
		for j := range facts.Owned {
			o := &facts.Owned[j]
			if m.stays[o] || o.Origin != m.opt.Origin && !(m.opt.Adopt && m.inFile(o)) {
				continue
			}
			id := pairOf(o.Tunnel, o.Local, o.Remote)
			k, known := in[id]
			if known && (k < 0 || m.plan.Pairs[k].Action != Remove) {
				continue
			}
			if !known {
				k = len(m.plan.Pairs)
				in[id] = k
				why := "it is no longer in the file"
				if m.opt.Kind == Down {
					why = "all is taken down"
				}
				m.plan.Pairs = append(m.plan.Pairs, Pair{Tunnel: o.Tunnel, Action: Remove, Why: []string{why}})
			}
			p := &m.plan.Pairs[k]
			slot := 0
			if p.Ends[0].Local.IsValid() {
				slot = 1
			}
			p.Ends[slot] = m.leaving(p, i, o)
		}
	}
	for i := range m.plan.Pairs {
		if p := &m.plan.Pairs[i]; p.Action == Remove && !p.Ends[1].Local.IsValid() && !m.asked(p.Ends[0].Remote) {
			p.OneSided = true
			p.Notes = append(p.Notes, fmt.Sprintf("%s is not asked: if it still has the tunnel, it keeps it, and drops what comes in clear", p.Ends[0].Remote))
		}
	}
}

// asked reports whether the host that has an address has told its facts.
func (m *maker) asked(a netip.Addr) bool {
	return slices.ContainsFunc(m.plan.Hosts, func(h Host) bool { return h.Facts.Has(a) })
}

// inFile reports whether the file has the tunnel between the two, whatever its origin.
func (m *maker) inFile(o *Owned) bool {
	for i := range m.file.Tunnels {
		t := &m.file.Tunnels[i]
		for _, p := range t.Pairs {
			if pairOf(t.Name, p.A.Address, p.B.Address) == pairOf(o.Tunnel, o.Local, o.Remote) {
				return true
			}
		}
	}
	return false
}

// leaving is the end of a pair that is to go.
func (m *maker) leaving(p *Pair, host int, o *Owned) End {
	e := End{Host: host, Engine: o.Engine, Device: o.Device, Local: o.Local, Remote: o.Remote}
	e.Gone = m.gone(&e, o)
	if live := m.plan.Hosts[host].Facts.Engine(o.Engine); live != nil {
		e.Old = oldSAs(live, &e, o)
	} else {
		p.Notes = append(p.Notes, fmt.Sprintf("%s of %s does not run any more, and its SAs and policies went with it", o.Engine, m.name(host)))
	}
	return e
}
