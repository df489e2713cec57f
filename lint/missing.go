package lint

import (
	"net/netip"

	"espalier/ipsec"
	"espalier/xfrm"
)

// missingIn finds traffic that is protected on its way out and for which there is no in policy at all:
// Linux accepts it in clear. What a policy says about it, allow or block, is not judged.
func (c *check) missingIn() {
	in := inbound{bySrc: map[netip.Prefix][]*xfrm.Policy{}}
	for _, p := range c.policies {
		if p.Dir == xfrm.PolicyIn && !p.IsSocket() {
			in.add(p)
		}
	}
	for i, p := range c.policies {
		if p.Dir != xfrm.PolicyOut || !protects(p) || in.covers(p) {
			continue
		}
		back := ipsec.Selector{Src: p.Sel.Dst, Dst: p.Sel.Src, Protocol: p.Sel.Protocol, SrcPort: p.Sel.DstPort, DstPort: p.Sel.SrcPort}
		c.add(Finding{ID: MissingIn, Severity: Error, About: "policy " + p.ID().String(), Policies: []int{i},
			Text: "no in policy covers the way back, " + back.String() + ": cleartext is accepted there",
			Fix:  "add policy " + back.String() + " dir in, with the template of the SA for receiving"})
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

// covers reports whether one of the policies takes all of what comes back for an out policy.
func (in *inbound) covers(out *xfrm.Policy) bool {
	remote := out.Sel.Dst
	for _, p := range in.any {
		if coversBack(p, out) {
			return true
		}
	}
	if !remote.IsValid() {
		return false
	}
	for bits := remote.Bits(); bits > 0; bits-- {
		if !in.lengths[bits] {
			continue
		}
		src, err := remote.Addr().Prefix(bits)
		if err != nil {
			continue
		}
		for _, p := range in.bySrc[src] {
			if coversBack(p, out) {
				return true
			}
		}
	}
	return false
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
