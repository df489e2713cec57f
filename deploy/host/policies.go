package host

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/xfrm"
)

// Policies puts a part of the policies in place.
func (h *Host) Policies(ctx context.Context, q steps.PoliciesQuestion) (p steps.Progress, err error) {
	err = h.under(ctx, func(r *round) error {
		c, err := r.openChange(q.Change)
		if err != nil {
			return err
		}
		if q.Part != steps.Accepting && q.Part != steps.Sending && q.Part != steps.Required {
			return fmt.Errorf("there is no part %q of policies", q.Part)
		}
		if q.Part == steps.Accepting {
			if err := errors.Join(r.openGuard(c), r.hold()); err != nil { // probes need the holder
				return err
			}
		}
		for i := range c.Begin.Pairs {
			pair := &c.Begin.Pairs[i]
			if err := r.putPart(c, pair, q.Part); err != nil {
				return fmt.Errorf("tunnel %s: %w", pair.Tunnel, err)
			}
		}
		if q.Part == steps.Sending {
			if err := r.rejoin(c); err != nil {
				return err
			}
		}
		p = r.progress()
		return nil
	})
	return p, err
}

// putPart puts a part of one pair's policies in place.
func (r *round) putPart(c *Change, pair *steps.PairEnd, part steps.Part) error {
	e, err := r.engines.get(pair.Engine)
	if err != nil {
		return err
	}
	for _, payload := range pair.Policies {
		p, err := xfrm.DecodePolicy(payload)
		if err != nil {
			return err
		}
		if err := putPolicy(r.ctx, e, p, part); err != nil {
			return err
		}
	}
	for _, payload := range pair.Gone {
		p, err := xfrm.DecodePolicy(payload)
		if err != nil {
			return err
		}
		if c.wants(pair.Engine, keyOf(p.ID())) {
			continue
		}
		there, err := e.GetPolicy(r.ctx, p.ID())
		switch {
		case errors.Is(err, ipsec.ErrNotExist):
			continue
		case err != nil:
			return err
		case part == steps.Accepting && receives(p):
			err = put(r.ctx, e, relaxed(there))
		case part == steps.Sending && sends(p), part == steps.Required && c.Begin.Kind != steps.Down:
			err = take(r.ctx, e, p.ID())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putPolicy puts a policy in place if its part has come.
func putPolicy(ctx context.Context, e Engine, p *xfrm.Policy, part steps.Part) error {
	switch {
	case part == steps.Accepting && receives(p):
		if there, err := e.GetPolicy(ctx, p.ID()); err == nil && samePolicy(there, p) {
			return nil // it is required already, and ESP is all that is sent
		}
		return put(ctx, e, relaxed(p))
	case part == steps.Accepting && !sends(p), part == steps.Sending && sends(p), part == steps.Required && receives(p):
		return put(ctx, e, p)
	}
	return nil
}

// wants reports whether some pair of the change is to have a policy.
func (c *Change) wants(engine, key string) bool {
	return slices.ContainsFunc(c.Begin.Pairs, func(p steps.PairEnd) bool {
		return p.Engine == engine && slices.ContainsFunc(p.Policies, func(payload []byte) bool { return policyKey(payload) == key })
	})
}
