package host

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/tunnel"
	"espalier/xfrm"
)

// Undo takes the change back at once. One that is over stays as it is; so does one that was confirmed
// so long ago that its peers may decide by themselves: Progress says so.
func (h *Host) Undo(ctx context.Context, q steps.Question) (p steps.Progress, err error) {
	err = h.under(ctx, func(r *round) error {
		c := r.j.Change
		switch {
		case c == nil || c.Begin.Change != q.Change:
			return nil // there is nothing of it
		case c.open() && r.rebooted(c):
			r.forget(c)
		case takesUndo(c, r.cfg.Clock.Now()):
			r.undo(c)
		case c.Stage == steps.Confirmed:
			p = r.progress()
			p.Problem = "it was confirmed, and is too late to be undone from elsewhere: this host looks for itself what its peers have done"
			return nil
		}
		p = r.progress()
		return nil
	})
	return p, err
}

// settle undoes what is overdue, and closes what a reboot has ended. It is done whatever can be written.
func (r *round) settle() {
	r.endDetours(r.forsaken) // what cannot be ended is tried again
	c, now := r.j.Change, r.cfg.Clock.Now()
	if !c.open() {
		return
	}
	switch {
	case r.rebooted(c):
		if now >= c.Begin.Timeout { // until then it is guarded
			r.forget(c)
		}
	case overdue(c, now):
		r.undo(c)
	}
}

// undo takes back all pairs on which nothing was decided yet. Each part is tried, even if another fails
// or cannot be written down.
func (r *round) undo(c *Change) {
	c.Problem = ""
	var errs []error
	r.j.Owned = r.former(c)
	opens := c.Guarded && c.Begin.Kind != steps.Down
	if opens { // before anybody sends in clear
		errs = append(errs, r.restoreGuard(c, r.j.Owned))
	}
	for i := range c.Pairs {
		if c.Pairs[i].Stage == "" {
			errs = append(errs, r.undoPair(c, i))
		}
	}
	if c.Guarded && (!opens || r.anyBare()) {
		errs = append(errs, r.restoreGuard(c, r.j.Owned))
	}
	r.conclude(c)
	if err := errors.Join(errs...); err != nil {
		c.Problem = err.Error()
	}
	if err := r.write(r.j); err != nil {
		c.Problem = errors.Join(errors.New(c.Problem), err).Error()
	}
}

// former is what will be owned when the rest of the change is undone.
func (r *round) former(c *Change) []Owned {
	var rest []int
	for i := range c.Pairs {
		if c.Pairs[i].Stage == "" {
			rest = append(rest, i)
		}
	}
	return r.j.undone(c, rest...)
}

// undoPair puts a pair's policies back, has the old SAs send again, and lets the new ones linger by
// which the peer may still send. It needs no key.
func (r *round) undoPair(c *Change, i int) error {
	p, state := &c.Begin.Pairs[i], &c.Pairs[i]
	state.Stage = steps.Undone
	e, err := r.engines.get(p.Engine)
	if err != nil {
		r.linger(c, i, p.Inbound)
		return r.problem(c, i, err)
	}
	errs := []error{putBack(r.ctx, e, p, state.Before)}
	for _, id := range p.Outbound {
		if err := e.DeleteState(r.ctx, stateID(id)); !errors.Is(err, ipsec.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	var there []tunnel.SAID
	for _, id := range p.Inbound {
		s, err := e.GetState(r.ctx, stateID(id))
		if err == nil {
			s.WipeKeys()
		}
		if !errors.Is(err, ipsec.ErrNotExist) {
			there = append(there, id)
		}
	}
	r.linger(c, i, there)
	return r.problem(c, i, errors.Join(errs...))
}

// putBack has the policies of a pair's selectors be as they were before.
func putBack(ctx context.Context, e Engine, p *steps.PairEnd, before []Policy) error {
	was := map[string]bool{}
	var errs []error
	for _, kept := range before {
		was[policyKey(kept.Payload)] = true
		xp, err := xfrm.DecodePolicy(kept.Payload)
		if err == nil {
			err = put(ctx, e, xp)
		}
		errs = append(errs, err)
	}
	// Those that send first: what is received in between is taken both ways.
	added := slices.Clone(p.Policies)
	slices.SortStableFunc(added, func(a, b []byte) int { return rank(a) - rank(b) })
	for _, payload := range added {
		xp, err := xfrm.DecodePolicy(payload)
		if err == nil && !was[keyOf(xp.ID())] {
			err = take(ctx, e, xp.ID())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func rank(payload []byte) int {
	if xp, err := xfrm.DecodePolicy(payload); err == nil && xp.Dir == xfrm.PolicyOut {
		return 0
	}
	return 1
}

// linger enters inbound SAs that go later.
func (r *round) linger(c *Change, i int, ids []tunnel.SAID) {
	p := &c.Begin.Pairs[i]
	var old []tunnel.SAID
	if was := c.Pairs[i].Was; was != nil {
		old = was.Inbound
	}
	for _, id := range ids {
		if slices.ContainsFunc(r.j.Lingering, func(l Lingering) bool { return l.Engine == p.Engine && l.ID == id }) {
			continue
		}
		r.j.Lingering = append(r.j.Lingering, Lingering{Tunnel: p.Tunnel, Engine: p.Engine, ID: id, BootID: r.cfg.Clock.BootID(),
			Since: r.cfg.Clock.Now(), Timeout: c.Begin.Timeout, Old: old, Encaps: c.Pairs[i].Encaps})
	}
}

// forget ends a change that a reboot has undone: nothing of it is left but what is written.
func (r *round) forget(c *Change) {
	r.j.Owned = r.former(c)
	for i := range c.Pairs {
		if c.Pairs[i].Stage == "" {
			c.Pairs[i].Stage = steps.Undone
		}
	}
	c.Stage, c.Ended = steps.Undone, r.cfg.Clock.Now()
	c.Problem = "this host was booted meanwhile: its SAs are gone"
	if err := r.restoreGuard(c, r.j.Owned); err != nil {
		c.Problem += fmt.Sprintf("; %v", err)
	}
	if err := errors.Join(r.hold(), r.write(r.j)); err != nil {
		c.Problem += fmt.Sprintf("; %v", err)
	}
}
