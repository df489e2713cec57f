package xfrm

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// identity is what ID stands for: addresses, protocol and SPI of an SA.
type identity struct {
	src, dst netip.Prefix
	proto    uint8
	spi      ipsec.SPI
	given    bool
}

const runID = "ID (src, dst, proto, spi)"

// idWords makes the keywords of ID for a grammar; get finds the identity to fill in.
func idWords[T any](get func(T) *identity) []keyword[T] {
	word := func(name string, parse func(*cursor, *identity) error) keyword[T] {
		return keyword[T]{name: name, run: runID, parse: func(c *cursor, t T) error {
			id := get(t)
			id.given = true
			return parse(c, id)
		}}
	}
	return []keyword[T]{
		word("src", func(c *cursor, id *identity) error { return address(c, &id.src) }),
		word("dst", func(c *cursor, id *identity) error { return address(c, &id.dst) }),
		word("proto", func(c *cursor, id *identity) error {
			return named(c, &id.proto, protoNames, "an IPsec protocol")
		}),
		word("spi", func(c *cursor, id *identity) error { return number(c, &id.spi, 32, "an SPI") }),
	}
}

// check refuses identities ip refuses. A loose identity may lack the protocol.
func (id *identity) check(c *cursor, loose bool) error {
	if id.proto == 0 && !loose {
		return &SyntaxError{Index: len(c.words), Context: c.context, Problem: "proto is missing", Expected: protoNames.names()}
	}
	if mixedFamilies(id.src, id.dst) {
		return c.semanticFamilies(id.src, id.dst)
	}
	return nil
}

func mixedFamilies(a, b netip.Prefix) bool {
	return a.IsValid() && b.IsValid() && prefixFamily(a) != prefixFamily(b)
}

// semanticFamilies is a SyntaxError because ip ends with the code of one.
func (c *cursor) semanticFamilies(src, dst netip.Prefix) error {
	return &SyntaxError{Index: c.pos - 1, Context: c.context,
		Problem: fmt.Sprintf("src %s and dst %s are of different address families", src.Addr(), dst.Addr())}
}

// selection is a selector in the making. ICMP types and GRE keys travel in its ports.
type selection struct {
	sel                  Selector
	given                bool
	ports, types, greKey bool
}

const runSelector = "SELECTOR (src, dst, dev, proto and its ports)"

// selectorWords makes the keywords of SELECTOR for a grammar.
func selectorWords[T any](get func(T) *selection) []keyword[T] {
	word := func(name string, parse func(*cursor, *selection) error) keyword[T] {
		return keyword[T]{name: name, run: runSelector, parse: func(c *cursor, t T) error {
			s := get(t)
			s.given = true
			return parse(c, s)
		}}
	}
	return []keyword[T]{
		word("src", func(c *cursor, s *selection) error { return address(c, &s.sel.Src) }),
		word("dst", func(c *cursor, s *selection) error { return address(c, &s.sel.Dst) }),
		word("dev", func(c *cursor, s *selection) error {
			if c.peek() == "none" {
				c.pos++
				s.sel.Interface = 0
				return nil
			}
			_, index, err := device(c)
			s.sel.Interface = index
			return err
		}),
		word("proto", func(c *cursor, s *selection) error { return upperProtocol(c, &s.sel.Protocol) }),
		word("sport", func(c *cursor, s *selection) error { s.ports = true; return port(c, &s.sel.SrcPort, "a port") }),
		word("dport", func(c *cursor, s *selection) error { s.ports = true; return port(c, &s.sel.DstPort, "a port") }),
		word("type", func(c *cursor, s *selection) error { s.types = true; return port(c, &s.sel.SrcPort, "an ICMP type") }),
		word("code", func(c *cursor, s *selection) error { s.types = true; return port(c, &s.sel.DstPort, "an ICMP code") }),
		word("key", func(c *cursor, s *selection) error { s.greKey = true; return greKey(c, &s.sel) }),
	}
}

func upperProtocol(c *cursor, dst *uint8) error {
	word, err := c.value()
	if err != nil {
		return err
	}
	if word == "any" {
		*dst = 0
		return nil
	}
	if v, ok := ipProtocolNames.value(strings.ToLower(word)); ok {
		*dst = uint8(v)
		return nil
	}
	v, err := parseNumber(word, 8)
	if err != nil {
		return c.wrong("is not an IP protocol: a name such as tcp or a number from 0 to 255 goes here")
	}
	*dst = uint8(v)
	return nil
}

func port(c *cursor, dst *ipsec.PortMatch, what string) error {
	dst.Mask = 0xffff
	return number(c, &dst.Value, 16, what)
}

// greKey reads a 32-bit GRE key, as a number or a dotted quad.
func greKey(c *cursor, s *Selector) error {
	var v uint32
	if quad, err := netip.ParseAddr(c.peek()); err == nil && quad.Is4() {
		c.pos++
		b := quad.As4()
		v = uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	} else if err := number(c, &v, 32, "a GRE key"); err != nil {
		return err
	}
	s.SrcPort, s.DstPort = ipsec.Port(uint16(v>>16)), ipsec.Port(uint16(v))
	return nil
}

// finish checks that ports go with the protocol and settles the family: that of the
// addresses, else what was asked for, else unspecified.
func (s *selection) finish(c *cursor) error {
	if mixedFamilies(s.sel.Src, s.sel.Dst) {
		return c.semanticFamilies(s.sel.Src, s.sel.Dst)
	}
	proto := s.sel.Protocol
	for _, rule := range []struct {
		given  bool
		what   string
		protos []uint8
	}{
		{s.ports, "sport and dport go", []uint8{0, protoTCP, protoUDP, protoSCTP, protoDCCP}},
		{s.types, "type and code go", []uint8{protoICMP, protoICMPv6, protoMobility}},
		{s.greKey, "key goes", []uint8{protoGRE}},
	} {
		if rule.given && !containsProto(rule.protos, proto) {
			return c.semantic(fmt.Sprintf("%s with proto %s, not with %s", rule.what, protoList(rule.protos), protoOrAny(proto)))
		}
	}
	s.sel.Family = c.env.Family
	for _, p := range []netip.Prefix{s.sel.Src, s.sel.Dst} {
		if p.IsValid() {
			s.sel.Family = prefixFamily(p)
		}
	}
	return nil
}

// fill makes missing addresses of a selector explicit, as they are read back: any address
// of the family.
func fill(s *Selector) {
	if s.Family == unix.AF_UNSPEC {
		return
	}
	any := netip.PrefixFrom(unspecified(s.Family), 0)
	if !s.Src.IsValid() {
		s.Src = any
	}
	if !s.Dst.IsValid() {
		s.Dst = any
	}
}

func unspecified(family uint16) netip.Addr {
	if family == unix.AF_INET6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// addrs are the addresses without their prefix lengths. ip sends 0.0.0.0 or :: for those
// not given.
func (id *identity) addrs() (src, dst netip.Addr) {
	src, dst = id.src.Addr(), id.dst.Addr()
	family := uint16(unix.AF_INET)
	if isIPv6(src) || isIPv6(dst) {
		family = unix.AF_INET6
	}
	if !src.IsValid() {
		src = unspecified(family)
	}
	if !dst.IsValid() {
		dst = unspecified(family)
	}
	return src, dst
}

const (
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoDCCP     = 33
	protoGRE      = 47
	protoESP      = 50
	protoICMPv6   = 58
	protoSCTP     = 132
	protoMobility = 135
)

func containsProto(list []uint8, p uint8) bool {
	for _, v := range list {
		if v == p {
			return true
		}
	}
	return false
}

func protoList(list []uint8) string {
	var names []string
	for _, p := range list {
		if p != 0 {
			names = append(names, IPProtocolName(p))
		}
	}
	return orList(names)
}

func protoOrAny(p uint8) string {
	if p == 0 {
		return "any"
	}
	return IPProtocolName(p)
}
