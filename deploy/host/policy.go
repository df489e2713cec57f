package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"espalier/ipsec"
	"espalier/xfrm"
)

// snapshot keeps a policy as it was read back, but for what changes by itself.
func snapshot(p *xfrm.Policy) (Policy, error) {
	kept := *p
	kept.Current = xfrm.LifetimeCurrent{}
	payload, err := xfrm.EncodePolicy(&kept)
	if err != nil {
		return Policy{}, fmt.Errorf("policy %s: %w", p.ID(), err)
	}
	return Policy{payload, p.ID().String()}, nil
}

// keyOf is the same for policies that take each other's place.
func keyOf(id xfrm.PolicyID) string {
	b, _ := xfrm.EncodePolicyID(&id) // what was decoded can be encoded
	return string(b)
}

// policyKey is keyOf for a payload; "" if it cannot be read.
func policyKey(payload []byte) string {
	p, err := xfrm.DecodePolicy(payload)
	if err != nil {
		return ""
	}
	return keyOf(p.ID())
}

// put sees to it that a policy is there just so, and reads it back.
func put(ctx context.Context, e Engine, want *xfrm.Policy) error {
	there, err := e.GetPolicy(ctx, want.ID())
	switch {
	case errors.Is(err, ipsec.ErrNotExist):
		err = e.AddPolicy(ctx, want)
	case err == nil && samePolicy(there, want):
		return nil
	case err == nil:
		err = e.UpdatePolicy(ctx, want)
	}
	if err != nil {
		return err
	}
	there, err = e.GetPolicy(ctx, want.ID())
	if err != nil {
		return err
	}
	if !samePolicy(there, want) {
		return fmt.Errorf("policy %s reads back otherwise than it was put there", want.ID())
	}
	return nil
}

// take sees to it that a policy is not there.
func take(ctx context.Context, e Engine, id xfrm.PolicyID) error {
	if err := e.DeletePolicy(ctx, id); err != nil && !errors.Is(err, ipsec.ErrNotExist) {
		return err
	}
	return nil
}

// samePolicy reports whether a policy that was read back is the one wanted. Its index is the engine's
// business: it is given back to it, and means nothing to packets.
func samePolicy(there, want *xfrm.Policy) bool {
	if keyOf(there.ID()) != keyOf(want.ID()) || there.Priority != want.Priority || there.Action != want.Action || there.Flags != want.Flags ||
		limits(there) != limits(want) || len(there.Tmpls) != len(want.Tmpls) {
		return false
	}
	for i := range want.Tmpls {
		if template(there.Tmpls[i]) != template(want.Tmpls[i]) {
			return false
		}
	}
	if there.Offload == nil || want.Offload == nil {
		return there.Offload == nil && want.Offload == nil
	}
	return there.Offload.Ifindex == want.Offload.Ifindex
}

// template leaves out what engines fill in.
func template(t xfrm.Tmpl) xfrm.Tmpl {
	for _, a := range []*netip.Addr{&t.Src, &t.Dst} {
		if a.IsValid() && a.IsUnspecified() {
			*a = netip.Addr{}
		}
	}
	return xfrm.Tmpl{Src: t.Src, Dst: t.Dst, Proto: t.Proto, SPI: t.SPI, Mode: t.Mode, Reqid: t.Reqid, Optional: t.Optional}
}

// limits has one word for there being none.
func limits(p *xfrm.Policy) xfrm.LifetimeConfig {
	l := p.Limits
	for _, n := range []*uint64{&l.SoftBytes, &l.HardBytes, &l.SoftPackets, &l.HardPackets} {
		if *n == 0 {
			*n = xfrm.Infinity
		}
	}
	return l
}

// relaxed is a policy that takes both what was protected and what was not.
func relaxed(p *xfrm.Policy) *xfrm.Policy {
	out := *p
	out.Tmpls = append([]xfrm.Tmpl(nil), p.Tmpls...)
	for i := range out.Tmpls {
		out.Tmpls[i].Optional = true
	}
	out.Offload = nil // a NIC knows no such policy
	return &out
}

// receives reports whether a policy protects what comes in or passes through.
func receives(p *xfrm.Policy) bool {
	return p.Dir != xfrm.PolicyOut && p.Action == xfrm.PolicyAllow && len(p.Tmpls) > 0
}

// sends reports whether a policy decides on what leaves, and is no bypass.
func sends(p *xfrm.Policy) bool {
	return p.Dir == xfrm.PolicyOut && (p.Action != xfrm.PolicyAllow || len(p.Tmpls) > 0)
}
