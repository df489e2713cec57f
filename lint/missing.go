package lint

import (
	"net/netip"

	"espalier/ipsec"
	"espalier/xfrm"
)

// missingIn finds traffic that is protected on its way out and accepted in clear on its way in: because an in
// policy allows it, or because there is none and Linux accepts what no policy covers, as it does by default.
// Policies that cover a part of it only are not judged.
func (c *check) missingIn(defaults *xfrm.Defaults) {
	in := inbound{bySrc: map[netip.Prefix][]*xfrm.Policy{}}
	for _, p := range c.policies {
		if p.Dir == xfrm.PolicyIn && !p.IsSocket() {
			in.add(p)
		}
	}
	for i, p := range c.policies {
		if p.Dir != xfrm.PolicyOut || !protects(p) || c.strayed[i] {
			continue
		}
		back := ipsec.Selector{Src: p.Sel.Dst, Dst: p.Sel.Src, Protocol: p.Sel.Protocol, SrcPort: p.Sel.DstPort, DstPort: p.Sel.SrcPort}
		f := Finding{ID: MissingIn, Severity: Error, About: "policy " + p.ID().String(), Policies: []int{i}}
		switch way := in.first(p); {
		case way == nil && (defaults == nil || defaults.In != xfrm.DefaultBlock):
			f.Text = "no in policy covers the way back, " + back.String() + ": cleartext is accepted there"
			f.Fix = "add policy " + back.String() + " dir in, with the template of the SA for receiving"
		case way != nil && way.Action == xfrm.PolicyAllow && len(way.Tmpls) == 0:
			f.Text = "on the way back policy " + way.ID().String() + " decides, which has no template: cleartext is accepted there"
			f.Fix = "give that policy the template of the SA for receiving, or add one for " + back.String() + " of a lower priority number"
		default:
			continue
		}
		c.add(f)
	}
}

// inbound are in policies by where packets come from.
type inbound struct {
	bySrc   map[netip.Prefix][]*xfrm.Policy
	lengths [129]bool
	any     []*xfrm.Policy // of no source
}

func (in *inbound) add(p *xfrm.Policy) {
	src := p.Sel.Src
	if !src.IsValid() || src.Bits() == 0 {
		in.any = append(in.any, p)
		return
	}
	src = src.Masked()
	in.bySrc[src] = append(in.bySrc[src], p)
	in.lengths[src.Bits()] = true
}

// first is the policy that decides on all of what comes back for an out policy: of those that cover it, the
// one of the lowest priority number. It is nil if there is none.
func (in *inbound) first(out *xfrm.Policy) (first *xfrm.Policy) {
	consider := func(policies []*xfrm.Policy) {
		for _, p := range policies {
			if (first == nil || p.Priority < first.Priority) && coversBack(p, out) {
				first = p
			}
		}
	}
	consider(in.any)
	remote := out.Sel.Dst
	if !remote.IsValid() {
		return first
	}
	for bits := remote.Bits(); bits > 0; bits-- {
		if !in.lengths[bits] {
			continue
		}
		if src, err := remote.Addr().Prefix(bits); err == nil {
			consider(in.bySrc[src])
		}
	}
	return first
}

func coversBack(in, out *xfrm.Policy) bool {
	return contains(in.Sel.Src, out.Sel.Dst) && contains(in.Sel.Dst, out.Sel.Src) &&
		(in.Sel.Protocol == 0 || in.Sel.Protocol == out.Sel.Protocol) &&
		(in.Sel.SrcPort.Any() || in.Sel.SrcPort == out.Sel.DstPort) &&
		(in.Sel.DstPort.Any() || in.Sel.DstPort == out.Sel.SrcPort) && in.IfID == out.IfID
}

// contains reports whether all of b is in a; the zero prefix has all addresses.
func contains(a, b netip.Prefix) bool {
	switch {
	case !a.IsValid():
		return true
	case !b.IsValid():
		return a.Bits() == 0
	}
	return a.Bits() <= b.Bits() && a.Contains(b.Addr())
}
