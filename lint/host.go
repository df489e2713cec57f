package lint

import (
	"fmt"
	"slices"
	"strings"

	"espalier/ipsec"
	"espalier/xfrm"
)

// IP protocol numbers (IANA).
const (
	protoESP    = 50
	protoAH     = 51
	protoIPComp = 108
	protoICMPv6 = 58
)

// state finds what is wrong with an SA by itself.
func (h *host) state(i int) {
	s := h.States[i]
	tell := func(id ID, severity Severity, counter, fix, format string, args ...any) {
		h.add(Finding{ID: id, Severity: severity, About: aboutState(s), Text: fmt.Sprintf(format, args...), Fix: fix, Counter: counter, States: []int{i}})
	}
	missing := "XfrmInNoStates"
	if h.match.Directions[i] == ipsec.Outbound {
		missing = "XfrmOutNoStates"
	}
	refused := func(id ID, r xfrm.Refusal, fix, text string) {
		h.add(Finding{ID: id, Severity: Error, About: aboutState(s), Text: text, Fix: fix, Counter: missing, States: []int{i},
			mend: func() ([]edit, string) { return h.mendRefusal(i, r) }})
	}
	always := xfrm.Refusals(s, xfrm.Release{})
	for _, r := range xfrm.Refusals(s, h.report.options.Kernel) {
		which := "Linux refuses"
		if h.report.options.Kernel == newest && !slices.Contains(always, r) {
			which = "newer kernels refuse"
		}
		refused(KernelRefuses, r, r.Fix, which+" "+r.Reason+": the SA is not added")
	}
	if s.Offload != nil {
		if r := xfrm.ConnectXRefusal(s); r != nil {
			refused(NICRefuses, *r, r.Fix+"; or leave offload out", "a ConnectX or BlueField does not offload "+r.Reason+": the driver answers EINVAL, and the SA is not added")
		}
	}
	if (s.Proto == protoESP || s.Proto == protoAH) && s.SPI < 256 {
		tell(ReservedSPI, Warning, "XfrmInNoStates", "use an SPI of 0x100 or more", "SPI %d is reserved (RFC 4303 section 2.1)", s.SPI)
	}
	h.limits(s, map[bool]string{true: "XfrmOutStateExpired", false: "XfrmInStateExpired"}[h.match.Directions[i] == ipsec.Outbound], tell)
	if h.match.Directions[i] == ipsec.Outbound && s.Proto == protoESP && s.Flags&xfrm.FlagESN == 0 && s.ExtraFlags&xfrm.ExtraOSeqMayWrap == 0 {
		tell(NoESN, Warning, "XfrmOutStateSeqError", "add flag esn at both ends (also replay-window 64, before Linux 6.11), or rekey in time",
			"sequence numbers of 32 bits: after 2^32 packets, 9 minutes at 100 Gbit/s, nothing is sent any more")
	}
	h.algorithms(s, tell)
}

type teller func(id ID, severity Severity, counter, fix, format string, args ...any)

func (h *host) limits(s *xfrm.State, counter string, tell teller) {
	for _, l := range []struct {
		name  string
		value uint64
	}{
		{"byte-soft", s.Limits.SoftBytes}, {"byte-hard", s.Limits.HardBytes},
		{"packet-soft", s.Limits.SoftPackets}, {"packet-hard", s.Limits.HardPackets},
	} {
		if l.value == 0 {
			tell(Limit0, Error, counter, "leave the limit out for none", "limit %s 0 is reached from the start: the first packet ends the SA", l.name)
		}
	}
}

func (h *host) algorithms(s *xfrm.State, tell teller) {
	const fix = "use aead '" + xfrm.AEADName + "' with a key of 36 bytes, and 128"
	if s.Crypt != nil && s.Auth == nil && s.AuthTrunc == nil {
		tell(NoIntegrity, Error, "", fix, "enc without auth: packets can be changed on the way, and nobody notices")
	}
	var names []string
	if s.Crypt != nil {
		names = append(names, s.Crypt.Name)
	}
	if s.Auth != nil {
		names = append(names, s.Auth.Name)
	}
	if s.AuthTrunc != nil {
		names = append(names, s.AuthTrunc.Name)
	}
	for _, name := range names {
		for _, weak := range []string{"cipher_null", "des)", "des3_ede", "arc4", "md5", "ecb(", "digest_null", "blowfish", "cast5"} {
			if strings.Contains(name, weak) {
				tell(WeakAlgorithm, Error, "", fix, "its %s can be broken, or hides nothing", name)
				break
			}
		}
	}
}

// policy finds what is wrong with a policy beside the others.
func (h *host) policy(i int) {
	p := h.Policies[i]
	if !protects(p) {
		return
	}
	switch p.Dir {
	case xfrm.PolicyIn:
		h.forwarding(i)
	case xfrm.PolicyOut:
		h.neighbours(i)
	}
}

// forwarding looks for the fwd policy of a tunnel that is for others than this host.
func (h *host) forwarding(i int) {
	p := h.Policies[i]
	if p.Tmpls[0].Mode != xfrm.ModeTunnel || p.Sel.Dst.IsSingleIP() && h.Has(p.Sel.Dst.Addr()) {
		return
	}
	if h.forwarded == nil {
		h.forwarded = map[ipsec.Selector]bool{}
		for _, f := range h.Policies {
			if f.Dir == xfrm.PolicyFwd {
				h.forwarded[f.Sel.Selector] = true
			}
		}
	}
	if !h.forwarded[p.Sel.Selector] && !slices.ContainsFunc(h.Policies, func(f *xfrm.Policy) bool {
		return f.Dir == xfrm.PolicyFwd && f.IfID == p.IfID && f.Sel.Covers(&p.Sel.Selector)
	}) {
		h.add(Finding{ID: MissingFwd, Severity: Warning, About: "policy " + p.ID().String(), Policies: []int{i}, Counter: "XfrmInNoPols",
			Text: "comes without a fwd policy: what this host is to pass on to " + p.Sel.Dst.String() + " is dropped", Fix: "add the same policy once more, with dir fwd"})
	}
}

// neighbours looks whether a policy in transport mode takes neighbour discovery along.
func (h *host) neighbours(i int) {
	p := h.Policies[i]
	if !p.Sel.Is6() || p.Tmpls[0].Mode != xfrm.ModeTransport || p.Sel.Protocol != 0 && p.Sel.Protocol != protoICMPv6 || p.Sel.HasPorts() || p.IfID != 0 {
		return
	}
	for _, kind := range neighbourTypes {
		nd := p.Sel.Selector
		nd.Protocol, nd.SrcPort = protoICMPv6, ipsec.Port(kind)
		for _, dir := range []xfrm.PolicyDir{xfrm.PolicyOut, xfrm.PolicyIn} {
			first := h.deciding(&nd, dir)
			if first != nil && len(first.Tmpls) > 0 {
				h.add(Finding{ID: NeighbourDiscovery, Severity: Warning, About: "policy " + p.ID().String(), Policies: []int{i},
					Text: "takes neighbour discovery along: if both are on one link, they lose each other when their neighbour caches expire",
					Fix:  "add policies without a template for proto ipv6-icmp type 135 and 136, dir out and in, of a lower priority number"})
				return
			}
			nd.Src, nd.Dst = nd.Dst, nd.Src
		}
	}
}

// neighbourTypes are Neighbor Solicitation and Advertisement (RFC 4861), of which a neighbour cache lives.
var neighbourTypes = []uint16{135, 136}

// deciding is the policy that decides on traffic, of those that cover it; the first of equal priority.
func (h *host) deciding(traffic *ipsec.Selector, dir xfrm.PolicyDir) (first *xfrm.Policy) {
	for _, p := range h.Policies {
		if p.Dir == dir && p.Sel.Covers(traffic) && (first == nil || p.Priority < first.Priority) {
			first = p
		}
	}
	return first
}
