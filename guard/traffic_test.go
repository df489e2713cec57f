package guard

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

const testMark = 0x40

func open(t *testing.T, devices ...string) *Guard {
	t.Helper()
	g, err := Open(Config{Devices: devices, Mark: testMark, Mask: 0xf0})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func apply(t *testing.T, g *Guard, policies []ipsec.Policy, encaps ...Encap) {
	t.Helper()
	if err := g.Apply(policies, encaps); err != nil {
		t.Fatal(err)
	}
}

func prefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}

// sel is a selector between two prefixes, with protocol and ports if asked for.
func sel(src, dst string, proto uint8, sport, dport int) ipsec.Selector {
	s := ipsec.Selector{Src: prefix(src), Dst: prefix(dst), Protocol: proto}
	if sport >= 0 {
		s.SrcPort = ipsec.Port(uint16(sport))
	}
	if dport >= 0 {
		s.DstPort = ipsec.Port(uint16(dport))
	}
	return s
}

const anyPort = -1

// bothWays is a policy going out and its mirror image coming in.
func bothWays(a ipsec.Action, prio uint32, s ipsec.Selector) []ipsec.Policy {
	back := s
	back.Src, back.Dst = s.Dst, s.Src
	if s.Protocol != unix.IPPROTO_ICMP && s.Protocol != unix.IPPROTO_ICMPV6 {
		back.SrcPort, back.DstPort = s.DstPort, s.SrcPort
	}
	var p []ipsec.Processing
	if a == ipsec.Protect {
		p = []ipsec.Processing{{Mode: ipsec.Transport, RequestID: 1}}
	}
	return []ipsec.Policy{
		{Direction: ipsec.Outbound, Action: a, Priority: prio, Selector: s, Processing: p},
		{Direction: ipsec.Inbound, Action: a, Priority: prio, Selector: back, Processing: p},
	}
}

func together(lists ...[]ipsec.Policy) []ipsec.Policy {
	var all []ipsec.Policy
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// crossing is a packet going out, of which the one coming in is the mirror image.
type crossing struct {
	name    string
	packet  packet
	frame   frame // its pkt is filled in
	out, in bool  // passes the guard
	oneWay  bool  // only out is tried
}

func (c crossing) mirrored() packet {
	p := c.packet
	p.src, p.dst = p.dst, p.src
	if (p.proto == unix.IPPROTO_TCP || p.proto == unix.IPPROTO_UDP) && p.fragOffset == 0 && len(p.payload) >= 4 {
		p.payload = append([]byte(nil), p.payload...)
		s, d := binary.BigEndian.Uint16(p.payload), binary.BigEndian.Uint16(p.payload[2:])
		binary.BigEndian.PutUint16(p.payload, d)
		binary.BigEndian.PutUint16(p.payload[2:], s)
	}
	return p
}

// try sends all packets both ways, once without the guard, when all must pass, and once
// with it.
func try(t *testing.T, policies []ipsec.Policy, encaps []Encap, crossings []crossing) {
	l := newLab(t)
	var outs, ins []frame
	for i := range crossings {
		c := &crossings[i]
		c.packet.id = uint16(1000 + i)
		f := c.frame
		f.pkt = c.packet.bytes()
		outs = append(outs, f)
		f.pkt = c.mirrored().bytes()
		f.declared = 0
		ins = append(ins, f)
	}
	for i, passed := range l.crossOut(outs...) {
		if !passed {
			t.Errorf("%s: without the guard, going out: lost", crossings[i].name)
		}
	}
	for i, passed := range l.crossIn(ins...) {
		if !passed && !crossings[i].oneWay {
			t.Errorf("%s: without the guard, coming in: lost", crossings[i].name)
		}
	}

	g := open(t, "p4p1")
	apply(t, g, policies, encaps...)
	var want Counters
	for i, passed := range l.crossOut(outs...) {
		c := crossings[i]
		if passed != c.out {
			t.Errorf("%s: going out: passed %v, want %v", c.name, passed, c.out)
		}
		if !passed {
			want.Out++
		}
	}
	for i, passed := range l.crossIn(ins...) {
		c := crossings[i]
		if passed != c.in && !c.oneWay {
			t.Errorf("%s: coming in: passed %v, want %v", c.name, passed, c.in)
		}
		if !passed {
			want.In++
		}
	}
	got, err := g.Counters()
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("counted %+v, lost %+v", got, want)
	}
	if t.Failed() {
		t.Log(nft(t, "list", "ruleset"))
	}
}

func v4(proto uint8, payload []byte) packet {
	return packet{src: "10.0.0.1", dst: "10.0.0.2", proto: proto, payload: payload}
}

func v6(proto uint8, payload []byte) packet {
	return packet{src: "2001:db8::1", dst: "2001:db8::2", proto: proto, payload: payload}
}

// behind puts extension headers of 8 bytes in front of the upper layer.
func behind(p packet, headers ...uint8) packet {
	p.firstNext = headers[0]
	for i, h := range headers {
		b := make([]byte, 8)
		if i+1 < len(headers) {
			b[0] = headers[i+1]
		}
		if h == unix.IPPROTO_HOPOPTS || h == unix.IPPROTO_DSTOPTS {
			b[2], b[3] = 1, 4 // PadN over the rest
		}
		p.options = append(p.options, b...)
	}
	p.lastNext = len(p.options) - 8
	return p
}

// fragment puts an IPv6 fragment header in front, last.
func fragment(p packet, offset uint16, more bool, before ...uint8) packet {
	p = behind(p, append(before, unix.IPPROTO_FRAGMENT)...)
	if more {
		offset |= 1
	}
	binary.BigEndian.PutUint16(p.options[p.lastNext+2:], offset)
	binary.BigEndian.PutUint32(p.options[p.lastNext+4:], 77)
	return p
}

func with(p packet, change func(*packet)) packet {
	change(&p)
	return p
}

func TestAddressesDropBothWays(t *testing.T) {
	other4 := with(v4(unix.IPPROTO_TCP, ports(1, 2)), func(p *packet) { p.dst = "10.0.1.2" })
	other6 := with(v6(unix.IPPROTO_TCP, ports(1, 2)), func(p *packet) { p.dst = "2001:db8:1::2" })
	tagged := func(tci byte) []byte { return []byte{0x81, 0x00, 0, tci} }
	try(t, together(
		bothWays(ipsec.Protect, 10, sel("10.0.0.0/24", "10.0.0.2/31", 0, anyPort, anyPort)),
		bothWays(ipsec.Discard, 10, sel("2001:db8::1/128", "2001:db8::/63", 0, anyPort, anyPort)),
	), nil, []crossing{
		{name: "TCP", packet: v4(unix.IPPROTO_TCP, ports(1, 2))},
		{name: "ICMP", packet: v4(unix.IPPROTO_ICMP, ports(0x800, 0))},
		{name: "any protocol", packet: v4(254, []byte("x"))},
		{name: "first fragment", packet: with(v4(unix.IPPROTO_UDP, ports(1, 2)), func(p *packet) { p.more = true })},
		{name: "other fragment", packet: with(v4(unix.IPPROTO_UDP, ports(1, 2)), func(p *packet) { p.fragOffset = 1480 })},
		{name: "IPv4 options", packet: with(v4(unix.IPPROTO_TCP, ports(1, 2)), func(p *packet) { p.options = []byte{1, 1, 1, 0} })},
		{name: "AH", packet: v4(unix.IPPROTO_AH, ports(1, 2))},
		{name: "IP in IP", packet: v4(unix.IPPROTO_IPIP, other4.bytes())},
		{name: "other address", packet: other4, out: true, in: true},
		{name: "ESP", packet: v4(unix.IPPROTO_ESP, ports(1, 2)), out: true, in: true},
		{name: "ESP first fragment", packet: with(v4(unix.IPPROTO_ESP, ports(1, 2)), func(p *packet) { p.more = true }), out: true, in: true},
		{name: "ESP other fragment", packet: with(v4(unix.IPPROTO_ESP, ports(1, 2)), func(p *packet) { p.fragOffset = 1480 }), out: true, in: true},
		{name: "ESP behind options", packet: with(v4(unix.IPPROTO_ESP, ports(1, 2)), func(p *packet) { p.options = []byte{1, 1, 1, 0} }), out: true, in: true},
		{name: "UDP 4500 without an SA", packet: v4(unix.IPPROTO_UDP, ports(4500, 4500)), frame: frame{mark: testMark}},

		{name: "v6 TCP", packet: v6(unix.IPPROTO_TCP, ports(1, 2))},
		{name: "v6 in the /63", packet: with(other6, func(p *packet) { p.dst = "2001:db8:0:1::2" })},
		{name: "v6 outside the /63", packet: with(other6, func(p *packet) { p.dst = "2001:db8:0:2::2" }), out: true, in: true},
		{name: "v6 first fragment", packet: fragment(v6(unix.IPPROTO_UDP, ports(1, 2)), 0, true)},
		{name: "v6 other fragment", packet: fragment(v6(unix.IPPROTO_UDP, ports(1, 2)), 1448, false)},
		{name: "v6 extension headers", packet: behind(v6(unix.IPPROTO_UDP, ports(1, 2)), unix.IPPROTO_HOPOPTS, unix.IPPROTO_DSTOPTS)},
		{name: "v6 ESP", packet: v6(unix.IPPROTO_ESP, ports(1, 2)), out: true, in: true},
		{name: "v6 ESP behind extension headers", packet: behind(v6(unix.IPPROTO_ESP, ports(1, 2)), unix.IPPROTO_HOPOPTS, unix.IPPROTO_DSTOPTS), out: true, in: true},
		{name: "v6 ESP first fragment", packet: fragment(v6(unix.IPPROTO_ESP, ports(1, 2)), 0, true), out: true, in: true},
		{name: "v6 ESP other fragment", packet: fragment(v6(unix.IPPROTO_ESP, ports(1, 2)), 1448, true), out: true, in: true},
		{name: "v6 ESP other fragment behind headers", packet: fragment(v6(unix.IPPROTO_ESP, ports(1, 2)), 1448, true, unix.IPPROTO_HOPOPTS), out: true, in: true},

		{name: "in a VLAN", packet: v4(unix.IPPROTO_TCP, ports(1, 2)), frame: frame{tags: tagged(5)}, out: true, in: true},
		{name: "with a priority tag", packet: v4(unix.IPPROTO_TCP, ports(1, 2)), frame: frame{tags: tagged(0)}},
		{name: "v6 with a priority tag", packet: v6(unix.IPPROTO_TCP, ports(1, 2)), frame: frame{tags: tagged(0)}},
		{name: "with two priority tags", packet: v4(unix.IPPROTO_TCP, ports(1, 2)), frame: frame{tags: append(tagged(0), tagged(0)...)}},
		{name: "in a VLAN behind a priority tag", packet: v4(unix.IPPROTO_TCP, ports(1, 2)), frame: frame{tags: append(tagged(0), tagged(5)...)}, out: true, in: true},
		{name: "802.1ad priority tag", packet: v4(unix.IPPROTO_TCP, ports(1, 2)), frame: frame{tags: []byte{0x88, 0xa8, 0xe0, 0}}},
		{name: "declared as ARP", packet: v4(unix.IPPROTO_TCP, ports(1, 2)), frame: frame{declared: unix.ETH_P_ARP}},
	})
}

// As rules, and in sets that the policies share with so many others.
func TestPortsAndProtocols(t *testing.T) {
	t.Run("rules", func(t *testing.T) { tryPorts(t, nil) })
	var others []ipsec.Policy
	for i := range setFrom {
		others = append(others, bothWays(ipsec.Protect, 10, sel(fmt.Sprintf("10.1.%d.0/24", i), "10.0.0.0/24", unix.IPPROTO_TCP, anyPort, 443))...)
		others = append(others, bothWays(ipsec.Protect, 10, sel(fmt.Sprintf("2001:db8:1:%d::/64", i), "2001:db8::/64", unix.IPPROTO_TCP, anyPort, 80+i))...)
	}
	t.Run("sets", func(t *testing.T) { tryPorts(t, others) })
}

func tryPorts(t *testing.T, others []ipsec.Policy) {
	try(t, together(
		others,
		bothWays(ipsec.Protect, 10, sel("10.0.0.0/24", "10.0.0.0/24", unix.IPPROTO_TCP, anyPort, 443)),
		bothWays(ipsec.Protect, 10, sel("10.0.0.0/24", "10.0.0.0/24", unix.IPPROTO_ICMP, 8, anyPort)),
		bothWays(ipsec.Protect, 10, sel("10.0.0.0/24", "10.0.0.0/24", unix.IPPROTO_IPIP, anyPort, anyPort)),
		bothWays(ipsec.Discard, 10, ipsec.Selector{Src: prefix("10.0.0.0/24"), Dst: prefix("10.0.0.0/24"), DstPort: ipsec.PortMatch{Value: 0x1200, Mask: 0xff00}}),
		bothWays(ipsec.Protect, 10, sel("2001:db8::/64", "2001:db8::/64", unix.IPPROTO_TCP, anyPort, 443)),
		bothWays(ipsec.Protect, 10, sel("2001:db8::/64", "2001:db8::/64", unix.IPPROTO_ICMPV6, 128, anyPort)),
	), nil, []crossing{
		{name: "TCP 443", packet: v4(unix.IPPROTO_TCP, ports(1, 443))},
		{name: "TCP 444", packet: v4(unix.IPPROTO_TCP, ports(1, 444)), out: true, in: true},
		{name: "UDP 443", packet: v4(unix.IPPROTO_UDP, ports(1, 443)), out: true, in: true},
		{name: "UDP 0x12ff", packet: v4(unix.IPPROTO_UDP, ports(1, 0x12ff))},
		{name: "SCTP 0x12ff", packet: v4(unix.IPPROTO_SCTP, ports(0x12ff, 0x12ff))},
		{name: "GRE", packet: v4(unix.IPPROTO_GRE, ports(0x12ff, 0x12ff)), out: true, in: true},
		{name: "TCP 443 behind 40 bytes of options", packet: with(v4(unix.IPPROTO_TCP, ports(1, 443)), func(p *packet) { p.options = make([]byte, 40) })},
		{name: "TCP 444 behind options", packet: with(v4(unix.IPPROTO_TCP, ports(1, 444)), func(p *packet) { p.options = []byte{1, 1, 1, 0} }), out: true, in: true},
		{name: "TCP 443 first fragment", packet: with(v4(unix.IPPROTO_TCP, ports(1, 443)), func(p *packet) { p.more = true })},
		{name: "TCP 444 first fragment", packet: with(v4(unix.IPPROTO_TCP, ports(1, 444)), func(p *packet) { p.more = true }), out: true, in: true},
		{name: "TCP other fragment", packet: with(v4(unix.IPPROTO_TCP, ports(444, 444)), func(p *packet) { p.fragOffset = 8 })},
		{name: "TCP without ports", packet: v4(unix.IPPROTO_TCP, []byte{1})},
		{name: "TCP with one port", packet: v4(unix.IPPROTO_TCP, []byte{1, 2}), in: true}, // it is the one that differs
		{name: "AH", packet: v4(unix.IPPROTO_AH, ports(unix.IPPROTO_TCP<<8, 444))},
		{name: "echo request", packet: v4(unix.IPPROTO_ICMP, ports(0x800, 1))},
		{name: "echo reply", packet: v4(unix.IPPROTO_ICMP, ports(0, 1)), out: true, in: true},
		{name: "IP in IP", packet: v4(unix.IPPROTO_IPIP, ports(1, 2))},
		{name: "OSPF", packet: v4(89, ports(1, 2)), out: true, in: true},

		{name: "v6 TCP 443", packet: v6(unix.IPPROTO_TCP, ports(1, 443))},
		{name: "v6 TCP 444", packet: v6(unix.IPPROTO_TCP, ports(1, 444)), out: true, in: true},
		{name: "v6 TCP 443 behind headers", packet: behind(v6(unix.IPPROTO_TCP, ports(1, 443)), unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS)},
		{name: "v6 TCP 444 behind headers", packet: behind(v6(unix.IPPROTO_TCP, ports(1, 444)), unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS), out: true, in: true},
		{name: "v6 TCP 443 first fragment", packet: fragment(v6(unix.IPPROTO_TCP, ports(1, 443)), 0, true, unix.IPPROTO_HOPOPTS)},
		{name: "v6 TCP 444 first fragment", packet: fragment(v6(unix.IPPROTO_TCP, ports(1, 444)), 0, true, unix.IPPROTO_HOPOPTS), out: true, in: true},
		{name: "v6 TCP other fragment", packet: fragment(v6(unix.IPPROTO_TCP, ports(444, 444)), 1448, false)},
		{name: "v6 UDP other fragment", packet: fragment(v6(unix.IPPROTO_UDP, ports(443, 443)), 1448, false), out: true, in: true},
		{name: "v6 chain cut short", packet: with(v6(unix.IPPROTO_DSTOPTS, []byte{6}), func(p *packet) {})},
		{name: "v6 chain hidden in a fragment", packet: fragment(v6(unix.IPPROTO_DSTOPTS, ports(1, 444)), 1448, false)},
		{name: "v6 first fragment without ports", packet: fragment(v6(unix.IPPROTO_TCP, nil), 0, true, unix.IPPROTO_DSTOPTS)},
		{name: "v6 AH", packet: v6(unix.IPPROTO_AH, []byte{unix.IPPROTO_TCP, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 187, 0, 0})},
		{name: "v6 echo request", packet: v6(unix.IPPROTO_ICMPV6, ports(0x8000, 1))},
		{name: "v6 echo request behind headers", packet: behind(v6(unix.IPPROTO_ICMPV6, ports(0x8000, 1)), unix.IPPROTO_DSTOPTS)},
		{name: "v6 echo reply", packet: v6(unix.IPPROTO_ICMPV6, ports(0x8100, 1)), out: true, in: true},
	})
}

func TestNeighbourDiscovery(t *testing.T) {
	nd := func(kind uint16, hops uint8) packet {
		return with(v6(unix.IPPROTO_ICMPV6, ports(kind<<8, 0)), func(p *packet) { p.hops = hops })
	}
	inFragment := with(fragment(v6(unix.IPPROTO_ICMPV6, ports(135<<8, 0)), 0, true), func(p *packet) { p.hops = 255 })
	try(t, nil, nil, []crossing{
		{name: "no policy", packet: nd(128, 64), out: true, in: true},
	})
	try(t, bothWays(ipsec.Protect, 1, sel("2001:db8::/32", "2001:db8::/32", 0, anyPort, anyPort)), nil, []crossing{
		{name: "132", packet: nd(132, 255)},
		{name: "router solicitation", packet: nd(133, 255), out: true, in: true},
		{name: "router advertisement", packet: nd(134, 255), out: true, in: true},
		{name: "neighbour solicitation", packet: nd(135, 255), out: true, in: true},
		{name: "neighbour advertisement", packet: nd(136, 255), out: true, in: true},
		{name: "redirect", packet: nd(137, 255), out: true, in: true},
		{name: "138", packet: nd(138, 255)},
		{name: "from afar", packet: nd(135, 254)},
		{name: "hop limit 1", packet: nd(136, 1)},
		{name: "in a fragment", packet: inFragment},
		{name: "in another fragment", packet: with(fragment(v6(unix.IPPROTO_ICMPV6, ports(135<<8, 0)), 8, false), func(p *packet) { p.hops = 255 })},
		{name: "TCP that looks like it", packet: with(v6(unix.IPPROTO_TCP, ports(135<<8, 0)), func(p *packet) { p.hops = 255 })},
	})
}

func TestUDPEncapsulation(t *testing.T) {
	marked, nearly, none := frame{mark: testMark | 0x3}, frame{mark: 0x50}, frame{}
	natt := func(sport, dport uint16) packet { return v4(unix.IPPROTO_UDP, ports(sport, dport)) }
	later := with(natt(1, 2), func(p *packet) { p.fragOffset = 1480 })
	later6 := fragment(v6(unix.IPPROTO_UDP, ports(1, 2)), 1448, false)
	try(t, together(
		bothWays(ipsec.Protect, 1, sel("10.0.0.0/16", "10.0.0.0/16", 0, anyPort, anyPort)),
		bothWays(ipsec.Protect, 1, sel("2001:db8::/32", "2001:db8::/32", 0, anyPort, anyPort)),
	), []Encap{
		{netip.MustParseAddrPort("10.0.0.1:4500"), netip.MustParseAddrPort("10.0.0.2:50001")},
		{netip.MustParseAddrPort("10.0.0.1:4500"), netip.MustParseAddrPort("[::ffff:10.0.0.2]:50002")},
		{netip.MustParseAddrPort("[2001:db8::1]:4500"), netip.MustParseAddrPort("[2001:db8::2]:4500")},
	}, []crossing{
		{name: "marked", packet: natt(4500, 50001), frame: marked, out: true, in: true},
		{name: "second", packet: natt(4500, 50002), frame: marked, out: true, in: true},
		{name: "other mark", packet: natt(4500, 50001), frame: nearly, in: true},
		{name: "no mark", packet: natt(4500, 50001), frame: none, in: true},
		{name: "other remote port", packet: natt(4500, 50003), frame: marked, in: true},
		{name: "other local port", packet: natt(4501, 50001), frame: marked},
		{name: "ports the other way", packet: natt(50001, 4500), frame: marked},
		{name: "TCP", packet: v4(unix.IPPROTO_TCP, ports(4500, 50001)), frame: marked},
		{name: "other host", packet: with(natt(4500, 50001), func(p *packet) { p.dst = "10.0.0.3" }), frame: marked, in: true},
		{name: "other local host", packet: with(natt(4500, 50001), func(p *packet) { p.src = "10.0.0.3" }), frame: marked},
		{name: "later fragment, marked", packet: later, frame: marked, out: true, in: true},
		{name: "later fragment, no mark", packet: later, frame: none, in: true},
		{name: "later fragment, other host", packet: with(later, func(p *packet) { p.dst = "10.0.0.3" }), frame: marked, in: true},
		{name: "later fragment, other local host", packet: with(later, func(p *packet) { p.src = "10.0.0.3" }), frame: marked},
		{name: "later fragment of TCP", packet: with(later, func(p *packet) { p.proto = unix.IPPROTO_TCP }), frame: marked},
		{name: "v6 marked", packet: v6(unix.IPPROTO_UDP, ports(4500, 4500)), frame: marked, out: true, in: true},
		{name: "v6 no mark", packet: v6(unix.IPPROTO_UDP, ports(4500, 4500)), frame: none, in: true},
		{name: "v6 later fragment, marked", packet: later6, frame: marked, out: true, in: true},
		{name: "v6 later fragment, no mark", packet: later6, frame: none, in: true},
		{name: "v6 first fragment, other port", packet: fragment(v6(unix.IPPROTO_UDP, ports(4500, 4501)), 0, true), frame: marked, in: true},
		{name: "v6 first fragment, other local port", packet: fragment(v6(unix.IPPROTO_UDP, ports(4501, 4500)), 0, true), frame: marked},
	})
}

func TestPriorityOrder(t *testing.T) {
	wide := func(a ipsec.Action, prio uint32) []ipsec.Policy {
		return bothWays(a, prio, sel("10.0.0.0/24", "10.0.0.0/24", 0, anyPort, anyPort))
	}
	ssh := bothWays(ipsec.Bypass, 10, sel("10.0.0.0/24", "10.0.0.0/24", unix.IPPROTO_TCP, anyPort, 22))
	optional := bothWays(ipsec.Protect, 12, sel("10.0.0.0/24", "10.0.0.0/24", unix.IPPROTO_UDP, anyPort, 53))
	half := bothWays(ipsec.Protect, 12, sel("10.0.0.0/24", "10.0.0.0/24", unix.IPPROTO_UDP, anyPort, 54))
	for i := range optional {
		optional[i].Processing = []ipsec.Processing{{Optional: true}, {Optional: true}}
		half[i].Processing = []ipsec.Processing{{Optional: true}, {}}
	}
	forward := wide(ipsec.Protect, 20)
	for i := range forward {
		forward[i].Direction = ipsec.Forward
		forward[i].Selector.Src, forward[i].Selector.Dst = prefix("10.1.0.0/16"), prefix("10.2.0.0/16")
	}
	try(t, together(
		wide(ipsec.Protect, 20), ssh, optional, half, forward[:1],
		bothWays(ipsec.Bypass, 30, sel("10.0.0.0/24", "10.0.0.0/24", unix.IPPROTO_UDP, anyPort, 99)),
		// Of equal priority the first decides.
		bothWays(ipsec.Bypass, 5, sel("2001:db8::/64", "2001:db8::/64", 0, anyPort, anyPort)),
		bothWays(ipsec.Discard, 5, sel("2001:db8::1/128", "2001:db8::/64", 0, anyPort, anyPort)),
	), nil, []crossing{
		{name: "bypassed before", packet: v4(unix.IPPROTO_TCP, ports(1, 22)), out: true, in: true},
		{name: "bypassed, first fragment", packet: with(v4(unix.IPPROTO_TCP, ports(1, 22)), func(p *packet) { p.more = true }), out: true, in: true},
		{name: "bypassed, other fragment", packet: with(v4(unix.IPPROTO_TCP, ports(1, 22)), func(p *packet) { p.fragOffset = 8 })},
		{name: "bypassed, without ports", packet: v4(unix.IPPROTO_TCP, []byte{0})},
		{name: "not bypassed", packet: v4(unix.IPPROTO_TCP, ports(1, 23))},
		{name: "optional", packet: v4(unix.IPPROTO_UDP, ports(1, 53)), out: true, in: true},
		{name: "half optional", packet: v4(unix.IPPROTO_UDP, ports(1, 54))},
		{name: "bypassed too late", packet: v4(unix.IPPROTO_UDP, ports(1, 99))},
		{name: "first of equals", packet: v6(unix.IPPROTO_UDP, ports(1, 99)), out: true, in: true},
		// The mirror image is from 10.1/16 to 10.2/16. Going out, forward policies do not count.
		{name: "forwarded", packet: packet{src: "10.2.0.1", dst: "10.1.0.1", proto: unix.IPPROTO_TCP, payload: ports(1, 2)}, out: true},
	})
}
