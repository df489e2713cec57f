package client

import (
	"context"
	"errors"
	"iter"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// Database is the engine seen as an ipsec.Database. It holds ESP with AES-GCM and what
// goes with it: SAs and policies that package ipsec has no words for are left out of
// listings, and looking one up gives ipsec.ErrUnsupported. The flushes flush all ESP SAs
// and all policies, those included.
func (c *Client) Database() ipsec.Database { return database{c} }

type database struct{ c *Client }

func (d database) AddSA(ctx context.Context, sa ipsec.SA) error {
	s, err := xfrm.StateFromEngine(&sa)
	if err != nil {
		return &ipsec.OpError{Op: "add SA", Object: sa.ID().String(), Err: err}
	}
	return d.c.AddState(ctx, s)
}

func (d database) UpdateSA(ctx context.Context, sa ipsec.SA) error {
	s, err := xfrm.StateFromEngine(&sa)
	if err != nil {
		return &ipsec.OpError{Op: "update SA", Object: sa.ID().String(), Err: err}
	}
	return d.c.UpdateState(ctx, s)
}

func (d database) AllocateSPI(ctx context.Context, r ipsec.SPIRequest) (ipsec.SA, error) {
	fail := func(err error) (ipsec.SA, error) {
		return ipsec.SA{}, &ipsec.OpError{Op: "allocate SPI", Object: r.Dst.String(), Err: err}
	}
	like := ipsec.SA{Src: r.Src, Dst: r.Dst, Mode: r.Mode, Direction: r.Direction, RequestID: r.RequestID, AcquireID: r.AcquireID, Larval: true}
	s, err := xfrm.StateFromEngine(&like)
	if err != nil {
		return fail(err)
	}
	if s, err = d.c.AllocateSPI(ctx, &xfrm.SPIRange{State: s, Min: uint32(r.Min), Max: uint32(r.Max)}); err != nil {
		return ipsec.SA{}, err
	}
	sa, err := s.EngineSA()
	if err != nil {
		return fail(err)
	}
	return sa, nil
}

func stateID(id ipsec.SAID) xfrm.StateID {
	return xfrm.StateID{Dst: id.Dst, Proto: unix.IPPROTO_ESP, SPI: id.SPI}
}

func (d database) DeleteSA(ctx context.Context, id ipsec.SAID) error {
	return d.c.DeleteState(ctx, stateID(id))
}

func (d database) LookupSA(ctx context.Context, id ipsec.SAID) (ipsec.SA, error) {
	s, err := d.c.GetState(ctx, stateID(id))
	if err != nil {
		return ipsec.SA{}, err
	}
	sa, err := s.EngineSA()
	if err != nil {
		return ipsec.SA{}, &ipsec.OpError{Op: "get SA", Object: id.String(), Err: err}
	}
	return sa, nil
}

func (d database) SAs(ctx context.Context) iter.Seq2[ipsec.SA, error] {
	return func(yield func(ipsec.SA, error) bool) {
		for s, err := range d.c.States(ctx, xfrm.StateFilter{Proto: unix.IPPROTO_ESP}) {
			var sa ipsec.SA
			if err == nil {
				if sa, err = s.EngineSA(); foreign(err) {
					continue
				}
			}
			if !yield(sa, err) || err != nil {
				return
			}
		}
	}
}

// foreign reports whether err says that something is beyond the words of package ipsec.
func foreign(err error) bool {
	return errors.Is(err, ipsec.ErrUnsupported) || errors.Is(err, ipsec.ErrInvalid)
}

func (d database) FlushSAs(ctx context.Context) error {
	return d.c.FlushStates(ctx, unix.IPPROTO_ESP)
}

func (d database) AddPolicy(ctx context.Context, p ipsec.Policy) error {
	xp, err := xfrm.PolicyFromEngine(&p)
	if err != nil {
		return &ipsec.OpError{Op: "add policy", Object: p.ID().String(), Err: err}
	}
	return d.c.AddPolicy(ctx, xp)
}

func (d database) UpdatePolicy(ctx context.Context, p ipsec.Policy) error {
	xp, err := xfrm.PolicyFromEngine(&p)
	if err != nil {
		return &ipsec.OpError{Op: "update policy", Object: p.ID().String(), Err: err}
	}
	return d.c.UpdatePolicy(ctx, xp)
}

func (d database) DeletePolicy(ctx context.Context, id ipsec.PolicyID) error {
	xid, err := xfrm.PolicyIDFromIPsec(&id)
	if err != nil {
		return &ipsec.OpError{Op: "delete policy", Object: id.String(), Err: err}
	}
	return d.c.DeletePolicy(ctx, xid)
}

func (d database) LookupPolicy(ctx context.Context, id ipsec.PolicyID) (ipsec.Policy, error) {
	xid, err := xfrm.PolicyIDFromIPsec(&id)
	if err != nil {
		return ipsec.Policy{}, &ipsec.OpError{Op: "get policy", Object: id.String(), Err: err}
	}
	xp, err := d.c.GetPolicy(ctx, xid)
	if err != nil {
		return ipsec.Policy{}, err
	}
	p, err := xp.EnginePolicy()
	if err != nil {
		return ipsec.Policy{}, &ipsec.OpError{Op: "get policy", Object: id.String(), Err: err}
	}
	return p, nil
}

func (d database) Policies(ctx context.Context) iter.Seq2[ipsec.Policy, error] {
	return func(yield func(ipsec.Policy, error) bool) {
		for xp, err := range d.c.Policies(ctx) {
			var p ipsec.Policy
			if err == nil {
				if p, err = xp.EnginePolicy(); foreign(err) {
					continue
				}
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

func (d database) FlushPolicies(ctx context.Context) error {
	return d.c.FlushPolicies(ctx, xfrm.PolicyMain)
}
