package ipsec

import (
	"fmt"
	"net/netip"
	"strings"
)

// PortMatch compares a 16-bit field under a mask. The zero value matches any port.
// For ICMP the source "port" is the type and the destination "port" the code, as in Linux.
type PortMatch struct {
	Value, Mask uint16
}

// Port matches exactly p.
func Port(p uint16) PortMatch { return PortMatch{Value: p, Mask: 0xffff} }

// Any reports whether every port matches.
func (m PortMatch) Any() bool { return m.Mask == 0 }

func (m PortMatch) match(p uint16) bool { return p&m.Mask == m.Value&m.Mask }

// Selector describes traffic (RFC 4301 §4.4.1.1), seen in the direction of travel: Src is
// where packets come from. An invalid (zero) prefix matches any address of any family.
type Selector struct {
	Src, Dst         netip.Prefix
	Protocol         uint8 // IP protocol number; 0 is any
	SrcPort, DstPort PortMatch
	Interface        int // ifindex; 0 is any
}

// Flow is what a selector looks at in one packet.
type Flow struct {
	Src, Dst         netip.Addr
	Protocol         uint8
	SrcPort, DstPort uint16
	// NoPorts is set for a packet whose ports cannot be read: a fragment other than the
	// first, or one cut short. It matches a selector with ports, so that it can never slip
	// past one that protects; who lets traffic pass by its ports must look at it himself.
	NoPorts bool
}

// HasPorts reports whether the selector looks at ports (or ICMP type and code).
func (s *Selector) HasPorts() bool { return !s.SrcPort.Any() || !s.DstPort.Any() }

// Match reports whether f falls under the selector.
func (s *Selector) Match(f *Flow) bool {
	if s.Src.IsValid() && !s.Src.Contains(f.Src) || s.Dst.IsValid() && !s.Dst.Contains(f.Dst) {
		return false
	}
	if s.Protocol != 0 && s.Protocol != f.Protocol {
		return false
	}
	return f.NoPorts || s.SrcPort.match(f.SrcPort) && s.DstPort.match(f.DstPort)
}

// Covers reports whether all traffic that o selects is selected by s, too.
func (s *Selector) Covers(o *Selector) bool {
	prefix := func(a, b netip.Prefix) bool {
		return !a.IsValid() || b.IsValid() && a.Bits() <= b.Bits() && a.Contains(b.Addr())
	}
	port := func(a, b PortMatch) bool { return a.Mask&^b.Mask == 0 && (a.Value^b.Value)&a.Mask == 0 }
	return prefix(s.Src, o.Src) && prefix(s.Dst, o.Dst) && (s.Protocol == 0 || s.Protocol == o.Protocol) &&
		port(s.SrcPort, o.SrcPort) && port(s.DstPort, o.DstPort) && (s.Interface == 0 || s.Interface == o.Interface)
}

// Overlaps reports whether there is traffic that both select.
func (s *Selector) Overlaps(o *Selector) bool {
	prefix := func(a, b netip.Prefix) bool { return !a.IsValid() || !b.IsValid() || a.Overlaps(b) }
	port := func(a, b PortMatch) bool { return (a.Value^b.Value)&a.Mask&b.Mask == 0 }
	either := func(a, b int) bool { return a == 0 || b == 0 || a == b }
	return prefix(s.Src, o.Src) && prefix(s.Dst, o.Dst) && either(int(s.Protocol), int(o.Protocol)) &&
		port(s.SrcPort, o.SrcPort) && port(s.DstPort, o.DstPort) && either(s.Interface, o.Interface)
}

// Is4 and Is6 report the family; both are false for a selector that names no address.
func (s *Selector) Is4() bool {
	return s.Src.IsValid() && s.Src.Addr().Is4() || s.Dst.IsValid() && s.Dst.Addr().Is4()
}

// Is6 reports whether the selector names IPv6 addresses.
func (s *Selector) Is6() bool {
	return s.Src.IsValid() && s.Src.Addr().Is6() || s.Dst.IsValid() && s.Dst.Addr().Is6()
}

func (s Selector) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s→%s", prefixString(s.Src), prefixString(s.Dst))
	if s.Protocol != 0 {
		fmt.Fprintf(&b, " proto %d", s.Protocol)
	}
	if !s.SrcPort.Any() {
		fmt.Fprintf(&b, " sport %d", s.SrcPort.Value)
	}
	if !s.DstPort.Any() {
		fmt.Fprintf(&b, " dport %d", s.DstPort.Value)
	}
	return b.String()
}

func prefixString(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "any"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}
