package lint

import (
	"cmp"
	"fmt"
	"io/fs"
	"slices"

	"espalier/ipsec"
	"espalier/xfrm"
	"espalier/xfrm/pair"
	"espalier/xfrm/script"
)

// Source is a script to check.
type Source struct {
	Name string
	Host string // name of its host, "" if the script tells by itself
	Text string
	Mode fs.FileMode // of the file; 0: not known
}

// Options tell what is known besides the scripts.
type Options struct {
	// Kernel is the release that the scripts are for; the zero Release is the newest.
	Kernel xfrm.Release
	// KeyMode is the mode of a file that a script takes a key from, false if it is not here. It may be nil.
	KeyMode func(path string) (fs.FileMode, bool)
}

// newest is for kernels to come.
var newest = xfrm.Release{Major: 1 << 20}

// Report is what is found in scripts.
type Report struct {
	Hosts    []*script.Host
	Findings []Finding // in the order of the files and their lines

	sources []Source
	options Options
	scripts []*script.Script
	names   *script.Interfaces
	newKeys map[keyOfSA]ipsec.Key // that Fix gives to SAs
}

// Scripts looks at scripts of one or more hosts. An error is about a text that is none.
func Scripts(sources []Source, options Options) (*Report, error) {
	if options.Kernel == (xfrm.Release{}) {
		options.Kernel = newest
	}
	r := &Report{sources: sources, options: options, names: new(script.Interfaces)}
	var given []string
	for _, src := range sources {
		s, err := script.Read(src.Name, src.Text, r.names)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", src.Name, err)
		}
		r.scripts, given = append(r.scripts, s), append(given, src.Host)
	}
	r.Hosts = script.Hosts(r.scripts, given)
	r.lines()
	var found []Finding
	hosts := make([]*host, len(r.Hosts))
	for i, h := range r.Hosts {
		hosts[i] = newHost(r, h)
		found = append(found, hosts[i].check()...)
	}
	found = append(found, r.keys(hosts)...)
	found = append(found, r.between(hosts)...)
	r.Findings = append(r.Findings, found...)
	order := map[string]int{}
	for i, s := range sources {
		order[s.Name] = i
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(order[a.File], order[b.File]), cmp.Compare(a.Line, b.Line), cmp.Compare(rank(a.Severity), rank(b.Severity)))
	})
	return r, nil
}

// lines tells of lines that could not be read.
func (r *Report) lines() {
	for _, s := range r.scripts {
		for _, u := range s.Unread {
			r.add(Finding{ID: NotUnderstood, Severity: Warning, About: "the line", Text: "takes a shell to know what it does: " + u.Reason,
				Fix: "write the values themselves, one command after the other", Place: Place{s.Name, u.Line}})
		}
		for i := range s.Commands {
			if c := &s.Commands[i]; c.Err != nil {
				r.add(Finding{ID: BadCommand, Severity: Error, About: "the line", Text: "is refused by ip: " + c.Err.Error(),
					Fix: "put the words right; see espalier xfrm --help", Place: Place{s.Name, c.Line}})
			}
		}
	}
}

func (r *Report) add(f Finding) { r.Findings = append(r.Findings, f) }

// host is one that is looked at.
type host struct {
	*script.Host
	report *Report
	match  *pair.Matching
	// whole says that all lines were understood: what is not there is missing.
	whole     bool
	forwarded map[ipsec.Selector]bool // by fwd policies
	found     []Finding
}

func newHost(r *Report, h *script.Host) *host {
	local := h.Has
	if len(h.Addresses) == 0 {
		local = nil
	}
	host := &host{Host: h, report: r, match: pair.Match(h.States, h.Policies, local), whole: true}
	for _, s := range r.scripts {
		if slices.Contains(h.Files, s.Name) && (len(s.Unread) > 0 || slices.ContainsFunc(s.Commands, func(c script.Command) bool { return c.Err != nil })) {
			host.whole = false
		}
	}
	return host
}

// ofWhat is missing: these are not told of a host some of whose lines are not known.
var ofWhat = []ID{PolicyWithoutSA, SAWithoutPolicy, MissingIn, OneSided, MissingFwd, NoPeerSA, PolicyMismatch, NeighbourDiscovery}

func (h *host) add(f Finding) {
	if h.whole || !slices.Contains(ofWhat, f.ID) {
		h.found = append(h.found, h.placed(f))
	}
}

// placed is a finding about states or policies with its place.
func (h *host) placed(f Finding) Finding {
	f.Host = h.Name
	if f.Place == (Place{}) {
		switch {
		case len(f.Policies) > 0 && f.ID != WrongDirection && f.ID != SASelector:
			f.Place = place(h.PolicyAt[f.Policies[0]])
		case len(f.States) > 0:
			f.Place = place(h.StateAt[f.States[0]])
		}
	}
	if (f.ID == ReqidMismatch || f.ID == TemplateMismatch) && f.Also == nil {
		f.Also = []Place{place(h.StateAt[f.States[0]])}
	}
	if f.mend == nil {
		if mend := menders[f.ID]; mend != nil {
			f.mend = func() ([]edit, string) { return mend(h, &f) }
		}
	}
	return f
}

// at says beside a policy where an SA stands.
func (h *host) at(policy, state int) string {
	sa := place(h.StateAt[state])
	if sa.File == h.PolicyAt[policy].Script.Name {
		return fmt.Sprintf(" (line %d)", sa.Line)
	}
	return " (" + sa.Position() + ")"
}

func place(at script.At) Place { return Place{at.Script.Name, at.Command.Line} }

// answered reports whether there is any SA the other way.
func (h *host) answered(i int) bool {
	s := h.States[i]
	return slices.ContainsFunc(h.States, func(t *xfrm.State) bool { return t.Src == s.Dst && t.Dst == s.Src && t.Proto == s.Proto })
}

// check finds what one host tells by itself.
func (h *host) check() []Finding {
	for _, f := range (&check{states: h.States, policies: h.Policies, m: h.match, script: true, at: h.at}).run(h.Defaults) {
		if f.ID != OneSided || !h.answered(f.States[0]) { // a pair that differs in mode is told between the hosts
			h.add(f)
		}
	}
	for _, again := range h.Refused {
		f := Finding{ID: AddedTwice, Severity: Error, Place: place(again.At), Also: []Place{place(again.First)},
			Text: "is there already, from " + place(again.First).Position() + ": ip says \"File exists\", and this one is not added", Fix: "delete one of the lines"}
		if again.State != nil {
			f.About, f.Fix = aboutState(again.State), "delete one of the lines, or give one another SPI"
		} else {
			f.About = "policy " + again.Policy.ID().String()
		}
		h.add(f)
	}
	for i := range h.States {
		h.state(i)
	}
	for i := range h.Policies {
		h.policy(i)
	}
	return h.found
}
