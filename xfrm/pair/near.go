package pair

import (
	"math/bits"
	"net/netip"
	"slices"

	"espalier/xfrm"
)

// Difference is a set of what keeps a state from serving a policy's template.
type Difference uint8

const (
	OtherReqid Difference = 1 << iota
	OtherMode
	OtherIfID
	OtherMark
	OtherSPI
	// OtherAddresses are not the template's in tunnel mode, and not those of the policy's packets in transport mode.
	OtherAddresses
)

// Fits reports whether a state serves one of a policy's templates.
func Fits(p *xfrm.Policy, t *xfrm.Tmpl, s *xfrm.State) bool {
	return !s.IsLarval() && s.Proto == t.Proto && Differences(p, t, s) == 0
}

// Differences tells what would have to be another for a state of a template's protocol to serve it. For sending, a
// template's reqid of 0 is a number like others.
func Differences(p *xfrm.Policy, t *xfrm.Tmpl, s *xfrm.State) (d Difference) {
	for _, c := range []struct {
		what Difference
		fits bool
	}{
		{OtherReqid, s.Reqid == t.Reqid || p.Dir != xfrm.PolicyOut && t.Reqid == 0},
		{OtherMode, s.Mode == t.Mode},
		{OtherIfID, s.IfID == p.IfID},
		{OtherMark, marksFit(p, s)},
		{OtherSPI, t.SPI == 0 || s.SPI == t.SPI},
		{OtherAddresses, addressesFit(p, t, s)},
	} {
		if !c.fits {
			d |= c.what
		}
	}
	return d
}

// marksFit: for sending, the mark of the policy counts (xfrm_state_find); for receiving that of the packet, which has to
// be one that both take, unless the state gives it another.
func marksFit(p *xfrm.Policy, s *xfrm.State) bool {
	var wants, has xfrm.Mark
	if p.Mark != nil {
		wants = *p.Mark
	}
	if s.Mark != nil {
		has = *s.Mark
	}
	if p.Dir == xfrm.PolicyOut {
		return wants.Value&wants.Mask&has.Mask == has.Value
	}
	return s.OutputMark != nil || (wants.Value^has.Value)&wants.Mask&has.Mask == 0
}

func addressesFit(p *xfrm.Policy, t *xfrm.Tmpl, s *xfrm.State) bool {
	if byEndpoints(t, s.Mode) {
		return s.Dst == t.Dst && (s.Src == t.Src || !named(t.Src))
	}
	return within(p.Sel.Src, s.Src) && within(p.Sel.Dst, s.Dst)
}

// byEndpoints reports whether a template's own addresses are those of the states of a mode, not those of the packet. If
// the mode is not the template's, its addresses tell what is meant, where it has any.
func byEndpoints(t *xfrm.Tmpl, mode xfrm.Mode) bool {
	return hasEndpoints(t.Mode) || mode != t.Mode && named(t.Dst)
}

// hasEndpoints reports whether a template's own addresses count in a mode, not those of the packet.
func hasEndpoints(m xfrm.Mode) bool {
	return m == xfrm.ModeTunnel || m == xfrm.ModeBeet || m == xfrm.ModeIPTFS
}

// named reports whether a template says an address.
func named(a netip.Addr) bool { return a.IsValid() && !a.IsUnspecified() }

func within(p netip.Prefix, a netip.Addr) bool { return !p.IsValid() || p.Contains(a) }

// mostAlike: a reqid that more states have does not tell which of them is meant.
const mostAlike = 8

// near is the state with the fewest differences from a policy's template, of those that serve no policy of its
// direction; -1 if there is none. It has two differences at most; another address only if that is all, the reqid is a
// number that was chosen, and the state serves nothing at all.
func (m *Matching) near(p *xfrm.Policy, policies []*xfrm.Policy, x *index) int {
	best, fewest := -1, 3
	for i := range p.Tmpls {
		t := &p.Tmpls[i]
		consider := func(states []int) {
			for _, s := range states {
				if fewest == 1 {
					return
				}
				if x.states[s].IsLarval() {
					continue
				}
				d := Differences(p, t, x.states[s])
				switch n := bits.OnesCount8(uint8(d)); {
				case n >= fewest:
				case d&OtherAddresses != 0 && (d != OtherAddresses || t.Reqid == 0 || len(m.Serves[s]) > 0):
				case slices.ContainsFunc(m.Serves[s], func(other int) bool { return policies[other].Dir == p.Dir }):
				default:
					best, fewest = s, n
				}
			}
		}
		for mode := xfrm.ModeTransport; mode <= xfrm.ModeIPTFS; mode++ {
			consider(x.inMode(p, t, mode))
		}
		if same := x.byReqid[reqidKey{modeKey{t.Proto, t.Mode}, t.Reqid}]; len(same) <= mostAlike {
			consider(same)
		}
	}
	return best
}
