package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"

	"espalier/ipsec"
	"espalier/xfrm"
)

const (
	keyBytes = 36 // AES-256 and the salt of RFC 4106
	window   = 64
	udpPort  = 4500
)

// program installs, as tunnel tools should: the receiving SAs on both hosts, then the sending
// ones, then the policies.
func (r *run) program(ctx context.Context) error {
	if r.Unprotected {
		return nil
	}
	r.before = make(map[string]ipsec.Counters)
	for _, f := range families {
		for _, d := range r.directions(f) {
			r.sas = append(r.sas, r.newSA(d))
		}
	}
	for _, dir := range []ipsec.Direction{ipsec.Inbound, ipsec.Outbound} {
		for _, sa := range r.sas {
			if err := r.addSA(ctx, sa, dir); err != nil {
				return err
			}
		}
	}
	for _, f := range families {
		for _, d := range r.directions(f) {
			if err := r.addPolicies(ctx, d); err != nil {
				return err
			}
		}
	}
	if r.files.keys == nil {
		return nil
	}
	return r.files.keys.save(r.sas)
}

// newSA is the SA for one direction of traffic, with a fresh key and SPI.
func (r *run) newSA(d direction) ipsec.SA {
	sa := ipsec.SA{
		Src: d.src, Dst: d.dst,
		SPI:       ipsec.SPI(0x10000000 + rand.Uint32N(0xe0000000)),
		Mode:      r.Mode,
		RequestID: uint32(1 + len(r.sas)),
		Key:       ipsec.RandomKey(keyBytes),
		ICVBits:   128,
		ESN:       r.ESN,
	}
	if r.Mode == ipsec.Transport {
		sa.Selector = selector(d.src, d.dst)
	}
	if r.UDP {
		sa.Encap = &ipsec.Encap{SrcPort: udpPort, DstPort: udpPort}
	}
	return sa
}

// addSA installs sa on the host that it is inbound or outbound for, offloaded to the host's
// device.
func (r *run) addSA(ctx context.Context, sa ipsec.SA, dir ipsec.Direction) error {
	h := r.hostOf(sa.Src)
	if dir == ipsec.Inbound {
		h = r.hostOf(sa.Dst)
		sa.Window = window
	}
	sa.Direction = dir
	sa.Offload = ipsec.Offload{Mode: ipsec.CryptoOffload, Interface: h.ifindex, Direction: dir}
	state, err := xfrm.StateFromSA(&sa)
	if err != nil {
		return err
	}
	r.Step("%s: %s", h.name, xfrm.FormatState(state, xfrm.FormatOptions{InterfaceName: h.interfaceName}))
	if err := h.db.AddSA(ctx, sa); err != nil {
		return fmt.Errorf("host %s: %w", h.name, err)
	}
	got, err := h.db.LookupSA(ctx, sa.ID())
	if err != nil {
		return fmt.Errorf("host %s: read back: %w", h.name, err)
	}
	r.before[h.name+sa.ID().String()] = got.Counters
	return nil
}

// addPolicies protects d: out where it begins, in and fwd where it ends.
func (r *run) addPolicies(ctx context.Context, d direction) error {
	p := ipsec.Policy{
		Selector:   selector(d.src, d.dst),
		Processing: []ipsec.Processing{{Src: d.src, Dst: d.dst, Mode: r.Mode, RequestID: r.requestID(d)}},
	}
	for _, on := range []struct {
		host *host
		dir  ipsec.Direction
	}{{d.to, ipsec.Inbound}, {d.to, ipsec.Forward}, {d.from, ipsec.Outbound}} {
		p.Direction = on.dir
		policy, err := xfrm.PolicyFromIPsec(&p)
		if err != nil {
			return err
		}
		r.Step("%s: %s", on.host.name, xfrm.FormatPolicy(policy, xfrm.FormatOptions{}))
		if err := on.host.db.AddPolicy(ctx, p); err != nil {
			return fmt.Errorf("host %s: %w", on.host.name, err)
		}
	}
	return nil
}

func selector(src, dst netip.Addr) ipsec.Selector {
	return ipsec.Selector{Src: netip.PrefixFrom(src, src.BitLen()), Dst: netip.PrefixFrom(dst, dst.BitLen())}
}

func (r *run) requestID(d direction) uint32 {
	for _, sa := range r.sas {
		if sa.Src == d.src && sa.Dst == d.dst {
			return sa.RequestID
		}
	}
	return 0
}

func (r *run) hostOf(a netip.Addr) *host {
	for _, f := range families {
		if a == f.a {
			return r.a
		}
	}
	return r.b
}
