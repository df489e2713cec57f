package tunnel

import (
	"net/netip"

	"espalier/config"
	"espalier/ipsec"
)

// icvBits are always those which every NIC and kernel does.
const icvBits = 128

// layOut makes one end of a pair: its SAs and policies.
func layOut(t *config.Tunnel, p *config.Pair, sides *[2]side, i int, esn bool) End {
	me, peer := &sides[i], &sides[1-i]
	e := End{
		Host: me.host, Engine: me.engine.Name, Device: me.device.Name, Local: me.of.Address, Remote: peer.of.Address,
	}
	if me.engine.Device != "" {
		e.Queues = me.engine.Lanes
		if e.Queues == 0 {
			e.Queues = anyQueues
		}
	}
	for _, lane := range p.Lanes {
		for _, cpu := range me.cpus {
			e.Outbound = append(e.Outbound, outbound(t, me, peer, lane.RequestID, cpu, esn))
		}
		for range peer.cpus {
			e.Inbound = append(e.Inbound, inbound(t, me, peer, lane.RequestID, esn))
		}
	}
	e.Policies = policies(t, p, me, peer, i == 1)
	return e
}

// anyQueues is a multiple of every number of queues up to 10, for a device that does not say how
// many it has.
const anyQueues = 2520

// outbound is an SA by which me sends.
func outbound(t *config.Tunnel, me, peer *side, reqid uint32, cpu *uint32, esn bool) SA {
	sa := newSA(t, me, reqid, esn)
	sa.Src, sa.Dst = me.of.Address, peer.of.Address
	sa.Mark, sa.OutputMark, sa.CPU = t.Mark, t.OutputMark, cpu
	if me.engine.Direction.Can == Yes {
		sa.Direction = ipsec.Outbound
	} else {
		sa.Window = me.window // without a direction, ESN wants one, and it does nothing
	}
	sa.Offload = me.offloading(ipsec.Outbound)
	return sa
}

// inbound is an SA by which me receives. Packets come without marks of the sender's: what was
// decrypted gets the mark, and so meets the policies that have it.
func inbound(t *config.Tunnel, me, peer *side, reqid uint32, esn bool) SA {
	sa := newSA(t, me, reqid, esn)
	sa.Src, sa.Dst = peer.of.Address, me.of.Address
	sa.OutputMark = t.Mark
	if me.engine.Direction.Can == Yes {
		sa.Direction = ipsec.Inbound
	}
	sa.Window = me.window
	if me.receives {
		sa.Offload = me.offloading(ipsec.Inbound)
	}
	return sa
}

func newSA(t *config.Tunnel, me *side, reqid uint32, esn bool) SA {
	sa := SA{
		SA: ipsec.SA{
			Mode: t.Mode.IPsec(), RequestID: reqid, ICVBits: icvBits, ESN: esn, Limits: t.Lifetime.Limits(),
		},
		IfID: t.IfID,
	}
	if t.Encap.Type == config.UDPEncap {
		sa.Encap = &ipsec.Encap{SrcPort: t.Encap.Port, DstPort: t.Encap.Port}
	}
	return sa
}

func (s *side) offloading(d ipsec.Direction) ipsec.Offload {
	if s.offload == ipsec.NoOffload {
		return ipsec.Offload{}
	}
	return ipsec.Offload{Mode: s.offload, Interface: s.device.Index, Direction: d}
}

// discoveryPriority puts the bypass of neighbour discovery before all that the file says, which
// begins at 1000.
const discoveryPriority = 500

// Neighbour discovery (RFC 4861 §4): ICMPv6 router and neighbour solicitations and advertisements,
// and redirects. Encrypted, it could not find out where to send what encrypts it.
const (
	protocolICMPv6 = 58
	firstDiscovery = 133
	lastDiscovery  = 137
)

// policies are those of one end: what goes in clear first, then what is accepted, then what is sent.
// mirrored tells that this end is the file's B.
func policies(t *config.Tunnel, p *config.Pair, me, peer *side, mirrored bool) (list []Policy) {
	seen := func(s ipsec.Selector) ipsec.Selector { // from here
		if mirrored {
			return config.Mirror(s)
		}
		return s
	}
	discovered := map[[2]netip.Prefix]bool{}
	for _, lane := range p.Lanes {
		for _, entry := range lane.Protect {
			s := seen(entry.Selector)
			prefixes := [2]netip.Prefix{s.Src, s.Dst}
			if !s.Is6() || s.Protocol != 0 && s.Protocol != protocolICMPv6 || discovered[prefixes] {
				continue
			}
			discovered[prefixes] = true
			for typ := uint16(firstDiscovery); typ <= lastDiscovery; typ++ {
				one := ipsec.Selector{Src: s.Src, Dst: s.Dst, Protocol: protocolICMPv6, SrcPort: ipsec.Port(typ)}
				list = append(list, bypass(t, one, discoveryPriority)...)
			}
		}
	}
	for _, entry := range p.Bypass {
		for _, policy := range bypass(t, seen(entry.Selector), entry.Priority) {
			if policy.Direction != ipsec.Forward {
				policy.Offload = me.policyOffload(policy.Direction)
			}
			list = append(list, policy)
		}
	}
	var sending []Policy
	for _, lane := range p.Lanes {
		for _, entry := range lane.Protect {
			s := seen(entry.Selector)
			for _, d := range directions(t) {
				policy := protect(t, me, peer, s, d, lane.RequestID, entry.Priority)
				if d == ipsec.Outbound {
					sending = append(sending, policy)
				} else {
					list = append(list, policy)
				}
			}
		}
	}
	return append(list, sending...)
}

// directions of the policies for one selector. Only what comes out of a tunnel may be for others.
func directions(t *config.Tunnel) []ipsec.Direction {
	if t.Mode == config.TunnelMode {
		return []ipsec.Direction{ipsec.Inbound, ipsec.Forward, ipsec.Outbound}
	}
	return []ipsec.Direction{ipsec.Inbound, ipsec.Outbound}
}

// toward is what a selector of outgoing traffic is in a direction.
func toward(d ipsec.Direction, s ipsec.Selector) ipsec.Selector {
	if d == ipsec.Outbound {
		return s
	}
	back := config.Mirror(s)
	if s.Protocol == protocolICMPv6 || s.Protocol == 1 {
		back.SrcPort, back.DstPort = s.SrcPort, s.DstPort // type and code
	}
	return back
}

func bypass(t *config.Tunnel, s ipsec.Selector, priority uint32) (list []Policy) {
	for _, d := range directions(t) {
		list = append(list, Policy{
			Policy: ipsec.Policy{Selector: toward(d, s), Direction: d, Priority: priority, Action: ipsec.Bypass},
			Mark:   t.Mark, IfID: t.IfID,
		})
	}
	return list
}

func protect(t *config.Tunnel, me, peer *side, s ipsec.Selector, d ipsec.Direction, reqid, priority uint32) Policy {
	processing := ipsec.Processing{Mode: t.Mode.IPsec(), RequestID: reqid}
	if t.Mode == config.TunnelMode {
		processing.Src, processing.Dst = me.of.Address, peer.of.Address
		if d != ipsec.Outbound {
			processing.Src, processing.Dst = processing.Dst, processing.Src
		}
	}
	policy := Policy{
		Policy: ipsec.Policy{
			Selector: toward(d, s), Direction: d, Priority: priority, Action: ipsec.Protect, Processing: []ipsec.Processing{processing},
		},
		Mark: t.Mark, IfID: t.IfID,
	}
	if d != ipsec.Forward {
		policy.Offload = me.policyOffload(d)
	}
	return policy
}

// policyOffload: with packet offload the NIC has policies, too.
func (s *side) policyOffload(d ipsec.Direction) ipsec.Offload {
	if s.offload != ipsec.PacketOffload || d == ipsec.Inbound && !s.receives {
		return ipsec.Offload{}
	}
	return s.offloading(d)
}
