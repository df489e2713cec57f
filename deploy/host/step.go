package host

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"espalier/deploy/steps"
	"espalier/tunnel"
)

// round is what goes on under the lock: the journal as it was read, and the engines.
type round struct {
	*Host
	ctx     context.Context
	j       *Journal
	engines *engines
}

// under runs f with the journal locked, and everything settled whose time has come. What f began it
// does not leave half done because nobody waits for it any more: its context does not end. Where there is
// nothing to know in the end, nothing is left, not even of having asked.
func (h *Host) under(ctx context.Context, f func(*round) error) error {
	lock, err := h.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	j, err := ReadJournal(h.cfg.Dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), roundPatience)
	defer cancel()
	r := &round{Host: h, ctx: ctx, j: j, engines: h.engines()}
	defer r.engines.close()
	r.settle()
	err = f(r)
	if r.nothing() {
		r.clean()
	}
	return err
}

// roundPatience ends a round in which an engine does not answer.
const roundPatience = 2 * time.Minute

// change is the journal's, if that is the one asked about.
func (r *round) change(id string) (*Change, error) {
	c := r.j.Change
	if c == nil || c.Begin.Change != id {
		return nil, errors.New("this host knows nothing of the change: it has not begun here, or another one has")
	}
	return c, nil
}

// openChange is the journal's if it is the one asked about and can still be carried on.
func (r *round) openChange(id string) (*Change, error) {
	c, err := r.change(id)
	if err != nil {
		return nil, err
	}
	if c.Stage != steps.Open {
		return nil, fmt.Errorf("the change is %s here", c.Stage)
	}
	if r.rebooted(c) {
		return nil, errors.New("this host was booted meanwhile: the change is undone here")
	}
	return c, nil
}

// rebooted reports whether the SAs of a change went with the host that it began on.
func (r *round) rebooted(c *Change) bool { return c.BootID != r.cfg.Clock.BootID() }

// progress is how far the last change has come.
func (r *round) progress() steps.Progress {
	c := r.j.Change
	if c == nil {
		return steps.Progress{}
	}
	p := steps.Progress{Change: c.Begin.Change, Kind: c.Begin.Kind, Stage: c.Stage, Problem: c.Problem}
	if c.Stage == steps.Open {
		p.Left = max(0, c.Deadline-r.cfg.Clock.Now())
	}
	return p
}

// State tells how far the last change has come.
func (h *Host) State(ctx context.Context) (p steps.Progress, err error) {
	err = h.under(ctx, func(r *round) error {
		p = r.progress()
		if r.pending() {
			return r.keep() // the keeper may have been killed
		}
		return nil
	})
	return p, err
}

// keep has a keeper run.
func (r *round) keep() error {
	if r.cfg.Keeper == nil || r.kept() {
		return nil
	}
	if err := r.cfg.Keeper(); err != nil {
		return fmt.Errorf("start the process that undoes the change in time: %w", err)
	}
	return nil
}

// kept reports whether a keeper is at work: it goes on until, under the journal's lock, nothing is pending.
func (r *round) kept() bool {
	lock, err := lockFile(filepath.Join(r.cfg.Dir, keeperName))
	if err == nil {
		lock.Close()
	}
	return errors.Is(err, unix.EWOULDBLOCK)
}

// Facts are this host's, with what the journal has.
func (h *Host) Facts(ctx context.Context, q steps.FactsQuestion) (*tunnel.Facts, error) {
	f, err := h.cfg.Gather(ctx, q.SAD)
	if err != nil {
		return nil, err
	}
	f.Boot = h.lasts()
	f.Timer = f.Boot
	err = h.under(ctx, func(r *round) error {
		r.j.follow(f.Engines, func(engine string) bool { return f.Engine(engine) != nil })
		f.Lost = r.lost()
		for i := range f.Engines {
			r.j.markLingering(&f.Engines[i])
		}
		owned := r.j.Owned
		switch c := r.j.Change; {
		case !c.open():
		case c.Stage == steps.Confirmed && r.yieldsIn(c) == 0:
			owned = r.j.undecided()
		default:
			f.Change = r.openWords(c)
			if c.Stage == steps.Confirmed || r.rebooted(c) {
				f.ChangeLeft = r.yieldsIn(c)
			}
		}
		if f.Owned, err = inPlan(owned, r.cfg.Clock); err != nil {
			return err
		}
		if r.pending() {
			return r.keep()
		}
		return nil
	})
	return f, err
}

// nothing reports whether there is nothing left to know or to do.
func (r *round) nothing() bool {
	return !r.pending() && !r.j.Change.open() && len(r.j.Owned) == 0 && len(r.j.Held) == 0
}

// lasts is whether something can last beyond a reboot.
func (h *Host) lasts() tunnel.Answer {
	if h.cfg.Boot == nil {
		return tunnel.Answer{Can: tunnel.No, Why: "nothing lasts here"}
	}
	if ok, why := h.cfg.Boot.Can(); !ok {
		return tunnel.Answer{Can: tunnel.No, Why: why}
	}
	return tunnel.Answer{Can: tunnel.Yes}
}

// markLingering marks SAs that go by themselves.
func (j *Journal) markLingering(e *tunnel.Engine) {
	for i := range e.SAs {
		e.SAs[i].Lingering = slices.ContainsFunc(j.Lingering, func(l Lingering) bool { return l.Engine == e.Name && l.ID == e.SAs[i].SAID })
	}
}

// inPlan is what is owned, as plans have it.
func inPlan(owned []Owned, clock Clock) ([]tunnel.Owned, error) {
	var all []tunnel.Owned
	for _, o := range owned {
		t := tunnel.Owned{Tunnel: o.Tunnel, Origin: o.Origin, Local: o.Local, Remote: o.Remote, Engine: o.Engine, Device: o.Device,
			Outbound: o.Outbound, Inbound: o.Inbound, Rotate: o.Rotate, Since: o.Since, Undecided: o.Undecided}
		if o.BootID == clock.BootID() {
			t.Age = max(0, clock.Now()-o.Begun)
		}
		for _, p := range o.Policies {
			xp, err := steps.DecodePolicy(p.Payload, false)
			if err != nil {
				return nil, err
			}
			tp, err := steps.PolicyOf(xp)
			if err != nil {
				return nil, err
			}
			t.Policies = append(t.Policies, tp)
		}
		all = append(all, t)
	}
	return all, nil
}
