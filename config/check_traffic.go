package config

import (
	"fmt"
	"slices"
)

const (
	mostTraffics = 64 // in one list: each is a policy or several, on each host
	mostPorts    = 64
)

// traffic checks selectors and what bypasses them; false: there is too much to go on.
func (c *checker) traffic(t *Tunnel) bool {
	lists := []struct {
		name string
		of   []Traffic
	}{{"selectors", t.Selectors}, {"bypass", t.Bypass}}
	for _, list := range lists {
		for i, tr := range list.of {
			if len(tr.Ports) > mostPorts {
				c.problem(t.place, fmt.Sprintf("%s[%d].ports", list.name, i), fmt.Sprintf("a list of %d ports", len(tr.Ports)), fmt.Sprintf("write up to %d, or protect the whole protocol", mostPorts))
				return false
			}
		}
	}
	for _, list := range lists {
		if len(list.of) > mostTraffics {
			c.problem(t.place, list.name, fmt.Sprintf("%s has %d entries", list.name, len(list.of)), fmt.Sprintf("write up to %d; ports: [80, 443] puts several in one", mostTraffics))
			return false
		}
		read := make([]bool, len(list.of)) // the others have been told of
		for i := range list.of {
			read[i] = c.given(t.place, fmt.Sprintf("%s[%d]", list.name, i))
		}
		for i, tr := range list.of {
			setting := fmt.Sprintf("%s[%d]", list.name, i)
			c.oneTraffic(t, setting, tr)
			for j, other := range list.of {
				if i == j || !read[i] || !read[j] || !covers(other, tr) || i < j && covers(tr, other) {
					continue
				}
				what := fmt.Sprintf("%s is part of %s in the same list", tr, other)
				if covers(tr, other) {
					what = fmt.Sprintf("%s is there twice", tr)
				}
				c.problem(t.place, setting, what, "leave it out")
				break
			}
		}
	}
	for i, b := range t.Bypass {
		setting := fmt.Sprintf("bypass[%d]", i)
		if !c.given(t.place, setting) {
			continue
		}
		protected := t.Selectors
		if len(protected) == 0 {
			protected = []Traffic{{}}
		}
		if s := slices.IndexFunc(protected, func(s Traffic) bool { return covers(b, s) }); s >= 0 {
			c.problem(t.place, setting, fmt.Sprintf("bypass of %s leaves nothing to protect of %s", b, protected[s]), "bypass less")
		} else if !slices.ContainsFunc(protected, func(s Traffic) bool { return covers(s, b) }) {
			c.problem(t.place, setting, fmt.Sprintf("%s is not part of what is protected", b), "leave it out: it goes in clear anyway")
		}
	}
	return true
}

func (c *checker) oneTraffic(t *Tunnel, setting string, tr Traffic) {
	_, protocolGiven := c.places[join(t.place.path, setting)+".protocol"]
	switch {
	case len(tr.Ports) > 0 && tr.Protocol == 0 && !protocolGiven:
		c.problem(t.place, setting, "ports of no protocol", "add protocol: tcp")
	case len(tr.Ports) > 0 && !tr.Protocol.hasPorts():
		c.problem(t.place, setting, fmt.Sprintf("protocol %s has no ports", tr.Protocol), "leave them out, or write protocol: tcp")
	case tr.At.IsValid() && len(tr.Ports) == 0:
		c.problem(t.place, setting+".at", "at tells which host has the ports, and there are none", "add ports, or leave at out")
	case tr.At.IsValid() && !slices.ContainsFunc(t.Hosts, func(h Host) bool { return h.Address == tr.At }):
		c.problem(t.place, setting+".at", fmt.Sprintf("%s is none of the tunnel's hosts", tr.At), "write the address of one of them")
	}
	for i, p := range tr.Ports {
		at := fmt.Sprintf("%s.ports[%d]", setting, i)
		if p == 0 {
			c.problem(t.place, at, "port 0 is no port", "write 1 to 65535; leave ports out for all")
		} else if slices.Contains(tr.Ports[:i], p) {
			c.problem(t.place, at, fmt.Sprintf("port %d is there twice", p), "leave it out")
		}
	}
	if is4, of := t.families(); of == 1 && (tr.Protocol == 58 && is4 || tr.Protocol == 1 && !is4) {
		c.problem(t.place, setting, fmt.Sprintf("%s is not of the hosts' family", tr), "write "+map[bool]string{true: "icmp", false: "icmpv6"}[is4])
	}
}

// families of the addresses that are protected: how many there are, and whether the last is IPv4.
func (t *Tunnel) families() (is4 bool, number int) {
	seen := map[bool]bool{}
	for _, h := range t.Hosts {
		for _, s := range h.networks() {
			is4 = s.Addr().Is4()
			seen[is4] = true
		}
	}
	return is4, len(seen)
}

// covers reports whether all of b is part of a.
func covers(a, b Traffic) bool {
	if a.Protocol != 0 && a.Protocol != b.Protocol {
		return false
	}
	if len(a.Ports) == 0 {
		return true
	}
	return len(b.Ports) > 0 && (!a.At.IsValid() || a.At == b.At) &&
		!slices.ContainsFunc(b.Ports, func(p uint16) bool { return !slices.Contains(a.Ports, p) })
}
