package importer

import (
	"net/netip"
	"slices"

	"espalier/config"
	"espalier/ipsec"
	"espalier/xfrm"
	"espalier/xfrm/script"
)

// group is what two hosts have between them that can stand in one tunnel, or in a few that differ in their subnets.
type group struct {
	a, b     netip.Addr // the first script's host, as far as it is known, comes first
	settings settings
	reqids   [2]uint32 // of the SAs a to b and b to a; zeros: not known
	at       script.At // where it was first seen
	protect  []entry   // seen from a to b
	bypass   []entry
	states   [2]*state // a to b, b to a; nil: none
}

// entry is traffic, and where it stands.
type entry struct {
	selector ipsec.Selector
	at       script.At
}

// settings tell tunnels between the same hosts apart.
type settings struct {
	mode xfrm.Mode
	mark config.Mark
	ifID uint32
}

// state is an SA and its place.
type state struct {
	*xfrm.State
	at script.At
}

// collect takes in the policies of a host.
func (im *importer) collect(h *host) {
	for i, p := range h.Policies {
		at := h.PolicyAt[i]
		switch {
		case p.Dir == xfrm.PolicyFwd || isNeighbourDiscovery(p):
		case p.Action == xfrm.PolicyBlock:
			im.lost(at, "traffic is blocked: the file has no word for it")
		case len(p.Tmpls) == 0:
			// When all that is protected is known.
		case len(p.Tmpls) > 1:
			im.lost(at, "several templates, as for ESP in ESP: only the first one counts")
			im.policy(h, i)
		default:
			im.policy(h, i)
		}
	}
	if h.Defaults != nil {
		im.remark(Remark{File: h.Files[0], Text: "policy setdefault: the file has no word for it", Lost: true})
	}
}

// isNeighbourDiscovery: what goes in clear without being named.
func isNeighbourDiscovery(p *xfrm.Policy) bool {
	return len(p.Tmpls) == 0 && p.Action == xfrm.PolicyAllow && p.Sel.Protocol == 58 && p.Sel.SrcPort.Value >= 133 && p.Sel.SrcPort.Value <= 137
}

// policy takes in one that protects.
func (im *importer) policy(h *host, i int) {
	p, at := h.Policies[i], h.PolicyAt[i]
	t := &p.Tmpls[0]
	if t.Proto != protoESP {
		im.lost(at, "another protocol than ESP: left out")
		return
	}
	if t.Mode != xfrm.ModeTransport && t.Mode != xfrm.ModeTunnel {
		im.lost(at, "mode %s: left out", t.Mode)
		return
	}
	src, dst := script.Ends(p)
	if serve := h.match.ServedBy[i]; len(serve) > 0 {
		src, dst = h.States[serve[0]].Src, h.States[serve[0]].Dst
	}
	if !src.IsValid() || !dst.IsValid() || src.IsUnspecified() || dst.IsUnspecified() {
		im.lost(at, "between which addresses ESP goes is not said: left out")
		return
	}
	if t.Optional {
		im.lost(at, "level use lets traffic pass in clear: the file protects it always")
	}
	if p.Limits != xfrm.NoLimits {
		im.lost(at, "limits of a policy: the file has those of SAs")
	}
	if p.SecCtx != nil {
		im.lost(at, "ctx: the file has no word for it")
	}
	sel := p.Sel.Selector
	if sel.Interface != 0 {
		im.lost(at, "dev of a selector: the file has no word for it")
		sel.Interface = 0
	}
	g := im.group(src, dst, settings{t.Mode, markOf(p.Mark), p.IfID}, h.reqids(i), sel, at)
	g.add(&g.protect, sel, src, at)
}

const protoESP = 50

func markOf(m *xfrm.Mark) config.Mark {
	if m == nil {
		return config.Mark{}
	}
	return config.Mark{Value: m.Value, Mask: m.Mask}
}

// reqids are those of the SA that serves a policy and of its other half; zeros if one is not there.
func (h *host) reqids(policy int) (of [2]uint32) {
	for _, s := range h.match.ServedBy[policy] {
		for _, p := range h.match.Pairs {
			if p.Out < 0 || p.In < 0 || p.Out != s && p.In != s {
				continue
			}
			of = [2]uint32{h.States[p.Out].Reqid, h.States[p.In].Reqid}
			if p.In == s {
				of[0], of[1] = of[1], of[0]
			}
			return of
		}
	}
	return of
}

// group finds or begins what is between two addresses: of those with other reqids on this host the one that has the
// traffic already.
func (im *importer) group(src, dst netip.Addr, s settings, reqids [2]uint32, sel ipsec.Selector, at script.At) *group {
	var has *group
	for _, g := range im.groups {
		if g.settings != s || !(g.a == src && g.b == dst || g.a == dst && g.b == src) {
			continue
		}
		of, seen := g.reqids, sel
		if g.a != src {
			of[0], of[1] = of[1], of[0]
			seen = config.Mirror(sel)
		}
		if of == reqids || reqids == [2]uint32{} {
			return g
		}
		if slices.ContainsFunc(g.protect, func(e entry) bool { return e.selector == seen }) {
			has = g
		}
	}
	if has != nil {
		return has
	}
	a, b := src, dst
	if im.rank(dst) < im.rank(src) {
		a, b = dst, src
		reqids[0], reqids[1] = reqids[1], reqids[0]
	}
	g := &group{a: a, b: b, settings: s, reqids: reqids, at: at}
	im.groups = append(im.groups, g)
	for way, ends := range [2][2]netip.Addr{{a, b}, {b, a}} {
		g.states[way] = im.state(ends[0], ends[1], s, reqids[way])
	}
	return g
}

// rank orders addresses by the hosts that have them.
func (im *importer) rank(a netip.Addr) int {
	if i := slices.IndexFunc(im.hosts, func(h *host) bool { return h.Has(a) }); i >= 0 {
		return i
	}
	return len(im.hosts)
}

// state is the SA from one address to another: one with the reqid, if there is any, and one that is offloaded rather
// than one that is not.
func (im *importer) state(src, dst netip.Addr, s settings, reqid uint32) (found *state) {
	better := func(t *xfrm.State) bool {
		switch {
		case found == nil:
			return true
		case (t.Reqid == reqid) != (found.Reqid == reqid):
			return t.Reqid == reqid
		}
		return found.Offload == nil && t.Offload != nil
	}
	for _, h := range im.hosts {
		for i, t := range h.States {
			if t.Src == src && t.Dst == dst && t.Proto == protoESP && t.Mode == s.mode && t.IfID == s.ifID && !t.IsLarval() && better(t) {
				found = &state{t, h.StateAt[i]}
			}
		}
	}
	return found
}

// add keeps traffic that comes from src, once.
func (g *group) add(to *[]entry, sel ipsec.Selector, src netip.Addr, at script.At) {
	if src != g.a {
		sel = config.Mirror(sel)
	}
	if !slices.ContainsFunc(*to, func(e entry) bool { return e.selector == sel }) {
		*to = append(*to, entry{sel, at})
	}
}

// leftOver takes in what is neither protected nor protects: bypasses, and SAs without policies.
func (im *importer) leftOver() {
	for _, h := range im.hosts {
		for i, p := range h.Policies {
			if len(p.Tmpls) == 0 && p.Action == xfrm.PolicyAllow && p.Dir != xfrm.PolicyFwd && !isNeighbourDiscovery(p) {
				im.bypass(p, h.PolicyAt[i])
			}
		}
	}
	for _, h := range im.hosts {
		for i, s := range h.States {
			if len(h.match.Serves[i]) == 0 {
				im.bare(h, i, s)
			}
		}
	}
}

// bypass belongs to the tunnel whose traffic it is a part of.
func (im *importer) bypass(p *xfrm.Policy, at script.At) {
	for _, g := range im.groups {
		for _, e := range g.protect {
			for _, sel := range []ipsec.Selector{p.Sel.Selector, config.Mirror(p.Sel.Selector)} {
				if e.selector.Src == sel.Src && e.selector.Dst == sel.Dst && sel.Protocol != 0 && (e.selector.Protocol == 0 || e.selector.Protocol == sel.Protocol) {
					g.add(&g.bypass, sel, g.a, at)
					return
				}
			}
		}
	}
	im.lost(at, "lets pass what is not a part, by protocol and ports, of what a tunnel protects: left out")
}

// bare is an SA that no policy asks for. Where there are no policies at all between its ends, it stands for one.
func (im *importer) bare(h *host, i int, s *xfrm.State) {
	at := h.StateAt[i]
	if s.Proto != protoESP || s.Mode != xfrm.ModeTransport && s.Mode != xfrm.ModeTunnel || s.IsLarval() {
		im.lost(at, "an SA of another kind than ESP in transport or tunnel mode: left out")
		return
	}
	for _, g := range im.groups {
		if g.a == s.Src && g.b == s.Dst || g.a == s.Dst && g.b == s.Src {
			return // its tunnel is there
		}
	}
	set := settings{s.Mode, markOf(s.Mark), s.IfID}
	sel := s.Sel.Selector
	if sel == (ipsec.Selector{}) {
		if s.Mode == xfrm.ModeTunnel {
			im.lost(at, "no policy says what goes by this SA: left out")
			return
		}
		sel.Src, sel.Dst = netip.PrefixFrom(s.Src, s.Src.BitLen()), netip.PrefixFrom(s.Dst, s.Dst.BitLen())
	}
	im.note(at, "no policy asks for this SA: what its selector covers is taken for what is to be protected")
	g := im.group(s.Src, s.Dst, set, [2]uint32{}, sel, at)
	g.add(&g.protect, sel, s.Src, at)
}
