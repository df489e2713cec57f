package verify

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/xfrm"
)

// Flow is traffic that the SPD sends through an SA.
type Flow struct {
	SA               *xfrm.State
	Src, Dst         netip.Addr
	Protocol         uint8 // UDP, ICMP or ICMPv6
	SrcPort, DstPort uint16
}

// Wish narrows the choice. Zero fields leave it open.
type Wish struct {
	SPI  ipsec.SPI
	Peer netip.Addr // the far end of the SA
	From netip.Addr // of the probes
	To   netip.Addr
}

// discard is the port for what nobody is to answer (RFC 863).
const discard = 9

// Choose finds the SA, and traffic that will go through it: UDP, or an echo request where the
// policy takes no UDP. own are this host's addresses. Where there is more than one choice it asks
// for a narrower wish.
func Choose(states []*xfrm.State, policies []*xfrm.Policy, own []netip.Addr, w Wish) (Flow, error) {
	senders := outbound(states, own, w)
	if len(senders) == 0 {
		return Flow{}, w.nothing()
	}
	var found []Flow
	var obstacles []error
	for _, s := range senders {
		f, err := flowOf(s, senders, policies, own, w)
		if err != nil {
			obstacles = append(obstacles, fmt.Errorf("%s: %w", s.ID(), err))
			continue
		}
		found = append(found, f)
	}
	switch len(found) {
	case 0:
		return Flow{}, errors.Join(obstacles...)
	case 1:
		return found[0], nil
	}
	var names []string
	for _, f := range found {
		names = append(names, f.SA.ID().String())
	}
	return Flow{}, fmt.Errorf("%d SAs send: say which by its SPI or the peer's address: %s", len(found), strings.Join(names[:min(len(names), 8)], ", "))
}

func (w Wish) nothing() error {
	switch {
	case w.SPI != 0:
		return fmt.Errorf("no SA %s sends from an address of this host", w.SPI)
	case w.Peer.IsValid():
		return fmt.Errorf("no SA sends from an address of this host to %s", w.Peer)
	}
	return errors.New("no SA sends from an address of this host")
}

// outbound are the SAs by which this host sends, as far as the wish goes.
func outbound(states []*xfrm.State, own []netip.Addr, w Wish) (senders []*xfrm.State) {
	for _, s := range states {
		switch {
		case s.Proto != unix.IPPROTO_ESP || s.IsLarval() || s.Dir == xfrm.StateDirIn:
		case s.Offload != nil && s.Offload.Flags&xfrm.OffloadInbound != 0:
		case !isOwn(own, s.Src):
		case w.SPI != 0 && s.SPI != w.SPI || w.Peer.IsValid() && s.Dst != w.Peer:
		default:
			senders = append(senders, s)
		}
	}
	return senders
}

func isOwn(own []netip.Addr, a netip.Addr) bool {
	for _, o := range own {
		if o == a {
			return true
		}
	}
	return false
}

// flowOf is traffic that leaves by s.
func flowOf(s *xfrm.State, senders []*xfrm.State, policies []*xfrm.Policy, own []netip.Addr, w Wish) (Flow, error) {
	obstacle := errors.New("no policy sends anything through it")
	for _, p := range policies {
		if !leadsTo(p, s) {
			continue
		}
		f, err := through(p, s, own, w)
		if err == nil {
			err = f.taken(p, senders, policies)
		}
		if err == nil {
			return f, nil
		}
		obstacle = err
	}
	return Flow{}, obstacle
}

// leadsTo reports whether an SA is what a policy's first template asks for.
func leadsTo(p *xfrm.Policy, s *xfrm.State) bool {
	if p.Dir != xfrm.PolicyOut || p.Action != xfrm.PolicyAllow || len(p.Tmpls) != 1 {
		return false
	}
	t := p.Tmpls[0]
	return t.Proto == s.Proto && t.Mode == s.Mode && t.Reqid == s.Reqid && (t.SPI == 0 || t.SPI == s.SPI) &&
		(s.Mode == xfrm.ModeTransport || t.Src == s.Src && t.Dst == s.Dst)
}

// through makes a flow of the selector of a policy.
func through(p *xfrm.Policy, s *xfrm.State, own []netip.Addr, w Wish) (f Flow, err error) {
	if p.Mark != nil || p.IfID != 0 {
		return f, errors.New("its policy is for marked packets, or those of an xfrm interface: not for probes")
	}
	f = Flow{SA: s, Src: s.Src, Dst: s.Dst}
	if s.Mode != xfrm.ModeTransport {
		f.Dst = pick(p.Sel.Dst, []netip.Addr{s.Dst})
		f.Src = pick(p.Sel.Src, append([]netip.Addr{s.Src}, own...))
	}
	if w.To.IsValid() {
		f.Dst = w.To
	}
	if w.From.IsValid() {
		f.Src = w.From
	}
	switch {
	case !f.Dst.IsValid():
		return f, fmt.Errorf("its policy is for %s: say with --to which address there the probes are for", p.Sel.Dst)
	case !f.Src.IsValid():
		return f, fmt.Errorf("no address of this host is in %s, from which the probes would come: say with --from", p.Sel.Src)
	case f.Src.Is4() != f.Dst.Is4():
		return f, fmt.Errorf("%s and %s are of different families", f.Src, f.Dst)
	}
	switch p.Sel.Protocol {
	case 0, inet.ProtoUDP:
		f.Protocol, f.SrcPort, f.DstPort = inet.ProtoUDP, p.Sel.SrcPort.Value, p.Sel.DstPort.Value
		if p.Sel.DstPort.Any() {
			f.DstPort = discard
		}
	case inet.ProtoICMP, inet.ProtoICMPv6:
		f.Protocol, f.SrcPort = p.Sel.Protocol, echoRequest(p.Sel.Protocol)
	default:
		return f, fmt.Errorf("its policy is for IP protocol %d: probes are UDP or ICMP", p.Sel.Protocol)
	}
	flow := f.match()
	if !p.Sel.Match(&flow) || !s.Sel.Match(&flow) {
		return f, fmt.Errorf("neither UDP nor an echo request from %s to %s is for it", f.Src, f.Dst)
	}
	return f, nil
}

// pick is the only address of a prefix, or the first of some that is in it.
func pick(p netip.Prefix, some []netip.Addr) netip.Addr {
	if p.IsValid() && p.IsSingleIP() {
		return p.Addr()
	}
	for _, a := range some {
		if (!p.IsValid() || p.Contains(a)) && !a.IsLinkLocalUnicast() && !a.IsLoopback() {
			return a
		}
	}
	return netip.Addr{}
}

// echoRequest is the type, which selectors have in the place of the source port.
func echoRequest(protocol uint8) uint16 {
	if protocol == inet.ProtoICMPv6 {
		return 128
	}
	return 8
}

func (f *Flow) match() ipsec.Flow {
	return ipsec.Flow{Src: f.Src, Dst: f.Dst, Protocol: f.Protocol, SrcPort: f.SrcPort, DstPort: f.DstPort}
}

// taken says if the flow goes elsewhere than through p and its SA, or may: by a policy of more weight, by
// a newer SA, which Linux prefers, or by those of CPUs, for probes are sent by any.
func (f *Flow) taken(p *xfrm.Policy, senders []*xfrm.State, policies []*xfrm.Policy) error {
	if f.SA.PCPU != nil {
		return fmt.Errorf("it sends only what CPU %d does, and that cannot be said of probes", *f.SA.PCPU)
	}
	flow := f.match()
	for _, other := range policies {
		if other.Dir == xfrm.PolicyOut && other.Priority < p.Priority && other.Mark == nil && other.IfID == 0 && other.Sel.Match(&flow) {
			return fmt.Errorf("the policy %s comes before its own", other.ID())
		}
	}
	for _, other := range senders {
		if other == f.SA || !leadsTo(p, other) || other.Src != f.SA.Src || other.Dst != f.SA.Dst || !other.Sel.Match(&flow) {
			continue
		}
		switch {
		case other.PCPU != nil:
			return fmt.Errorf("%s carries what CPU %d sends of its traffic", other.SPI, *other.PCPU)
		case other.Current.AddTime > f.SA.Current.AddTime:
			return fmt.Errorf("%s is newer and carries its traffic", other.SPI)
		}
	}
	return nil
}
