package firewall

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Packet is what rules may ask of one, word by word. A word that is missing is one about which
// nothing is known, such as an address; a word with a value of "" is one that the packet does not
// have, and no rule that asks for it applies.
type Packet map[string]string

// IPv4 and IPv6 are values of the word "nfproto" (linux/netfilter.h).
const (
	IPv4 = "2"
	IPv6 = "10"
)

// ESP is a packet of protocol 50: the first between two hosts, of which connection tracking knows
// nothing yet. It comes by the way that its answer would take.
func ESP(nfproto string) Packet { return first(nfproto, 50, "") }

// UDP is such a packet from and to a port.
func UDP(nfproto string, port uint16) Packet {
	return first(nfproto, 17, strconv.Itoa(int(port)))
}

func first(nfproto string, protocol int, port string) Packet {
	p := Packet{
		"nfproto": nfproto, "protocol": "2048", "l4proto": strconv.Itoa(protocol), "ip6 nexthdr": "",
		"sport": port, "dport": port,
		"ct state": "new", "ct status": "", "reverse route": "there", "secpath": "0",
		"match tcp": "", "match icmp": "", "match icmp6": "", "match sctp": "", // of xtables
	}
	p["ip protocol"] = p["l4proto"]
	if nfproto == IPv6 {
		p["protocol"], p["ip protocol"], p["ip6 nexthdr"] = "34525", "", p["l4proto"]
	}
	return p
}

// In is the packet coming in by a device.
func (p Packet) In(device string, index int) Packet {
	return p.with("iif", strconv.Itoa(index), "iifname", device, "oif", "", "oifname", "")
}

// Out is the packet going out by a device. Whether it has been through an SA is not known: that
// depends on who encrypts, and where.
func (p Packet) Out(device string, index int) Packet {
	p = p.with("oif", strconv.Itoa(index), "oifname", device, "iif", "", "iifname", "")
	delete(p, "secpath")
	return p
}

func (p Packet) with(pairs ...string) Packet {
	p = maps.Clone(p)
	for pair := range slices.Chunk(pairs, 2) {
		p[pair[0]] = pair[1]
	}
	return p
}

// likelihood that a packet meets a condition.
type likelihood uint8

const (
	no likelihood = iota
	perhaps
	yes
)

// meets is how a packet stands to a condition.
func (p Packet) meets(m Match) likelihood {
	value, known := p[m.What]
	switch {
	case !known:
		return perhaps
	case value != "" && slices.ContainsFunc(m.In, func(in string) bool { return covers(in, value) }) != m.Not:
		return yes
	}
	return no
}

// covers tells whether a value of a rule's stands for that of a packet.
func covers(in, value string) bool {
	if prefix, ok := strings.CutSuffix(in, "*"); ok {
		return strings.HasPrefix(value, prefix)
	}
	if low, high, ok := strings.Cut(in, "-"); ok {
		l, err1 := strconv.ParseUint(low, 10, 64)
		h, err2 := strconv.ParseUint(high, 10, 64)
		v, err3 := strconv.ParseUint(value, 10, 64)
		if err1 == nil && err2 == nil && err3 == nil {
			return l <= v && v <= h
		}
	}
	return in == value
}

// applies is yes if all conditions are met, no if one is not, whatever else is not known.
func (p Packet) applies(r *Rule) likelihood {
	all := yes
	for _, m := range r.Match {
		all = min(all, p.meets(m))
	}
	return all
}
