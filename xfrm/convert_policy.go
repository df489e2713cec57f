package xfrm

import (
	"net/netip"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// IPsec translates into the vocabulary of package ipsec. What that cannot express is
// refused: errors wrap ipsec.ErrUnsupported, or ipsec.ErrInvalid for what no engine would
// take.
func (p *Policy) IPsec() (ipsec.Policy, error) {
	if err := p.checkExpressible(); err != nil {
		return ipsec.Policy{}, err
	}
	out := ipsec.Policy{
		Selector: p.Sel.Selector, Priority: p.Priority, Index: p.Index,
		Added: unixTime(p.Current.AddTime), Used: unixTime(p.Current.UseTime),
	}
	var err error
	if out.Direction, err = dirToIPsec(p.Dir); err != nil {
		return ipsec.Policy{}, err
	}
	switch {
	case p.Action == PolicyBlock:
		out.Action = ipsec.Discard // whatever templates it has
		return out, nil
	case p.Action != PolicyAllow:
		return ipsec.Policy{}, invalid("policy action %d", p.Action)
	case len(p.Tmpls) == 0:
		out.Action = ipsec.Bypass
		return out, nil
	}
	out.Action = ipsec.Protect
	for i := range p.Tmpls {
		proc, err := p.Tmpls[i].processing()
		if err != nil {
			return ipsec.Policy{}, err
		}
		out.Processing = append(out.Processing, proc)
	}
	return out, nil
}

// checkExpressible refuses what ipsec.Policy has no words for.
func (p *Policy) checkExpressible() error {
	switch {
	case p.SecCtx != nil:
		return unsupported("policy with a security context (XFRMA_SEC_CTX)")
	case p.PCPU != nil:
		return unsupported("policy of one CPU (XFRMA_SA_PCPU)")
	case p.Type != PolicyMain:
		return unsupported("policy type %d: only main", p.Type)
	case p.Flags != 0:
		return unsupported("policy flags %#x", uint8(p.Flags))
	case p.Mark != nil && *p.Mark != Mark{}:
		return unsupported("policy mark")
	case p.IfID != 0:
		return unsupported("policy if_id")
	case p.Offload != nil:
		return unsupported("policy offload")
	case p.Sel.User != 0:
		return unsupported("selector for a user id")
	case p.Limits != NoLimits:
		return unsupported("policy limits")
	}
	return nil
}

// processing translates a template. The masks of algorithms name none that AEADs go by.
func (t *Tmpl) processing() (ipsec.Processing, error) {
	if t.Proto != unix.IPPROTO_ESP {
		return ipsec.Processing{}, unsupported("template for IP protocol %d: only ESP (50)", t.Proto)
	}
	mode, err := modeToIPsec(t.Mode)
	if err != nil {
		return ipsec.Processing{}, err
	}
	return ipsec.Processing{
		Src: specified(t.Src), Dst: specified(t.Dst), SPI: t.SPI, Mode: mode, RequestID: t.Reqid, Optional: t.Optional,
	}, nil
}

// specified is a, or the zero Addr for the wildcard address.
func specified(a netip.Addr) netip.Addr {
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

func dirToIPsec(d PolicyDir) (ipsec.Direction, error) {
	switch d {
	case PolicyIn:
		return ipsec.Inbound, nil
	case PolicyOut:
		return ipsec.Outbound, nil
	case PolicyFwd:
		return ipsec.Forward, nil
	}
	return 0, unsupported("policy direction %d: only in, out and fwd", uint8(d))
}

func dirFromIPsec(d ipsec.Direction) (PolicyDir, error) {
	switch d {
	case ipsec.Inbound:
		return PolicyIn, nil
	case ipsec.Outbound:
		return PolicyOut, nil
	case ipsec.Forward:
		return PolicyFwd, nil
	}
	return 0, invalid("a policy cannot be of direction %s", d)
}

// PolicyFromIPsec translates a policy. Errors wrap ipsec.ErrInvalid.
func PolicyFromIPsec(p *ipsec.Policy) (*Policy, error) {
	dir, err := dirFromIPsec(p.Direction)
	if err != nil {
		return nil, err
	}
	out := &Policy{
		Sel: Selector{Selector: p.Selector}, Limits: NoLimits, Priority: p.Priority, Index: p.Index, Dir: dir,
		Current: LifetimeCurrent{AddTime: unixSeconds(p.Added), UseTime: unixSeconds(p.Used)},
	}
	if out.Sel.Family, err = selectorFamily(&out.Sel); err != nil {
		return nil, err
	}
	switch p.Action {
	case ipsec.Protect:
		if len(p.Processing) == 0 {
			return nil, invalid("a policy that protects needs processing")
		}
	case ipsec.Discard:
		out.Action = PolicyBlock
		fallthrough
	case ipsec.Bypass:
		if len(p.Processing) != 0 {
			return nil, invalid("a %s policy with processing", p.Action)
		}
	default:
		return nil, invalid("policy action %d", uint8(p.Action))
	}
	for i := range p.Processing {
		t, err := tmplFromIPsec(&p.Processing[i])
		if err != nil {
			return nil, err
		}
		out.Tmpls = append(out.Tmpls, t)
	}
	return out, nil
}

// PolicyIDFromIPsec translates the identity of a policy. Errors wrap ipsec.ErrInvalid.
func PolicyIDFromIPsec(id *ipsec.PolicyID) (PolicyID, error) {
	dir, err := dirFromIPsec(id.Direction)
	if err != nil {
		return PolicyID{}, err
	}
	out := PolicyID{Sel: Selector{Selector: id.Selector}, Index: id.Index, Dir: dir}
	out.Sel.Family, err = selectorFamily(&out.Sel)
	return out, err
}

// IPsec translates the identity of a policy. Errors wrap ipsec.ErrUnsupported.
func (id *PolicyID) IPsec() (ipsec.PolicyID, error) {
	switch {
	case id.Type != PolicyMain:
		return ipsec.PolicyID{}, unsupported("policy type %d: only main", id.Type)
	case id.Sel.User != 0:
		return ipsec.PolicyID{}, unsupported("selector for a user id")
	}
	dir, err := dirToIPsec(id.Dir)
	if err != nil {
		return ipsec.PolicyID{}, err
	}
	return ipsec.PolicyID{Direction: dir, Index: id.Index, Selector: id.Sel.Selector}, nil
}

// tmplFromIPsec accepts all algorithms: the SA alone decides.
func tmplFromIPsec(p *ipsec.Processing) (Tmpl, error) {
	const all = 1<<32 - 1
	mode, err := modeFromIPsec(p.Mode)
	if err != nil {
		return Tmpl{}, err
	}
	t := Tmpl{
		Src: p.Src, Dst: p.Dst, Proto: unix.IPPROTO_ESP, SPI: p.SPI, Mode: mode, Reqid: p.RequestID, Optional: p.Optional,
		AAlgos: all, EAlgos: all, CAlgos: all,
	}
	t.Family, err = addrFamily(t.Src, t.Dst)
	return t, err
}
