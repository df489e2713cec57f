package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// subnets checks the networks behind the hosts of a tunnel, each, and beside one another.
func (c *checker) subnets(t *Tunnel) {
	if !t.hasSubnets() {
		return
	}
	if t.Mode == Transport {
		c.problem(t.place, "mode", "mode transport carries no subnets, only what the hosts themselves say", "write mode: tunnel, or leave mode out")
	}
	for i := range t.Hosts {
		h := &t.Hosts[i]
		if len(h.Subnets) == 0 {
			if _, written := c.places[join(h.place.path, "subnets")]; h.Address.IsValid() && !written {
				c.problem(h.place, "address", fmt.Sprintf("host %s has no subnets, and others of the tunnel have", h.Address),
					fmt.Sprintf("add subnets: [%s/%d] for the host alone", h.Address, h.Address.BitLen()))
			}
			continue
		}
		c.nested(h)
		for j := range t.Hosts[:i] {
			c.between(t, &t.Hosts[j], h)
		}
	}
}

// nested finds subnets of one host that say nothing new.
func (c *checker) nested(h *Host) {
	for i, s := range h.Subnets {
		for j, other := range h.Subnets {
			if i == j || !s.IsValid() || !other.IsValid() || !contains(other, s) || s == other && i < j {
				continue
			}
			what := fmt.Sprintf("subnet %s is part of %s", s, other)
			if s == other {
				what = fmt.Sprintf("subnet %s is there twice", s)
			}
			c.problem(h.place, fmt.Sprintf("subnets[%d]", i), what, "leave it out")
			break
		}
	}
}

// between checks the subnets of two hosts. Where routes choose the traffic, they may overlap.
func (c *checker) between(t *Tunnel, a, b *Host) {
	if len(a.Subnets) == 0 || len(b.Subnets) == 0 {
		return // told
	}
	if invalid := func(s netip.Prefix) bool { return !s.IsValid() }; slices.ContainsFunc(a.Subnets, invalid) || slices.ContainsFunc(b.Subnets, invalid) {
		return
	}
	families := map[bool]int{} // of a, b: bits 1 and 2, by Is4
	for i, s := range b.Subnets {
		families[s.Addr().Is4()] |= 2
		for _, other := range a.Subnets {
			if s.Overlaps(other) && t.IfID == 0 {
				c.problem(b.place, fmt.Sprintf("subnets[%d]", i), fmt.Sprintf("subnet %s of %s overlaps %s of %s", s, b.Address, other, a.Address),
					"give each network to one host; with if_id they may overlap, for routes choose")
				break
			}
		}
	}
	for _, s := range a.Subnets {
		families[s.Addr().Is4()] |= 1
	}
	for is4, of := range families {
		if of == 3 {
			continue
		}
		h, peer := a, b
		if of == 2 {
			h, peer = b, a
		}
		if peer.Address.IsValid() {
			family := map[bool]string{true: "IPv4", false: "IPv6"}[is4]
			c.problem(h.place, "subnets", fmt.Sprintf("%s has %s subnets, and %s has none to go with them", h.Address, family, peer.Address),
				fmt.Sprintf("give %s %s subnets, or leave them out", peer.Address, family))
		}
	}
	for _, h := range []*Host{a, b} {
		for i, s := range h.Subnets {
			if t.IfID == 0 && a.Address.IsValid() && b.Address.IsValid() && s.Contains(a.Address) && s.Contains(b.Address) {
				c.problem(h.place, fmt.Sprintf("subnets[%d]", i), fmt.Sprintf("subnet %s contains both hosts, %s and %s", s, a.Address, b.Address),
					"leave them out of it, by smaller subnets; or write no subnets, and hosts are protected themselves")
			}
		}
	}
}

// contains reports whether all of b lies in a.
func contains(a, b netip.Prefix) bool { return a.Bits() <= b.Bits() && a.Contains(b.Addr()) }
