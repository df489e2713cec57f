package host

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"espalier/deploy/steps"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/probe"
	"espalier/xfrm"
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

// discard is the port for what nobody is to answer (RFC 863).
const discard = 9

// flowOf is a probe inside the selector of a policy that sends, from an address of this host's where
// there is one. The error says why there can be none; but for *noInterface it is the same at the other end,
// for what is sent there by the mirrored policy.
func flowOf(p *xfrm.Policy, pair *steps.PairEnd, own []netip.Addr, interfaceOf func(ifID uint32) string) (f Flow, err error) {
	device := ""
	if p.IfID != 0 {
		if device = interfaceOf(p.IfID); device == "" {
			return f, &noInterface{p.IfID}
		}
	}
	f = Flow{Device: device, Src: within(p.Sel.Src, append([]netip.Addr{pair.Local}, own...)), Dst: within(p.Sel.Dst, []netip.Addr{pair.Remote})}
	if p.Mark != nil {
		f.Mark = p.Mark.Value
	}
	f.Foreign = f.Src != pair.Local && !slices.Contains(own, f.Src)
	if f.Src.Is4() != f.Dst.Is4() {
		return f, fmt.Errorf("%s and %s are of different families", f.Src, f.Dst)
	}
	echo := uint8(inet.ProtoICMP)
	if f.Src.Is6() {
		echo = inet.ProtoICMPv6
	}
	switch p.Sel.Protocol {
	case 0, echo:
		f.Protocol, f.SrcPort = echo, echoRequest(echo) // type and code stand for ports
	case inet.ProtoUDP, inet.ProtoTCP:
		f.Protocol, f.SrcPort, f.DstPort = p.Sel.Protocol, p.Sel.SrcPort.Value, p.Sel.DstPort.Value
		if p.Sel.DstPort.Any() {
			f.DstPort = discard
		}
	default:
		return f, fmt.Errorf("IP protocol %d cannot be probed: probes are ICMP, UDP and TCP", p.Sel.Protocol)
	}
	flow := ipsec.Flow{Src: f.Src, Dst: f.Dst, Protocol: f.Protocol, SrcPort: f.SrcPort, DstPort: f.DstPort}
	if !p.Sel.Match(&flow) {
		return f, errors.New("no echo request is inside its selector")
	}
	return f, nil
}

func echoRequest(protocol uint8) uint16 {
	if protocol == inet.ProtoICMPv6 {
		return 128
	}
	return 8
}

// within is the only address of a prefix, else the first of some that is in it, else the first that can
// be a host's.
func within(p netip.Prefix, some []netip.Addr) netip.Addr {
	if !p.IsValid() {
		return some[0]
	}
	if p.IsSingleIP() {
		return p.Addr()
	}
	for _, a := range some {
		if p.Contains(a) && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			return a
		}
	}
	if first := p.Masked().Addr(); p.Bits() < first.BitLen()-1 {
		return first.Next()
	}
	return p.Masked().Addr()
}
