package config

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"espalier/ipsec"
)

// claim is what a tunnel says of some traffic on one host.
type claim struct {
	tunnel   *Tunnel
	number   int            // of the tunnel in the file
	selector ipsec.Selector // from the host
	bypass   bool
	part     ipsec.Selector // of what a bypass is part
}

// told are what has been said of two tunnels: one problem and one note are enough.
type told struct{ problem, note bool }

// overlaps looks for traffic that two tunnels claim on a host. If the claim of one lies within that
// of the other, it wins by its priority, and that is noted; otherwise nobody could say who wins.
// Claims that differ only in which end has which port are let be: the first tunnel wins where a
// packet goes from a port of one to a port of the other.
func (c *checker) overlaps() {
	byHost := map[netip.Addr][]claim{}
	for i := range c.file.Tunnels {
		t := &c.file.Tunnels[i]
		for _, p := range t.Pairs {
			for _, l := range p.Lanes {
				for _, e := range l.Protect {
					byHost[p.A.Address] = append(byHost[p.A.Address], claim{tunnel: t, number: i, selector: e.Selector})
					byHost[p.B.Address] = append(byHost[p.B.Address], claim{tunnel: t, number: i, selector: Mirror(e.Selector)})
				}
			}
			for _, e := range p.Bypass {
				part := p.around(e.Selector)
				byHost[p.A.Address] = append(byHost[p.A.Address], claim{t, i, e.Selector, true, part})
				byHost[p.B.Address] = append(byHost[p.B.Address], claim{t, i, Mirror(e.Selector), true, Mirror(part)})
			}
		}
	}
	told := map[[2]int]*told{}
	for _, host := range slices.SortedFunc(maps.Keys(byHost), netip.Addr.Compare) {
		c.overlapsOf(byHost[host], told)
	}
	slices.SortStableFunc(c.file.Notes, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

// overlapsOf compares the claims whose destinations overlap. Prefixes lie within each other or
// apart, so in their order those around the present one are a stack.
func (c *checker) overlapsOf(claims []claim, told map[[2]int]*told) {
	slices.SortStableFunc(claims, func(a, b claim) int {
		return cmp.Or(a.selector.Dst.Addr().Compare(b.selector.Dst.Addr()), cmp.Compare(a.selector.Dst.Bits(), b.selector.Dst.Bits()))
	})
	var around []claim
	for _, here := range claims {
		for len(around) > 0 && !around[len(around)-1].selector.Dst.Overlaps(here.selector.Dst) {
			around = around[:len(around)-1]
		}
		for _, other := range around {
			if here.number == other.number || distinct(here.tunnel, other.tunnel) {
				continue
			}
			first, second := other, here
			if first.number > second.number {
				first, second = second, first
			}
			c.compare(first, second, told)
		}
		around = append(around, here)
	}
}

// distinct: packets tell two tunnels apart by something else than addresses and ports.
func distinct(a, b *Tunnel) bool {
	return a.IfID != b.IfID || (a.Mark.Value^b.Mark.Value)&a.Mark.Mask&b.Mark.Mask != 0
}

// compare tells about the claims of two tunnels, at the later one.
func (c *checker) compare(a, b claim, all map[[2]int]*told) {
	rel := relate(&b.selector, &a.selector)
	if rel == apart || rel == crossingPorts || a.bypass && b.bypass {
		return
	}
	two := [2]int{a.number, b.number}
	if all[two] == nil {
		all[two] = new(told)
	}
	once := all[two]
	there := fmt.Sprintf("tunnel %s, in line %d,", a.tunnel.Name, a.tunnel.Place("name").Line)
	what, instead := "", "make one of them part of the other, or keep them apart"
	switch {
	case b.bypass && (rel == within || rel == same) && relate(&b.part, &a.selector) != within:
		what, instead = fmt.Sprintf("bypass lets pass in clear what %s protects: %s", there, describe(&b.selector)), "bypass it in both, or in none"
	case a.bypass && (rel == around || rel == same) && relate(&a.part, &b.selector) != within:
		what, instead = fmt.Sprintf("%s lets pass in clear, by its bypass, what this one protects: %s", there, describe(&a.selector)), "bypass it in both, or in none"
	case a.bypass && rel == around, b.bypass && rel == within:
		return // in the part of the other that is its own anyway
	case rel == same:
		what, instead = fmt.Sprintf("%s claims the same traffic: %s", there, describe(&b.selector)), "make one of them narrower, by selectors or subnets"
	case rel == crossing:
		what = fmt.Sprintf("%s claims %s, which overlaps %s, and neither is part of the other", there, describe(&a.selector), describe(&b.selector))
	case once.note:
		return
	default:
		once.note = true
		narrow, wide := b, a
		if rel == around {
			narrow, wide = a, b
		}
		c.file.Notes = append(c.file.Notes, ProblemAt(c.file.Name, narrow.tunnel.Place("name"),
			fmt.Sprintf("%s goes by tunnel %s, not by %s, for it is the narrower", describe(&narrow.selector), narrow.tunnel.Name, wide.tunnel.Name), ""))
		return
	}
	if !once.problem {
		once.problem = true
		setting := "name"
		if b.bypass {
			setting = "bypass"
		}
		c.problem(b.tunnel.place, setting, what, instead)
	}
}

// describe says in words what a selector selects.
func describe(s *ipsec.Selector) string {
	plain := *s
	plain.Protocol, plain.SrcPort, plain.DstPort = 0, ipsec.PortMatch{}, ipsec.PortMatch{}
	text := plain.String()
	if s.Protocol != 0 {
		text += " " + Protocol(s.Protocol).String()
	}
	if !s.SrcPort.Any() {
		text += fmt.Sprintf(" from port %d", s.SrcPort.Value)
	}
	if !s.DstPort.Any() {
		text += fmt.Sprintf(" to port %d", s.DstPort.Value)
	}
	return text
}

// relation of one selector to another.
type relation uint8

const (
	same relation = iota
	within
	around
	crossing      // overlapping, and neither is part of the other
	crossingPorts // the same only for packets from a port of one to a port of the other
	apart
)

// relate says how a lies to b.
func relate(a, b *ipsec.Selector) relation {
	where := relatePrefixes(a.Src, b.Src).and(relatePrefixes(a.Dst, b.Dst)).and(relateValues(a.Protocol != 0, b.Protocol != 0, a.Protocol == b.Protocol))
	ports := relatePorts(a.SrcPort, b.SrcPort).and(relatePorts(a.DstPort, b.DstPort))
	if ports == crossing && where != apart && where != crossing {
		return crossingPorts
	}
	return where.and(ports)
}

func relatePrefixes(a, b netip.Prefix) relation {
	switch {
	case a == b:
		return same
	case !a.Overlaps(b):
		return apart
	case a.Bits() > b.Bits():
		return within
	}
	return around
}

func relatePorts(a, b ipsec.PortMatch) relation {
	return relateValues(!a.Any(), !b.Any(), a == b)
}

// relateValues relates two sets of one value, or of all.
func relateValues(oneA, oneB, equal bool) relation {
	switch {
	case equal:
		return same
	case oneA && oneB:
		return apart
	case oneA:
		return within
	}
	return around
}

// and is the relation in two dimensions.
func (r relation) and(s relation) relation {
	switch {
	case r == apart || s == apart:
		return apart
	case r == same:
		return s
	case s == same || r == s:
		return r
	}
	return crossing
}
