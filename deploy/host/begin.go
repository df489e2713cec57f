package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"espalier/config"
	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/tunnel"
	"espalier/xfrm"

	"golang.org/x/sys/unix"
)

// Begin writes down what is about to be changed, and how it is now. Nothing is changed before that is
// on disk, and a keeper runs that undoes it.
func (h *Host) Begin(ctx context.Context, q steps.BeginQuestion) (p steps.Progress, err error) {
	if err := checkBegin(&q); err != nil {
		return p, err
	}
	err = h.under(ctx, func(r *round) error {
		if c := r.j.Change; c != nil && c.Begin.Change == q.Change {
			p = r.progress()
			return nil
		}
		former, formerly := r.j.Change, r.j.Owned
		if former.open() {
			owned, err := r.giveWay(former)
			if err != nil {
				return err
			}
			r.j.Owned = owned
		}
		r.follow(q.Pairs)
		now := r.cfg.Clock.Now()
		c := &Change{Begin: q, Stage: steps.Open, Since: r.cfg.Clock.Wall(), BootID: r.cfg.Clock.BootID(), Begun: now, Deadline: now + q.Timeout}
		debts := r.j.Debts
		if err := r.passOn(former, c); err != nil {
			return err
		}
		if err := r.j.checkNames(&q); err != nil {
			return err
		}
		ours := r.j.policyKeys()
		for i := range q.Pairs {
			state, err := r.before(q.Kind, &q.Pairs[i], ownedAs(&q, &q.Pairs[i]), ours)
			if err != nil {
				return fmt.Errorf("tunnel %s: %w", q.Pairs[i].Tunnel, err)
			}
			c.Pairs = append(c.Pairs, state)
		}
		r.j.Change = c
		if err := r.write(r.j); err != nil {
			return fmt.Errorf("nothing was changed: %w", err)
		}
		if err := r.keep(); err != nil {
			r.j.Change, r.j.Owned, r.j.Debts = former, formerly, debts
			return errors.Join(fmt.Errorf("nothing was changed: %w", err), r.write(r.j))
		}
		p = r.progress()
		return nil
	})
	return p, err
}

const (
	longestTimeout = 24 * time.Hour
	longestGrace   = time.Hour
)

// checkBegin refuses what cannot be carried out whatever there is.
func checkBegin(q *steps.BeginQuestion) error {
	switch {
	case q.Change == "":
		return errors.New("the change has no name")
	case q.Kind != steps.Apply && q.Kind != steps.Rotate && q.Kind != steps.Down:
		return fmt.Errorf("there is no change of kind %q", q.Kind)
	case q.Timeout <= 0 || q.Timeout > longestTimeout:
		return fmt.Errorf("a change cannot be undone after %s: it is after up to %s", q.Timeout, longestTimeout)
	case q.Grace < 0 || q.Grace > longestGrace:
		return fmt.Errorf("old SAs cannot be kept for %s: it is for up to %s", q.Grace, longestGrace)
	}
	seen := map[string]bool{}
	for i := range q.Pairs {
		p := &q.Pairs[i]
		if err := checkPair(q.Kind, p, seen); err != nil {
			return fmt.Errorf("tunnel %s, %s→%s: %w", p.Tunnel, p.Local, p.Remote, err)
		}
	}
	return nil
}

// checkPair also enters what the pair has into seen: nothing may be of two pairs.
func checkPair(kind steps.Kind, p *steps.PairEnd, seen map[string]bool) error {
	once := func(what string) error {
		if seen[what] {
			return fmt.Errorf("%s twice", what)
		}
		seen[what] = true
		return nil
	}
	switch {
	case p.Engine == "":
		return errors.New("no engine")
	case !p.Local.IsValid() || !p.Remote.IsValid() || p.Local == p.Remote:
		return errors.New("it takes two addresses")
	case leaves(kind, p) && (len(p.Inbound) > 0 || len(p.Outbound) > 0 || len(p.Policies) > 0):
		return errors.New("it is to go, and to get SAs or policies")
	case leaves(kind, p) && p.Former != "":
		return errors.New("it is to go, and to get another name")
	case (len(p.Inbound) == 0) != (len(p.Outbound) == 0):
		return errors.New("SAs for one direction only")
	}
	if err := once(fmt.Sprintf("pair %s %s→%s", p.Tunnel, p.Local, p.Remote)); err != nil {
		return err
	}
	for _, d := range guardDetours(p.Detours) {
		if err := d.Check(); err != nil {
			return err
		}
	}
	if p.Former != "" {
		if err := once(fmt.Sprintf("former pair %s %s→%s", p.Former, p.Local, p.Remote)); err != nil {
			return err
		}
	}
	for _, list := range [][]tunnel.SAID{p.Inbound, p.Outbound, p.Old} {
		for _, id := range list {
			in := id.Src == p.Remote && id.Dst == p.Local
			if !in && (id.Src != p.Local || id.Dst != p.Remote) {
				return fmt.Errorf("SA %s is from %s, which is not of the pair", id.SAID, id.Src)
			}
			if id.SPI < 256 {
				return fmt.Errorf("SPI %s is reserved (RFC 4303 §2.1)", id.SPI)
			}
			if err := once(fmt.Sprintf("SA %s of %s", id.SAID, p.Engine)); err != nil {
				return err
			}
		}
	}
	for _, list := range [][][]byte{p.Policies, p.Gone} {
		for _, payload := range list {
			xp, err := xfrm.DecodePolicy(payload)
			if err != nil {
				return err
			}
			if xp.Dir > xfrm.PolicyFwd {
				return fmt.Errorf("policy %s has no direction", xp.ID())
			}
		}
	}
	return nil
}

// leaves reports whether a pair is to be there no more.
func leaves(kind steps.Kind, p *steps.PairEnd) bool {
	return kind == steps.Down || p.Action == tunnel.Remove
}

// before finds out how a pair is now, by the name that it is owned by, and that nothing of somebody else's is in
// the way; ours are policyKeys.
func (r *round) before(kind steps.Kind, p *steps.PairEnd, name string, ours map[string]bool) (state PairState, err error) {
	if i := r.j.owner(name, p.Local, p.Remote); i >= 0 {
		was := r.j.Owned[i]
		state.Was = &was
		if was.Engine != p.Engine {
			return state, fmt.Errorf("%s→%s is by engine %s now: take it down before it goes to %s", p.Local, p.Remote, was.Engine, p.Engine)
		}
	}
	e, err := r.engines.get(p.Engine)
	if err != nil {
		return state, err
	}
	if gone, ok := e.(ended); ok && !leaves(kind, p) {
		return state, gone.why
	}
	for _, payload := range slices.Concat(p.Policies, p.Gone) {
		wanted, err := xfrm.DecodePolicy(payload)
		if err != nil {
			return state, err
		}
		there, err := e.GetPolicy(r.ctx, wanted.ID())
		if errors.Is(err, ipsec.ErrNotExist) {
			continue
		}
		if err != nil {
			return state, err
		}
		if !p.Adopt && !ours[p.Engine+keyOf(wanted.ID())] {
			return state, fmt.Errorf("policy %s is out there already, and is not espalier's: delete it or `espalier apply --adopt`", wanted.ID())
		}
		kept, err := snapshot(there)
		if err != nil {
			return state, err
		}
		state.Before = append(state.Before, kept)
	}
	for _, id := range slices.Concat(p.Inbound, p.Outbound) {
		s, err := e.GetState(r.ctx, stateID(id))
		if err == nil {
			s.WipeKeys()
			return state, fmt.Errorf("SA %s is out there already", id.SAID)
		}
		if !errors.Is(err, ipsec.ErrNotExist) {
			return state, err
		}
	}
	for _, id := range p.Old {
		if !p.Adopt && (state.Was == nil || !slices.Contains(slices.Concat(state.Was.Outbound, state.Was.Inbound), id)) {
			return state, fmt.Errorf("SA %s is not espalier's: it is not deleted", id.SAID)
		}
	}
	return state, nil
}

// policyKeys are the policies that are owned, by engine and keyOf.
func (j *Journal) policyKeys() map[string]bool {
	ours := map[string]bool{}
	for i := range j.Owned {
		for _, p := range j.Owned[i].Policies {
			ours[j.Owned[i].Engine+policyKey(p.Payload)] = true
		}
	}
	return ours
}

// stateID is an SA's, in the words of Linux.
func stateID(id tunnel.SAID) xfrm.StateID {
	return xfrm.StateID{Src: id.Src, Dst: id.Dst, Proto: unix.IPPROTO_ESP, SPI: id.SPI, Mark: xfrmMark(id.Mark)}
}

func xfrmMark(m config.Mark) *xfrm.Mark {
	if m.Mask == 0 {
		return nil
	}
	return &xfrm.Mark{Value: m.Value, Mask: m.Mask}
}

// end names a pair in words.
func end(p *steps.PairEnd) string {
	return fmt.Sprintf("%s to %s", p.Tunnel, p.Remote)
}
