package lab

import (
	"net/netip"

	"espalier/internal/netns"
)

// Behind makes a third host, joined to h by a cable of its own: h is its router. The first
// address of each prefix is h's, the second the new host's. It returns that host.
func (l *Lab) Behind(h *Host, prefixes ...netip.Prefix) *Host {
	h.t.Helper()
	const device = "lan0"
	c := NewHost(h.t, h.Name+"'s neighbour", device)
	var here, there []netip.Prefix
	for _, p := range prefixes {
		first := p.Masked().Addr().Next()
		here = append(here, netip.PrefixFrom(first, p.Bits()))
		there = append(there, netip.PrefixFrom(first.Next(), p.Bits()))
	}
	if err := netns.Cable(netns.End{NS: h.NS, Name: device, Addresses: here}, netns.End{NS: c.NS, Name: device, Addresses: there}); err != nil {
		h.t.Fatal(err)
	}
	for _, p := range here {
		c.Must("ip", "route", "add", "default", "via", p.Addr().String())
	}
	return c
}
