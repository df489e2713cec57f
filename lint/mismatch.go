package lint

import (
	"fmt"
	"math/bits"
	"net/netip"
	"strings"

	"espalier/xfrm"
	"espalier/xfrm/pair"
)

// mismatch is about a policy and the SA that would serve it but for what its template, or the policy, says.
func (c *check) mismatch(i, s int) {
	p, state := c.policies[i], c.states[s]
	t, d := nearest(p, state)
	c.nearby[s] = true
	where := ""
	if c.at != nil {
		where = c.at(i, s)
	}
	text, counter := consequence(p)
	f := Finding{ID: TemplateMismatch, Severity: Error, About: "policy " + p.ID().String(), Counter: counter, States: []int{s}, Policies: []int{i}}
	if d == pair.OtherReqid {
		f.ID = ReqidMismatch
		f.Text = fmt.Sprintf("wants reqid %s, but the SA between its addresses%s has %s: %s", reqid(t.Reqid), where, reqid(state.Reqid), text)
		if c.ways[way{state.Dst, state.Src, t.Reqid}] {
			f.Text = fmt.Sprintf("wants reqid %s, which is the other direction's; the SA of this one%s has %s: %s", reqid(t.Reqid), where, reqid(state.Reqid), text)
		}
		f.Fix = fmt.Sprintf("give the template reqid %s, or the SA reqid %s", reqid(state.Reqid), reqid(t.Reqid))
		c.add(f)
		return
	}
	c.unpaired[ends(state)] = true
	if d == pair.OtherAddresses {
		c.strayed[i] = true
	}
	if elsewhere(t, d) && p.Dir != xfrm.PolicyOut {
		text, f.Counter = "what the SA receives does not fall under it", ""
		if state.Mode == xfrm.ModeTunnel {
			text, f.Counter = text+", and is dropped (XfrmInNoPols)", "XfrmInNoPols"
		}
	}
	var wants, has, fixes []string
	for _, part := range partsOf(p, t, state, d) {
		wants, has, fixes = append(wants, part.wants), append(has, part.has), append(fixes, part.fix)
	}
	f.Text = fmt.Sprintf("wants %s, but SA %s%s has %s: %s", strings.Join(wants, " and "), state.SPI, where, strings.Join(has, " and "), text)
	f.Fix = strings.Join(fixes, "; ")
	c.add(f)
}

// nearest is the template of a policy from which a state differs least, and in what.
func nearest(p *xfrm.Policy, s *xfrm.State) (t *xfrm.Tmpl, d pair.Difference) {
	for j := range p.Tmpls {
		if p.Tmpls[j].Proto != s.Proto {
			continue
		}
		differs := pair.Differences(p, &p.Tmpls[j], s)
		if t == nil || bits.OnesCount8(uint8(differs)) < bits.OnesCount8(uint8(d)) {
			t, d = &p.Tmpls[j], differs
		}
	}
	return t, d
}

// elsewhere reports whether a difference is in what says which packets a policy is about, not in what it asks of them.
func elsewhere(t *xfrm.Tmpl, d pair.Difference) bool {
	return d&(pair.OtherIfID|pair.OtherMark) != 0 || d == pair.OtherAddresses && t.Mode == xfrm.ModeTransport
}

// part is one of several differences.
type part struct{ wants, has, fix string }

func partsOf(p *xfrm.Policy, t *xfrm.Tmpl, s *xfrm.State, d pair.Difference) (parts []part) {
	tell := func(what pair.Difference, owner, wants, has string) {
		if d&what != 0 {
			parts = append(parts, part{wants, has, fmt.Sprintf("give the %s %s, or the SA %s", owner, has, wants)})
		}
	}
	tell(pair.OtherReqid, "template", "reqid "+reqid(t.Reqid), "reqid "+reqid(s.Reqid))
	tell(pair.OtherMode, "template", "mode "+t.Mode.String(), "mode "+s.Mode.String())
	tell(pair.OtherIfID, "policy", ifIDText(p.IfID), ifIDText(s.IfID))
	tell(pair.OtherMark, "policy", markText(p.Mark), markText(s.Mark))
	tell(pair.OtherSPI, "template", "spi "+t.SPI.String(), "spi "+s.SPI.String())
	if d&pair.OtherAddresses == 0 {
		return parts
	}
	has := fmt.Sprintf("src %s dst %s", s.Src, s.Dst)
	if t.Mode == xfrm.ModeTransport {
		tell(pair.OtherAddresses, "policy", fmt.Sprintf("src %s dst %s", plain(p.Sel.Src), plain(p.Sel.Dst)), has)
	} else {
		tell(pair.OtherAddresses, "template", fmt.Sprintf("src %s dst %s", t.Src, t.Dst), has)
	}
	return parts
}

// plain is a prefix, or its address if it has one only.
func plain(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "any"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

func ifIDText(id uint32) string {
	if id == 0 {
		return "no if_id"
	}
	return fmt.Sprintf("if_id %d", id)
}

func markText(m *xfrm.Mark) string {
	if m == nil || *m == (xfrm.Mark{}) {
		return "no mark"
	}
	return fmt.Sprintf("mark %#x mask %#x", m.Value, m.Mask)
}
