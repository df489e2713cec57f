package tunnel

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"espalier/config"
	"espalier/ipsec"
)

const (
	protocolICMP = 1
	protocolTCP  = 6
	protocolUDP  = 17
)

// trialPorts are where nobody is expected to listen: discard (RFC 863), and some that nothing is registered for
// (RFC 6335 §6).
var trialPorts = []uint16{9, 49391, 56837, 64951}

// ErrElsewhere says that other policies decide on all that could be tried of a selector.
var ErrElsewhere = errors.New("all that could be tried goes by other policies")

// Trials are flows inside a selector that show whether its traffic gets through, those first that serve best: an
// echo request, then UDP and TCP to ports where nobody listens. A source port of 0 is one that is free. Addresses
// are the first in its prefixes of those given, then others in them. The error says why there is none.
func Trials(s *ipsec.Selector, src, dst []netip.Addr) (flows []ipsec.Flow, err error) {
	different := false
	for _, from := range within(s.Src, src) {
		for _, to := range within(s.Dst, dst) {
			if from.Is4() != to.Is4() {
				different = true
				continue
			}
			flows = append(flows, trialsBetween(s, from, to)...)
		}
	}
	switch {
	case len(flows) > 0:
		return flows, nil
	case different:
		return nil, errors.New("its addresses are of different families")
	case slices.Contains([]uint8{0, protocolICMP, protocolICMPv6, protocolUDP, protocolTCP}, s.Protocol):
		return nil, errors.New("no echo request is inside its selector")
	}
	return nil, fmt.Errorf("IP protocol %d cannot be probed: probes are ICMP, UDP and TCP", s.Protocol)
}

func trialsBetween(s *ipsec.Selector, from, to netip.Addr) (flows []ipsec.Flow) {
	echo := ipsec.Flow{Src: from, Dst: to, Protocol: protocolICMP, SrcPort: 8} // type and code stand for ports
	if from.Is6() {
		echo.Protocol, echo.SrcPort = protocolICMPv6, 128
	}
	if s.Match(&echo) {
		flows = append(flows, echo)
	}
	ports := trialPorts
	if !s.DstPort.Any() {
		ports = []uint16{s.DstPort.Value}
	}
	for _, protocol := range []uint8{protocolUDP, protocolTCP} {
		for _, port := range ports {
			if s.Protocol == 0 || s.Protocol == protocol {
				flows = append(flows, ipsec.Flow{Src: from, Dst: to, Protocol: protocol, SrcPort: s.SrcPort.Value, DstPort: port})
			}
		}
	}
	return flows
}

// within are the only address of a prefix, else those of some that are in it, the first that can be a host's, one
// in the middle, and the last.
func within(p netip.Prefix, some []netip.Addr) (all []netip.Addr) {
	if !p.IsValid() {
		return some[:1]
	}
	if p.IsSingleIP() {
		return []netip.Addr{p.Addr()}
	}
	for _, a := range some {
		if p.Contains(a) && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			all = append(all, a)
		}
	}
	first := p.Masked().Addr()
	if p.Bits() >= first.BitLen()-1 {
		return append(all, first, last(p))
	}
	lower := netip.PrefixFrom(first, p.Bits()+1)
	return append(all, first.Next(), last(lower).Next(), last(p).Prev())
}

// last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Senders are policies that decide on what leaves a host, to be asked for those that come first.
type Senders struct {
	bits []int // lengths of the prefixes that they send to; -1: to any
	to   map[netip.Prefix][]*Policy
}

// Add adds a policy; those of other directions than outbound do not count.
func (s *Senders) Add(p *Policy) {
	if p.Direction != ipsec.Outbound {
		return
	}
	if s.to == nil {
		s.to = map[netip.Prefix][]*Policy{}
	}
	to := p.Selector.Dst.Masked()
	if !slices.Contains(s.bits, to.Bits()) {
		s.bits = append(s.bits, to.Bits())
	}
	s.to[to] = append(s.to[to], p)
}

// First is the first of some flows that a policy decides on, and no other one. Of two with the same priority
// nobody knows here which one does.
func (s *Senders) First(p *Policy, flows []ipsec.Flow) (ipsec.Flow, bool) {
	for i := range flows {
		if s.decides(p, &flows[i]) {
			return flows[i], true
		}
	}
	return ipsec.Flow{}, false
}

func (s *Senders) decides(p *Policy, f *ipsec.Flow) bool {
	id := at(0, "", p)
	for _, bits := range s.bits {
		to := netip.Prefix{}
		if bits >= 0 {
			var err error
			if to, err = f.Dst.Prefix(bits); err != nil {
				continue // of the other family
			}
		}
		for _, other := range s.to[to] {
			if other.Priority <= p.Priority && other.IfID == p.IfID && carries(p.Mark, other.Mark) && mayMatch(&other.Selector, f) && at(0, "", other) != id {
				return false
			}
		}
	}
	return true
}

// carries reports whether a policy with one mark takes a packet that has the value of another.
func carries(value, policy config.Mark) bool { return value.Value&policy.Mask == policy.Value }

// mayMatch reports whether a selector takes a flow, if from a port that is free then any but a certain one.
func mayMatch(s *ipsec.Selector, f *ipsec.Flow) bool {
	one := *s
	if f.SrcPort == 0 && (f.Protocol == protocolTCP || f.Protocol == protocolUDP) {
		if one.SrcPort.Mask == 0xffff {
			return false
		}
		one.SrcPort = ipsec.PortMatch{}
	}
	return one.Match(f)
}
