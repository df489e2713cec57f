package importer

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"espalier/config"
	"espalier/ipsec"
	"espalier/xfrm"
)

// file lays the groups out as tunnels.
func (im *importer) file() *config.File {
	f := &config.File{}
	named := map[string]int{}
	for _, g := range im.groups {
		for _, part := range g.parts(im) {
			name := im.name(g)
			if named[name]++; named[name] > 1 {
				name = fmt.Sprintf("%s-%d", name, named[name])
			}
			t := config.Tunnel{Name: name, Settings: im.settings(g)}
			t.Hosts = []config.Host{{Address: g.a, Dev: im.dev(g, g.a), Subnets: part.a}, {Address: g.b, Dev: im.dev(g, g.b), Subnets: part.b}}
			t.Selectors, t.Bypass = part.selectors, part.bypass
			if len(part.a) == 0 && g.settings.mode == xfrm.ModeTunnel {
				t.Mode = config.TunnelMode
			}
			f.Tunnels = append(f.Tunnels, t)
		}
	}
	return f
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// name is the one that was given, or of the two hosts.
func (im *importer) name(g *group) string {
	if im.options.Name != "" {
		return im.options.Name
	}
	one := func(a netip.Addr) string {
		for _, h := range im.hosts {
			if h.Has(a) && len(im.hosts) > 1 {
				return strings.TrimSuffix(h.Name, ".xfrm")
			}
		}
		return a.String()
	}
	name := strings.Trim(notInNames.ReplaceAllString(one(g.a)+"-"+one(g.b), "-"), "-._")
	if len(name) > 60 || name == "" {
		return "tunnel"
	}
	return name
}

// dev is the device that a host's SAs are offloaded to.
func (im *importer) dev(g *group, a netip.Addr) string {
	if dev := im.options.Devs[a]; dev != "" {
		return dev
	}
	for _, h := range im.hosts {
		if !h.Has(a) {
			continue
		}
		for _, s := range h.States {
			if s.Offload != nil && (s.Src == a || s.Dst == a) {
				if name := im.names.Name(int(s.Offload.Ifindex)); name != "" {
					return name
				}
			}
		}
	}
	if dev := im.options.Devs[netip.Addr{}]; dev != "" {
		return dev
	}
	im.lost(g.at, "which network device has %s is not said: write it for %s, or give --dev %[1]s=NAME", a, Placeholder)
	return Placeholder
}

// part is a tunnel's share of a group: subnets of which each goes with each, and the traffic between them.
type part struct {
	a, b              []netip.Prefix
	selectors, bypass []config.Traffic
}

// parts divides a group so that in each all subnets of a go with all of b, for the same traffic.
func (g *group) parts(im *importer) (parts []part) {
	type ends struct{ src, dst netip.Prefix }
	var order []ends
	protect, bypass := map[ends][]entry{}, map[ends][]entry{}
	for _, e := range g.protect {
		k := ends{g.network(im, e.selector.Src, g.a, e), g.network(im, e.selector.Dst, g.b, e)}
		if protect[k] == nil {
			order = append(order, k)
		}
		protect[k] = append(protect[k], e)
	}
	for _, e := range g.bypass {
		k := ends{g.network(im, e.selector.Src, g.a, e), g.network(im, e.selector.Dst, g.b, e)}
		bypass[k] = append(bypass[k], e)
	}
	var traffic []string // of the parts
	find := func(text string, fits func(*part) bool) *part {
		for i := range parts {
			if traffic[i] == text && fits(&parts[i]) {
				return &parts[i]
			}
		}
		return nil
	}
	for _, k := range order {
		p := part{selectors: g.traffic(im, protect[k]), bypass: g.traffic(im, bypass[k])}
		text := fmt.Sprint(p.selectors, p.bypass)
		// A further network of b, for one network of a.
		if before := find(text, func(p *part) bool { return slices.Equal(p.a, []netip.Prefix{k.src}) }); before != nil {
			before.b = append(before.b, k.dst)
			continue
		}
		p.a, p.b = []netip.Prefix{k.src}, []netip.Prefix{k.dst}
		parts, traffic = append(parts, p), append(traffic, text)
	}
	// Networks of a that go with the same ones of b.
	var joined []part
	for i, p := range parts {
		same := slices.IndexFunc(joined, func(q part) bool {
			return slices.Equal(q.b, p.b) && fmt.Sprint(q.selectors, q.bypass) == traffic[i]
		})
		if same >= 0 {
			joined[same].a = append(joined[same].a, p.a...)
		} else {
			joined = append(joined, p)
		}
	}
	joined = families(joined)
	for i := range joined {
		p := &joined[i]
		if slices.Equal(p.a, []netip.Prefix{single(g.a)}) && slices.Equal(p.b, []netip.Prefix{single(g.b)}) {
			p.a, p.b = nil, nil // the hosts themselves
		}
	}
	return joined
}

// families puts what is of IPv4 and of IPv6 together, for networks go with those of their own family only.
func families(parts []part) (joined []part) {
	for _, p := range parts {
		is4 := p.a[0].Addr().Is4()
		other := slices.IndexFunc(joined, func(q part) bool {
			return q.a[0].Addr().Is4() != is4 && q.a[len(q.a)-1].Addr().Is4() != is4 && fmt.Sprint(q.selectors, q.bypass) == fmt.Sprint(p.selectors, p.bypass)
		})
		if other < 0 {
			joined = append(joined, p)
			continue
		}
		joined[other].a, joined[other].b = append(joined[other].a, p.a...), append(joined[other].b, p.b...)
	}
	return joined
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// network is one side of a selector. In transport mode it is the host.
func (g *group) network(im *importer, p netip.Prefix, of netip.Addr, e entry) netip.Prefix {
	if g.settings.mode == xfrm.ModeTunnel {
		if !p.IsValid() {
			return netip.PrefixFrom(map[bool]netip.Addr{true: netip.IPv4Unspecified(), false: netip.IPv6Unspecified()}[of.Is4()], 0)
		}
		return p.Masked()
	}
	if p != single(of) {
		im.lost(e.at, "in transport mode the selector is wider or other than the two hosts: the file protects what goes between %s and %s", g.a, g.b)
	}
	return single(of)
}

// traffic are protocols and ports; none: all.
func (g *group) traffic(im *importer, entries []entry) (all []config.Traffic) {
	type service struct {
		protocol uint8
		port     uint16
	}
	at := map[service][2]bool{} // a has it, b has it
	var order []service
	for _, e := range entries {
		s := e.selector
		if s.Protocol == 0 {
			return nil
		}
		src, dst := !s.SrcPort.Any(), !s.DstPort.Any()
		if src && dst || (src || dst) && !slices.Contains([]uint8{6, 17, 33, 132, 136}, s.Protocol) {
			im.lost(e.at, "%s: the file has ports of one end, and no types and codes: it is protected for all of %s", portsText(&s), xfrm.IPProtocolName(s.Protocol))
			src, dst = false, false
		}
		k := service{protocol: s.Protocol}
		ends := [2]bool{true, true}
		switch {
		case src:
			k.port, ends[1] = s.SrcPort.Value, false
		case dst:
			k.port, ends[0] = s.DstPort.Value, false
		}
		before, known := at[k]
		if !known {
			order = append(order, k)
		}
		at[k] = [2]bool{before[0] || ends[0], before[1] || ends[1]}
	}
	for _, k := range order {
		t := config.Traffic{Protocol: config.Protocol(k.protocol)}
		if _, whole := at[service{protocol: k.protocol}]; whole && k.port != 0 {
			continue
		}
		if k.port != 0 {
			t.Ports = []uint16{k.port}
			if ends := at[k]; !ends[0] {
				t.At = g.b
			} else if !ends[1] {
				t.At = g.a
			}
		}
		if i := slices.IndexFunc(all, func(other config.Traffic) bool {
			return other.Protocol == t.Protocol && other.At == t.At && len(other.Ports) > 0 && len(t.Ports) > 0
		}); i >= 0 {
			all[i].Ports = append(all[i].Ports, t.Ports...)
			continue
		}
		all = append(all, t)
	}
	return all
}

func portsText(s *ipsec.Selector) string {
	if s.Protocol == 1 || s.Protocol == 58 {
		return "type and code"
	}
	return "ports of both ends"
}
