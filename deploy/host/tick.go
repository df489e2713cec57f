package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/tunnel"
	"espalier/xfrm"
)

// Every is how often Tick wants to be called.
const Every = time.Second

// Tick is one round of the keeper: it undoes what is overdue, finishes or undoes what was confirmed and
// then left alone, deletes SAs that have lingered long enough, and sends heartbeats. pending reports
// whether there is anything left to come.
func (h *Host) Tick(ctx context.Context) (pending bool, err error) {
	var beats []Flow
	err = h.under(ctx, func(r *round) error {
		pending, beats, err = r.tick()
		return err
	})
	for _, f := range beats {
		h.cfg.Send(ctx, f) // one that is lost is followed by another
	}
	return pending, err
}

// tick does what has to be done now, under the lock.
func (r *round) tick() (pending bool, beats []Flow, err error) {
	changed := false
	c := r.j.Change
	if c != nil && c.Stage == steps.Confirmed && !r.rebooted(c) {
		if changed, err = r.decideAll(c); err != nil {
			c.Problem = err.Error()
		}
	}
	if c != nil && !c.open() && r.again(c) {
		changed = true
	}
	if r.payDebts() {
		changed = true
	}
	if r.lingerOn() {
		changed = true
	}
	if changed {
		err = errors.Join(err, r.hold(), r.write(r.j))
	}
	if pending = r.pending(); pending {
		beats = r.heartbeats()
	}
	return pending, beats, err
}

// pending reports whether something is to be done later without being asked for.
func (r *round) pending() bool {
	c := r.j.Change
	if c.open() || len(r.j.Detours) > 0 || len(r.j.Lingering) > 0 || len(r.j.Debts) > 0 || c != nil && c.owes() {
		return true
	}
	return c != nil && !r.rebooted(c) && r.cfg.Clock.Now() < speaksUntil(c)
}

// again tries what has failed of a change that is over.
func (r *round) again(c *Change) (changed bool) {
	if c.Again && r.restoreGuard(c, r.j.Owned) == nil {
		c.Problem, changed = "", true
	}
	for i := range c.Pairs {
		if !c.Pairs[i].Again {
			continue
		}
		var err error
		if c.Pairs[i].Stage == steps.Undone {
			err = r.undoPair(c, i)
		} else {
			err = r.finishPair(c, i)
		}
		if err == nil {
			c.Problem, changed = "", true
		}
		if c.Pairs[i].Again && r.cfg.Clock.Now()-c.Ended > longest {
			c.Pairs[i].Again, changed = false, true
		}
	}
	return changed
}

// decideAll finishes or undoes pairs of a confirmed change, where that can be told.
func (r *round) decideAll(c *Change) (changed bool, err error) {
	now := r.cfg.Clock.Now()
	if c.Closing > 0 && now >= c.Closing { // whoever told to finish it has gone
		return true, r.close(c)
	}
	var errs []error
	for i := range c.Pairs {
		if c.Pairs[i].Stage != "" {
			continue
		}
		v, err := r.look(c, i)
		if err != nil {
			errs = append(errs, err)
		}
		switch v.decide() {
		case finish:
			errs = append(errs, r.finishPair(c, i))
			changed = true
		case undo:
			r.j.Owned = r.j.undone(c, i)
			if c.Guarded {
				errs = append(errs, r.restoreGuard(c, r.j.Owned))
			}
			errs = append(errs, r.undoPair(c, i))
			changed = true
		}
	}
	if changed {
		r.conclude(c)
		if c.Guarded && r.anyBare() {
			errs = append(errs, r.restoreGuard(c, r.j.Owned))
		}
	}
	return changed, errors.Join(errs...)
}

// look gathers what has come by the SAs of a pair.
func (r *round) look(c *Change, i int) (view, error) {
	p := &c.Begin.Pairs[i]
	v := view{now: r.cfg.Clock.Now(), since: decidesFrom(c), leaves: leaves(c.Begin.Kind, p), hasNew: len(p.Inbound) > 0}
	var old []tunnel.SAID
	for _, id := range p.Old {
		if id.Dst == p.Local {
			old = append(old, id)
		}
	}
	v.hasOld = len(old) > 0
	e, err := r.engines.get(p.Engine)
	if err != nil {
		return v, err
	}
	var errs []error
	for _, id := range p.Inbound {
		_, last, err := r.watch(e, p.Engine, id, v.since)
		v.newest = max(v.newest, last)
		errs = append(errs, err)
	}
	for _, id := range old {
		first, last, err := r.watch(e, p.Engine, id, v.since)
		if first > 0 && (v.oldFirst == 0 || first < v.oldFirst) {
			v.oldFirst = first
		}
		v.oldLast = max(v.oldLast, last)
		errs = append(errs, err)
	}
	return v, errors.Join(errs...)
}

// watch tells when an SA was seen to have received something, first and last after a time; 0 is never.
func (r *round) watch(e Engine, engine string, id tunnel.SAID, after time.Duration) (first, last time.Duration, err error) {
	packets, err := received(r.ctx, e, id)
	if errors.Is(err, ipsec.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	key := fmt.Sprintf("%s %s %s", engine, id.SAID, id.Src)
	now := r.cfg.Clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	s, known := r.seen[key]
	if !known || packets < s.packets {
		s = sighting{packets: packets, begun: now}
	}
	if now < after { // what comes now tells nothing yet
		s.first, s.last = 0, 0
	}
	if packets > s.packets {
		if s.last = now; now >= after && s.first == 0 {
			s.first = now
		}
	}
	s.packets = packets
	r.seen[key] = s
	return s.first, s.last, nil
}

// received is how many packets an SA has opened.
func received(ctx context.Context, e Engine, id tunnel.SAID) (uint64, error) {
	s, err := e.GetState(ctx, stateID(id))
	if err != nil {
		return 0, err
	}
	s.WipeKeys()
	return s.Current.Packets, nil
}

// lingerOn deletes SAs that have lingered long enough, and reports whether anything has changed.
func (r *round) lingerOn() (changed bool) {
	now, boot := r.cfg.Clock.Now(), r.cfg.Clock.BootID()
	r.j.Lingering = slices.DeleteFunc(slices.Clone(r.j.Lingering), func(l Lingering) bool {
		if l.BootID != boot {
			changed = true
			return true
		}
		e, err := r.engines.get(l.Engine)
		if err != nil { // the device has stopped, and its SAs with it; it may only be slow
			gone := now-l.Since >= longest
			changed = changed || gone
			return gone
		}
		if _, err := received(r.ctx, e, l.ID); errors.Is(err, ipsec.ErrNotExist) {
			changed = true
			return true
		}
		_, last, err := r.watch(e, l.Engine, l.ID, 0)
		if err != nil {
			return false
		}
		r.mu.Lock()
		last = max(last, r.seen[fmt.Sprintf("%s %s %s", l.Engine, l.ID.SAID, l.ID.Src)].begun)
		r.mu.Unlock()
		if !l.gone(now, last) {
			return false
		}
		if err := e.DeleteState(r.ctx, stateID(l.ID)); err != nil && !errors.Is(err, ipsec.ErrNotExist) {
			return false
		}
		changed = true
		return true
	})
	for i := range r.j.Lingering {
		l := &r.j.Lingering[i]
		if l.Heard || len(l.Old) == 0 {
			continue
		}
		e, err := r.engines.get(l.Engine)
		if err != nil {
			continue
		}
		for _, id := range l.Old {
			if _, last, err := r.watch(e, l.Engine, id, 0); err == nil && last > l.Since {
				l.Heard, changed = true, true
			}
		}
	}
	return changed
}

// heartbeats are a probe for each policy by which this host sends to the peers of the change.
func (r *round) heartbeats() []Flow {
	c := r.j.Change
	if c == nil || r.rebooted(c) {
		return nil
	}
	own, err := r.cfg.Addresses()
	if err != nil {
		return nil
	}
	var beats []Flow
	for i := range c.Begin.Pairs {
		p := &c.Begin.Pairs[i]
		e, err := r.engines.get(p.Engine)
		if err != nil {
			continue
		}
		for _, payload := range slices.Concat(p.Policies, p.Gone) {
			want, err := xfrm.DecodePolicy(payload)
			if err != nil || want.Dir != xfrm.PolicyOut || len(want.Tmpls) == 0 {
				continue
			}
			there, err := e.GetPolicy(r.ctx, want.ID())
			if err != nil || len(there.Tmpls) == 0 {
				continue // it would go in clear
			}
			all, err := r.engines.sending(r.ctx, p.Engine)
			if err != nil {
				continue
			}
			live := livePolicy(there)
			if f, err := flowOf(&live.Policy, p, own, r.cfg.Interface, all); err == nil {
				beats = append(beats, f)
			}
		}
	}
	return beats
}
