package xfrm

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
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
	loose    bool // may lack the protocol
}

const groupID = "ID (src, dst, proto, spi)"

// idWords makes the keywords of ID for a grammar; get finds the identity to fill in. They
// stand together, once.
func idWords[T any](get func(T) *identity) []keyword[T] {
	return together(&identityGrammar, keyword[T]{
		group: groupID,
		over:  func(t T) bool { return get(t).given },
		parse: func(c *cursor, t T) error { return get(t).parse(c) },
	})
}

// together makes keywords of all those of inner: the first of them that comes is read, with
// what follows, by like.
func together[T, U any](inner *grammar[U], like keyword[T]) []keyword[T] {
	parse := like.parse
	like.parse = func(c *cursor, t T) error {
		c.pos--
		return parse(c, t)
	}
	words := make([]keyword[T], len(inner.words))
	for i := range inner.words {
		words[i] = like
		words[i].name = inner.words[i].name
	}
	return words
}

var identityGrammar = newGrammar([]keyword[*identity]{
	{name: "src", parse: func(c *cursor, id *identity) error { return address(c, &id.src) }},
	{name: "dst", parse: func(c *cursor, id *identity) error { return address(c, &id.dst) }},
	{name: "proto", parse: func(c *cursor, id *identity) error { return named(c, &id.proto, protoNames, "an IPsec protocol") }},
	{name: "spi", parse: func(c *cursor, id *identity) error { return number(c, &id.spi, 32, ValueSPI) }},
})

func (id *identity) parse(c *cursor) error {
	id.given = true
	if _, err := identityGrammar.parse(c, id); err != nil {
		return err
	}
	if mixedFamilies(id.src, id.dst) {
		return c.mixedFamilies(id.src, id.dst)
	}
	c.setFamily(id.src, id.dst)
	if id.proto == 0 && !id.loose {
		return c.protoMissing()
	}
	switch id.proto {
	case protoRoute2, protoHAO:
		if id.spi != 0 {
			return c.semantic(fmt.Sprintf("proto %s has no spi", ProtocolName(id.proto)))
		}
	case protoComp:
		if id.spi > 0xffff {
			return c.semantic("the spi of proto comp has 16 bits")
		}
	}
	return nil
}

func (c *cursor) protoMissing() error {
	return &SyntaxError{Index: len(c.words), Context: c.context(), Problem: "proto is missing", Expected: protoNames.names()}
}

// require refuses a command that does not say which SA it is about.
func (id *identity) require(c *cursor) error {
	if !id.given {
		return c.semantic("which one? src, dst, proto and spi are missing")
	}
	return nil
}

// family is that of the addresses, else what was asked for, else IPv4.
func (id *identity) family(c *cursor) uint16 {
	for _, p := range []netip.Prefix{id.src, id.dst} {
		if p.IsValid() {
			return prefixFamily(p)
		}
	}
	if c.env.Family != 0 {
		return c.env.Family
	}
	return unix.AF_INET
}

func mixedFamilies(a, b netip.Prefix) bool {
	return a.IsValid() && b.IsValid() && prefixFamily(a) != prefixFamily(b)
}

func (c *cursor) mixedFamilies(src, dst netip.Prefix) error {
	return &SyntaxError{Index: c.pos - 1, Context: c.context(),
		Problem: fmt.Sprintf("src %s and dst %s are of different address families", src.Addr(), dst.Addr())}
}

// selection is a selector in the making. ICMP types and GRE keys travel in its ports.
type selection struct {
	sel                  Selector
	given                bool
	upper                bool // the words of the upper protocol have come
	ports, types, greKey bool
}

// selectorWords makes the keywords of SELECTOR for a grammar. They stand together, once.
func selectorWords[T any](get func(T) *selection) []keyword[T] {
	return together(&selectionGrammar, keyword[T]{
		group: "SELECTOR (src, dst, dev, proto and its ports)",
		over:  func(t T) bool { return get(t).given },
		parse: func(c *cursor, t T) error { return get(t).parse(c) },
	})
}

var selectionGrammar = newGrammar([]keyword[*selection]{
	{name: "src", parse: func(c *cursor, s *selection) error { return address(c, &s.sel.Src) }},
	{name: "dst", parse: func(c *cursor, s *selection) error { return address(c, &s.sel.Dst) }},
	{name: "dev", parse: parseSelectorDevice},
}, together(&upperGrammar, keyword[*selection]{
	group: "the upper protocol",
	over:  func(s *selection) bool { return s.upper },
	parse: func(c *cursor, s *selection) error { return s.parseUpper(c) },
}))

// upperGrammar is UPSPEC: the upper protocol and what it has of ports. Its words stand
// together, too.
var upperGrammar = newGrammar([]keyword[*selection]{
	{name: "proto", parse: func(c *cursor, s *selection) error { return upperProtocol(c, &s.sel.Protocol) }},
	{name: "sport", parse: func(c *cursor, s *selection) error { s.ports = true; return port(c, &s.sel.SrcPort) }},
	{name: "dport", parse: func(c *cursor, s *selection) error { s.ports = true; return port(c, &s.sel.DstPort) }},
	{name: "type", parse: func(c *cursor, s *selection) error { s.types = true; return icmp(c, &s.sel.SrcPort, "an ICMP type") }},
	{name: "code", parse: func(c *cursor, s *selection) error { s.types = true; return icmp(c, &s.sel.DstPort, "an ICMP code") }},
	{name: "key", parse: func(c *cursor, s *selection) error { s.greKey = true; return greKey(c, &s.sel) }},
})

func (s *selection) parse(c *cursor) error {
	s.given = true
	if _, err := selectionGrammar.parse(c, s); err != nil {
		return err
	}
	if mixedFamilies(s.sel.Src, s.sel.Dst) {
		return c.mixedFamilies(s.sel.Src, s.sel.Dst)
	}
	c.setFamily(s.sel.Src, s.sel.Dst)
	for _, p := range []netip.Prefix{s.sel.Src, s.sel.Dst} {
		if p.IsValid() {
			s.sel.Family = prefixFamily(p)
		}
	}
	return nil
}

func parseSelectorDevice(c *cursor, s *selection) error {
	c.offer("none")
	if c.peek() == "none" {
		c.pos++
		s.sel.Interface = 0
		return nil
	}
	_, index, err := device(c)
	s.sel.Interface = index
	return err
}

// parseUpper reads UPSPEC and checks that the ports go with the protocol.
func (s *selection) parseUpper(c *cursor) error {
	s.upper = true
	if _, err := upperGrammar.parse(c, s); err != nil {
		return err
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
		if rule.given && !slices.Contains(rule.protos, proto) {
			return c.semantic(fmt.Sprintf("%s with proto %s, not with %s", rule.what, protoList(rule.protos), protoOrAny(proto)))
		}
	}
	return nil
}

func upperProtocol(c *cursor, dst *uint8) error {
	if c.atGap() {
		c.offer(append(ipProtocolNames.names(), "any")...)
	}
	word, err := c.value("an IP protocol")
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

// port reads a port. 0 is any, as with ip.
func port(c *cursor, dst *ipsec.PortMatch) error {
	*dst = ipsec.PortMatch{}
	if err := number(c, &dst.Value, 16, "a port"); err != nil {
		return err
	}
	if dst.Value != 0 {
		dst.Mask = 0xffff
	}
	return nil
}

// icmp reads a type or code, of which 0 is one as any other.
func icmp(c *cursor, dst *ipsec.PortMatch, what string) error {
	dst.Mask = 0xffff
	return number(c, &dst.Value, 8, what)
}

// greKey reads a 32-bit GRE key, as a number or a dotted quad.
func greKey(c *cursor, s *Selector) error {
	var v uint32
	if strings.Contains(c.peek(), ".") {
		quad, err := parseAddr(c.next())
		if err != nil || !quad.Is4() {
			return c.semanticWord("is not a GRE key: a number or a dotted quad goes here")
		}
		b := quad.As4()
		v = binary.BigEndian.Uint32(b[:])
	} else if err := number(c, &v, 32, "a GRE key"); err != nil {
		return err
	}
	s.SrcPort, s.DstPort = ipsec.Port(uint16(v>>16)), ipsec.Port(uint16(v))
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
func (id *identity) addrs(c *cursor) (src, dst netip.Addr) {
	src, dst = id.src.Addr(), id.dst.Addr()
	if !src.IsValid() {
		src = unspecified(id.family(c))
	}
	if !dst.IsValid() {
		dst = unspecified(id.family(c))
	}
	return src, dst
}

const (
	protoICMP     = 1
	protoTCP      = 6
	protoUDP      = 17
	protoDCCP     = 33
	protoRoute2   = 43
	protoGRE      = 47
	protoESP      = 50
	protoAH       = 51
	protoICMPv6   = 58
	protoHAO      = 60
	protoComp     = 108
	protoSCTP     = 132
	protoMobility = 135
)

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
