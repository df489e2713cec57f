package host

import (
	"fmt"
	"net/netip"
	"slices"

	"espalier/deploy/steps"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/probe"
	"espalier/tunnel"
)

// Flow is a probe: traffic that a policy sends through its SA.
type Flow struct {
	Src, Dst         netip.Addr
	Protocol         uint8 // TCP, UDP, ICMP or ICMPv6
	SrcPort, DstPort uint16
	Mark             uint32 // that the packet carries
	Foreign          bool   // Src is not an address of this host
	Device           string // that it leaves by; "": as routes say
}

// noInterface says that packets go by a policy only by an interface that is not there.
type noInterface struct{ ifID uint32 }

func (n *noInterface) Error() string {
	return fmt.Sprintf("there is no xfrm interface with if_id %d there", n.ifID)
}

// interfaceOf is the xfrm interface with an if_id, of the calling thread's network namespace; "" if there
// is none, or nobody knows.
func interfaceOf(ifID uint32) string {
	links, _ := probe.Here().Network.Links()
	for i := range links {
		if links[i].IfID == ifID && links[i].Up {
			return links[i].Name
		}
	}
	return ""
}

// flowOf is a probe inside the selector of a policy that sends, one that it decides on among all that do, from
// an address of this host's where there is one. The error says why there can be none. But for *noInterface and
// tunnel.ErrElsewhere it is the same at the other end, for what is sent there by the mirrored policy.
func flowOf(p *tunnel.Policy, pair *steps.PairEnd, own []netip.Addr, interfaceOf func(ifID uint32) string, all *tunnel.Senders, protocols ...uint8) (f Flow, err error) {
	device := ""
	if p.IfID != 0 {
		if device = interfaceOf(p.IfID); device == "" {
			return f, &noInterface{p.IfID}
		}
	}
	flows, err := tunnel.Trials(&p.Selector, append([]netip.Addr{pair.Local}, own...), []netip.Addr{pair.Remote})
	if err != nil {
		return f, err
	}
	if len(protocols) > 0 {
		flows = slices.DeleteFunc(flows, func(f ipsec.Flow) bool { return !slices.Contains(protocols, f.Protocol) })
	}
	one, ok := all.First(p, flows)
	if !ok {
		return f, tunnel.ErrElsewhere
	}
	return Flow{
		Src: one.Src, Dst: one.Dst, Protocol: one.Protocol, SrcPort: one.SrcPort, DstPort: one.DstPort,
		Mark: p.Mark.Value, Foreign: one.Src != pair.Local && !slices.Contains(own, one.Src), Device: device,
	}, nil
}

func echoRequest(protocol uint8) uint16 {
	if protocol == inet.ProtoICMPv6 {
		return 128
	}
	return 8
}
