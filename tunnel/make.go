package tunnel

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"espalier/config"
)

// Kind of a change.
type Kind string

const (
	Apply  Kind = "apply"
	Rotate Kind = "rotate"
	Down   Kind = "down"
)

// Options of a plan.
type Options struct {
	// Kind of what is planned; "" is Apply. Rotate replaces the SAs of all pairs that are set up, and
	// sets up none that is not; Down removes all pairs of the file, and all there are of its origin.
	Kind Kind
	// Origin is the file by the name that hosts know it by: what they have of it, and is not in it any
	// more, is removed.
	Origin string
	// Adopt takes over policies and pairs that are somebody else's, instead of refusing them.
	Adopt bool
	// Here is the host that commands are given on, which has the timer; nil: one of those of the plan.
	Here *Facts
	// Absent tells which hosts of the file take no part: pairs with them are left as they are; with Down,
	// at the other end they are removed. nil: none.
	Absent func(*config.Host) bool
	// Yield leaves pairs as they are that are of another file by now, instead of refusing them.
	Yield bool
	// Only chooses the pairs that are rotated; nil: all.
	Only func(*Pair) bool
}

// Make plans what is to change on hosts, each of which has told its facts. The plan has them in the
// same order. What cannot be is config.Problems, all at once; then there is no plan.
//
// Pairs of a plan point into the file.
func Make(file *config.File, hosts []Host, opt Options) (*Plan, error) {
	if opt.Kind == "" {
		opt.Kind = Apply
	}
	m := newMaker(slices.Clone(hosts))
	m.file, m.opt = file, opt
	for i := range hosts {
		m.index(i)
	}
	if opt.Kind != Down {
		m.recognize()
		for i := range file.Tunnels {
			m.tunnel(&file.Tunnels[i])
		}
	} else {
		m.placeAll()
	}
	for i := range m.plan.Pairs {
		m.compare(&m.plan.Pairs[i])
	}
	m.removed()
	m.ahead()
	if len(m.problems) > 0 {
		slices.SortStableFunc(m.problems, func(a, b config.Problem) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
		})
		return nil, slices.CompactFunc(m.problems, func(a, b config.Problem) bool { return a == b })
	}
	return m.plan, nil
}

// maker makes one plan.
type maker struct {
	file     *config.File
	opt      Options
	plan     *Plan
	at       map[netip.Addr]*place // where an address of the file was found; nil: nowhere
	problems config.Problems

	known map[endID]*Owned // what hosts have of the pairs of the file
	stays map[*Owned]bool  // all that is in known
	taken map[uint32]bool  // request IDs that somebody has

	wanted   map[policyAt]bool        // the policies of all pairs
	owners   map[policyAt]*Owned      // of policies, as hosts' journals have it
	policies map[policyAt]*LivePolicy // that are there
	sas      map[saAt]*LiveSA
}

func newMaker(hosts []Host) *maker {
	return &maker{
		plan: &Plan{Hosts: hosts}, at: map[netip.Addr]*place{},
		known: map[endID]*Owned{}, stays: map[*Owned]bool{}, taken: map[uint32]bool{}, wanted: map[policyAt]bool{},
		owners: map[policyAt]*Owned{}, policies: map[policyAt]*LivePolicy{}, sas: map[saAt]*LiveSA{},
	}
}

// place is a host of the file among those of the plan.
type place struct {
	host   int
	facts  *Facts
	device *Device
}

func (m *maker) problem(at config.Position, what, instead string) {
	m.problems = append(m.problems, config.ProblemAt(m.file.Name, at, what, instead))
}

// name of a host, for people.
func (m *maker) name(host int) string { return m.plan.Hosts[host].Name }

// tunnel lays out the pairs of a tunnel whose hosts were found.
func (m *maker) tunnel(t *config.Tunnel) {
	for i := range t.Hosts {
		m.place(&t.Hosts[i])
	}
	for i := range t.Pairs {
		p := &t.Pairs[i]
		a, b := m.at[p.A.Address], m.at[p.B.Address]
		if a == nil || b == nil {
			continue
		}
		if a.host == b.host {
			m.problem(p.B.Place("address"), fmt.Sprintf("%s and %s are addresses of one host, %s", p.A.Address, p.B.Address, m.name(a.host)),
				"give addresses of two hosts: what stays on a host is not encrypted")
			continue
		}
		if pair, ok := m.pair(t, p, a, b); ok {
			m.plan.Pairs = append(m.plan.Pairs, pair)
			m.claim(&m.plan.Pairs[len(m.plan.Pairs)-1])
		}
	}
}
