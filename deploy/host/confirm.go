package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/xfrm"
)

// Guard has what will be owned guarded, also after a reboot.
func (h *Host) Guard(ctx context.Context, q steps.Question) (p steps.Progress, err error) {
	err = h.under(ctx, func(r *round) error {
		c, err := r.openChange(q.Change)
		if err != nil {
			return err
		}
		if err := r.lasting(c, r.j.after()); err != nil {
			return err
		}
		p = r.progress()
		return nil
	})
	return p, err
}

// Confirm has the change stay, unless its time was over. The peers' probes must have been seen.
func (h *Host) Confirm(ctx context.Context, q steps.Question) (p steps.Progress, err error) {
	err = h.under(ctx, func(r *round) error {
		c, err := r.change(q.Change)
		if err != nil {
			return err
		}
		if c.Stage == steps.Open && r.rebooted(c) {
			r.forget(c)
		}
		if c.Stage != steps.Open {
			p = r.progress()
			return nil
		}
		if c.Begin.Kind != steps.Down && !c.Probed {
			return errors.New("no probes of the peers have been seen yet: it is not confirmed")
		}
		c.Stage, c.Confirmed = steps.Confirmed, r.cfg.Clock.Now()
		c.Later = min(max(q.Later, 0), c.Confirmed-c.Begun) // all hosts had begun by now
		r.j.Owned = r.j.after()
		if err := r.write(r.j); err != nil {
			return err // it is still open
		}
		p = r.progress()
		return r.keep()
	})
	return p, err
}

// Finish has old SAs deleted after the grace, and returns once they are. Without it the keeper does so,
// once it is sure that the peers have confirmed as well. A change that is over, either way, stays so.
func (h *Host) Finish(ctx context.Context, q steps.Question) (p steps.Progress, err error) {
	for {
		var left time.Duration
		err := h.under(ctx, func(r *round) error {
			c, err := r.change(q.Change)
			if err != nil {
				return err
			}
			switch {
			case c.open() && r.rebooted(c):
				r.forget(c)
			case c.Stage == steps.Open:
				return errors.New("the change is not confirmed")
			case c.Stage == steps.Confirmed && c.Closing == 0:
				c.Closing = r.cfg.Clock.Now() + c.grace()
				if err := r.write(r.j); err != nil {
					return err
				}
			}
			if c.Stage == steps.Confirmed {
				if left = c.Closing - r.cfg.Clock.Now(); left <= 0 {
					err = r.close(c)
				}
			}
			p = r.progress()
			return err
		})
		if err != nil || left <= 0 {
			return p, err
		}
		if err := h.cfg.Clock.Sleep(ctx, left); err != nil {
			return p, err // the keeper goes on
		}
	}
}

// grace is how long old SAs are kept: for no time at all where there are none, of which packets could be
// under way. A change of which nothing stays is waited for as well: peers stop to protect at their own time.
func (c *Change) grace() time.Duration {
	for i := range c.Begin.Pairs {
		if p := &c.Begin.Pairs[i]; len(p.Old) > 0 || leaves(c.Begin.Kind, p) {
			return c.Begin.Grace
		}
	}
	return 0
}

// close finishes all pairs on which nothing was decided yet, at the coordinator's word.
func (r *round) close(c *Change) error {
	var errs []error
	for i := range c.Pairs {
		if c.Pairs[i].Stage == "" {
			errs = append(errs, r.finishPair(c, i))
		}
	}
	r.conclude(c)
	return errors.Join(append(errs, r.write(r.j))...)
}

// finishPair deletes what is old of a pair. What cannot be deleted is told, and is no reason to keep the
// rest.
func (r *round) finishPair(c *Change, i int) error {
	p := &c.Begin.Pairs[i]
	c.Pairs[i].Stage = steps.Finished
	e, err := r.engines.get(p.Engine)
	if err != nil {
		return r.problem(c, i, err)
	}
	var errs []error
	if _, gone := e.(ended); gone && leaves(c.Begin.Kind, p) {
		c.Problem = fmt.Sprintf("tunnel %s: the userspace device of %s does not run any more. If it was killed, its guard lets nothing pass in clear until "+
			"`espalier dataplane --release --dev %[2]s` on this host", end(p), p.Device)
	}
	if leaves(c.Begin.Kind, p) {
		for _, payload := range p.Gone {
			if gone, err := xfrm.DecodePolicy(payload); err == nil && !c.wants(p.Engine, keyOf(gone.ID())) {
				errs = append(errs, take(r.ctx, e, gone.ID()))
			}
		}
	}
	for _, id := range p.Old {
		if err := e.DeleteState(r.ctx, stateID(id)); !errors.Is(err, ipsec.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return r.problem(c, i, errors.Join(errs...))
}

// problem notes an error about a pair: what has failed is tried again.
func (r *round) problem(c *Change, i int, err error) error {
	c.Pairs[i].Again = err != nil
	if err == nil {
		return nil
	}
	err = fmt.Errorf("tunnel %s: %w", end(&c.Begin.Pairs[i]), err)
	c.Problem = err.Error()
	return err
}

// conclude ends the change if something has become of each of its pairs.
func (r *round) conclude(c *Change) {
	var undone []string
	for i, state := range c.Pairs {
		switch state.Stage {
		case "":
			return
		case steps.Undone:
			undone = append(undone, end(&c.Begin.Pairs[i]))
		}
	}
	c.Stage, c.Ended = steps.Finished, r.cfg.Clock.Now()
	if len(undone) > 0 {
		c.Stage = steps.Undone
		if len(undone) < len(c.Pairs) {
			c.Problem = fmt.Sprintf("undone: %s; the other pairs of this host are finished: their peers have confirmed", words(undone))
		}
	}
	if err := r.hold(); err != nil {
		c.Problem = err.Error()
	}
}

// words is a list of a few.
func words(all []string) string {
	slices.Sort(all)
	s := ""
	for i, one := range all {
		if i == 5 {
			return s + fmt.Sprintf(" and %d more", len(all)-i)
		}
		if i > 0 {
			s += ", "
		}
		s += one
	}
	return s
}
