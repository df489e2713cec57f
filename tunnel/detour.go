package tunnel

import (
	"net/netip"

	"espalier/config"
	"espalier/ipsec"
)

// Detour is ssh whose packets a pair protects. While one of its ends has lost its SAs it goes in clear, outside of
// the tunnel: nothing else would bring that back.
type Detour struct {
	Local  netip.Addr `json:"local"`
	Remote netip.Addr `json:"remote"`
	Port   uint16     `json:"port"`             // of the server
	Serves bool       `json:"serves,omitempty"` // the server is here
}

// detourPriority puts what is sent outside of a tunnel before all else that espalier has.
const detourPriority = 400

// selector of the packets in a direction.
func (d Detour) selector(direction ipsec.Direction) ipsec.Selector {
	s := ipsec.Selector{Src: netip.PrefixFrom(d.Local, d.Local.BitLen()), Dst: netip.PrefixFrom(d.Remote, d.Remote.BitLen()), Protocol: protocolTCP}
	if d.Serves {
		s.SrcPort = ipsec.Port(d.Port)
	} else {
		s.DstPort = ipsec.Port(d.Port)
	}
	if direction != ipsec.Outbound {
		s = config.Mirror(s)
	}
	return s
}

// Protects tells which of some policies protects the packets of a detour in a direction; nil: they go in clear.
func (d Detour) Protects(policies []Policy, direction ipsec.Direction) *Policy {
	s := d.selector(direction)
	flow := ipsec.Flow{Src: s.Src.Addr(), Dst: s.Dst.Addr(), Protocol: protocolTCP, SrcPort: s.SrcPort.Value, DstPort: s.DstPort.Value}
	var first *Policy
	for i := range policies {
		p := &policies[i]
		// ssh has no mark, and goes by no xfrm interface.
		if p.Direction == direction && p.Mark.Value == 0 && p.IfID == 0 && p.Selector.Match(&flow) && (first == nil || p.Priority < first.Priority) {
			first = p
		}
	}
	if first == nil || first.Action != ipsec.Protect {
		return nil
	}
	return first
}

// Policies send the packets in clear, and take them in clear as well as by the SAs of those that protect them. The
// peer may have the tunnel back at any moment. None if nothing protects them.
func (d Detour) Policies(of []Policy) []Policy {
	out, in := d.Protects(of, ipsec.Outbound), d.Protects(of, ipsec.Inbound)
	if out == nil || in == nil {
		return nil
	}
	sends := Policy{Policy: ipsec.Policy{Selector: d.selector(ipsec.Outbound), Direction: ipsec.Outbound, Priority: detourPriority, Action: ipsec.Bypass}}
	takes := Policy{Policy: ipsec.Policy{Selector: d.selector(ipsec.Inbound), Direction: ipsec.Inbound, Priority: detourPriority, Action: ipsec.Protect}}
	for _, p := range in.Processing {
		p.Optional = true
		takes.Processing = append(takes.Processing, p)
	}
	return []Policy{takes, sends}
}
