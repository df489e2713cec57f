package tunnel

import (
	"espalier/ipsec"
)

// Difference is a line of what changes on a host: an SA or a policy.
type Difference struct {
	Sign   Sign
	SA     *SA // of an old one the key is not known
	Policy *Policy
	sends  bool
}

// Outbound reports whether an SA is one that this host sends by.
func (d *Difference) Outbound() bool { return d.sends }

// Sign of a difference.
type Sign string

const (
	Added   Sign = "+"
	Removed Sign = "-"
	Changed Sign = "~" // a policy that takes the place of another for the same traffic
)

// Diff is what changes on a host, in the order in which it does.
func (p *Plan) Diff(host int) (diff []Difference) {
	var in, out, accepting, sending, last []Difference
	m := newMaker(p.Hosts)
	m.index(host)
	for e, pair := range p.EndsOf(host) {
		for i := range e.Inbound {
			in = append(in, Difference{Sign: Added, SA: &e.Inbound[i]})
		}
		for i := range e.Outbound {
			out = append(out, Difference{Sign: Added, SA: &e.Outbound[i], sends: true})
		}
		if pair.Action != Remove {
			for i := range e.Policies {
				policy := &e.Policies[i]
				d := Difference{Sign: Added, Policy: policy}
				if there := m.policy(e, policy); there != nil {
					if !there.Other && samePolicy(&there.Policy, policy) {
						continue
					}
					d.Sign = Changed
				}
				if policy.Direction == ipsec.Outbound && policy.Action == ipsec.Protect {
					sending = append(sending, d)
				} else {
					accepting = append(accepting, d)
				}
			}
		}
		for i := range e.Gone {
			last = append(last, Difference{Sign: Removed, Policy: &e.Gone[i]})
		}
		for _, id := range e.Old {
			if sa := m.sa(e, id); sa != nil {
				last = append(last, Difference{Sign: Removed, SA: sa.sa(), sends: sa.Src == e.Local})
			}
		}
	}
	for _, part := range [][]Difference{in, out, accepting, sending, last} {
		diff = append(diff, part...)
	}
	return diff
}

// sa is what can be said of a live SA as one that is planned.
func (l *LiveSA) sa() *SA {
	sa := &SA{
		SA: ipsec.SA{
			Src: l.Src, Dst: l.Dst, SPI: l.SPI, Mode: l.Mode, Direction: l.Direction, RequestID: l.RequestID,
			ICVBits: int(l.ICVBits), ESN: l.ESN, Window: l.Window, Encap: l.Encap, Selector: l.Selector, Offload: l.Offload, Limits: l.Limits,
		},
		Mark: l.Mark, OutputMark: l.OutputMark, IfID: l.IfID,
	}
	sa.CPU = l.CPU
	return sa
}

// Count is how many pairs have an action.
func (p *Plan) Count(action Action) (n int) {
	for i := range p.Pairs {
		if p.Pairs[i].Action == action {
			n++
		}
	}
	return n
}

// Steps are the order in which a change goes, on all hosts at the same time, and what traffic sees
// of it.
func (p *Plan) Steps() []string {
	if !p.Changes() {
		return nil
	}
	var steps []string
	if p.Count(Create)+p.Count(Replace) > 0 {
		steps = append(steps, "inbound SAs", "outbound SAs; traffic that has older ones goes by these from here on")
	}
	steps = append(steps, "what goes in clear, and policies in and fwd, which take cleartext as well at first",
		"policies out: traffic that had no SAs is encrypted from here on")
	if p.Count(Create)+p.Count(Replace)+p.Count(Adjust) > 0 {
		steps = append(steps, "probes inside each selector, both ways: they have to come, decrypted")
	}
	return append(steps, "policies in and fwd refuse cleartext; the guard, and the unit that loads it at boot",
		"a new connection to each host, then confirmation: without it each host undoes all by itself",
		"after a grace, what is old is deleted")
}

// Traffic says what the traffic of a pair sees of the change.
func (p *Pair) Traffic() string {
	switch p.Action {
	case Create, Replace:
		if p.Refuses {
			return "goes on, by new SAs with new keys and other request IDs: a few packets under way may be lost"
		}
		if p.Action == Replace {
			return "goes on, by new SAs with new keys; no packet is lost"
		}
		return "in clear until policies out are there, then encrypted; no packet is lost"
	case Adjust:
		return "goes on by the SAs that are there"
	case Remove:
		if p.OneSided {
			return "in clear from one end, and dropped at the other if that still protects it"
		}
		return "in clear again once its policies out are gone, unless another tunnel takes it"
	}
	return ""
}
