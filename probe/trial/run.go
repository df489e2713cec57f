package trial

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// Engine is where SAs are tried: a [client.Client], of the kernel.
type Engine interface {
	AddState(context.Context, *xfrm.State) error
	GetState(context.Context, xfrm.StateID) (*xfrm.State, error)
	DeleteState(context.Context, xfrm.StateID) error
	States(context.Context, xfrm.StateFilter) iter.Seq2[*xfrm.State, error]
}

// Options of a trial.
type Options struct {
	Device   string // network device that is to offload
	Ifindex  int    // its index
	Driver   string // its driver, "" if not known
	StateDir string // where journal and lock are; made if it is not there
	Scope    string // names the engine's SAD among others of the host: what it may clean up
	// Progress, if not nil, is called before each case.
	Progress func(done, total int)
}

// patience with an engine that is to delete an SA after the context has ended.
const patience = 5 * time.Second

// Run tries all of Plan on a device. It returns when no SA of its own is left, or with an error that
// says so. Of a trial that was cut short the Result says what was tried until then.
func Run(ctx context.Context, engine Engine, o Options) (*Result, error) {
	fail := func(err error) error { return fmt.Errorf("trial on %s: %w", o.Device, err) }
	held, err := lock(o.StateDir)
	if err != nil {
		return nil, fail(err)
	}
	defer held.Close()
	t := &trial{Options: o, engine: engine}
	cleaned, err := t.cleanUp(ctx)
	if err != nil {
		return nil, fail(err)
	}
	if err := t.prepare(ctx, Plan()); err != nil {
		return nil, fail(err)
	}
	r := &Result{Device: o.Device, Driver: o.Driver, CleanedUp: cleaned}
	if r.Cases, err = t.all(ctx, Plan()); err != nil {
		return r, fail(err)
	}
	return r, nil
}

// trial is one under way.
type trial struct {
	Options
	engine  Engine
	used    map[ipsec.SPI]bool // of SAs that are there, and ours
	journal journal
}

// cleanUp deletes what a trial that was killed has left. Of another scope nothing can be: those SAs
// go by themselves.
func (t *trial) cleanUp(ctx context.Context) (cleaned int, err error) {
	left, err := readJournal(t.StateDir)
	if err != nil || left == nil {
		return 0, err
	}
	if left.Scope == t.Scope {
		for _, s := range left.SAs {
			deleted, err := t.remove(ctx, s, left.Reqid)
			if err != nil {
				return cleaned, err
			}
			if deleted {
				cleaned++
			}
		}
	}
	return cleaned, left.remove(t.StateDir)
}

// remove deletes an SA of a trial, if it is there.
func (t *trial) remove(ctx context.Context, s sa, reqid uint32) (deleted bool, err error) {
	back, err := t.engine.GetState(ctx, s.id())
	if errors.Is(err, ipsec.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	back.WipeKeys()
	if !s.is(back, reqid) {
		return false, nil // somebody else's
	}
	err = t.engine.DeleteState(ctx, s.id())
	if errors.Is(err, ipsec.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// prepare chooses SPIs and a reqid that no SA has, and records them.
func (t *trial) prepare(ctx context.Context, plan []Case) error {
	t.used = make(map[ipsec.SPI]bool)
	reqids := map[uint32]bool{0: true}
	for s, err := range t.engine.States(ctx, xfrm.StateFilter{}) {
		if err != nil {
			return err
		}
		s.WipeKeys()
		t.used[s.SPI], reqids[s.Reqid] = true, true
	}
	t.journal = journal{Scope: t.Scope}
	for reqids[t.journal.Reqid] {
		t.journal.Reqid = rand.Uint32()
	}
	for _, c := range plan {
		t.journal.SAs = append(t.journal.SAs, c.sa(t.freshSPI()))
	}
	return t.journal.write(t.StateDir)
}

// freshSPI is one from a range that neither the kernel nor the usual daemons choose from.
func (t *trial) freshSPI() ipsec.SPI {
	for {
		spi := ipsec.SPI(0xe0000000 | rand.Uint32()>>4)
		if !t.used[spi] {
			t.used[spi] = true
			return spi
		}
	}
}

// all tries one case after the other.
func (t *trial) all(ctx context.Context, plan []Case) (tried []Tried, err error) {
	for i, c := range plan {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			tried = append(tried, Tried{Case: c, Outcome: Untried})
			continue
		}
		if t.Progress != nil {
			t.Progress(i, len(plan))
		}
		var one Tried
		one, err = t.one(ctx, c, t.journal.SAs[i])
		tried = append(tried, one)
	}
	var left *leftover
	if errors.As(err, &left) {
		return tried, err // the next trial looks after it
	}
	return tried, errors.Join(err, t.journal.remove(t.StateDir))
}

// leftover is an SA that could not be deleted.
type leftover struct {
	sa  sa
	err error
}

func (l *leftover) Error() string {
	return fmt.Sprintf("the SA %s could not be deleted and goes by itself in %s: %v", l.sa.id(), Lifetime, l.err)
}

func (l *leftover) Unwrap() error { return l.err }

// attempts with other SPIs, if one was taken meanwhile.
const attempts = 4

// one tries one case. An error ends the trial.
func (t *trial) one(ctx context.Context, c Case, s sa) (Tried, error) {
	for try := 1; ; try++ {
		x := c.state(s, t.journal.Reqid, t.Ifindex)
		err := t.engine.AddState(ctx, x)
		x.WipeKeys()
		if errors.Is(err, ipsec.ErrExist) && try < attempts {
			s = c.sa(t.freshSPI())
			t.journal.SAs = append(t.journal.SAs, s)
			if err := t.journal.write(t.StateDir); err != nil {
				return Tried{Case: c, Outcome: Untried}, err
			}
			continue
		}
		return t.judge(ctx, c, s, err)
	}
}

// judge says what came of an SA, and deletes it. added is what the engine has said.
func (t *trial) judge(ctx context.Context, c Case, s sa, added error) (tried Tried, err error) {
	tried = Tried{Case: c, Outcome: Untried}
	var refusal *client.Error
	if errors.As(added, &refusal) {
		if refusal.Errno == unix.EPERM {
			return tried, added // not of this SA
		}
		tried.refused(refusal)
		return tried, nil
	}
	// It is in, or may be: after an error that is not the engine's answer nobody knows.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		if _, failed := t.remove(ctx, s, t.journal.Reqid); failed != nil {
			err = errors.Join(err, &leftover{s, failed})
		}
	}()
	if added != nil {
		return tried, added
	}
	back, err := t.engine.GetState(ctx, s.id())
	if errors.Is(err, ipsec.ErrNotExist) {
		tried.Message = "it was gone before it could be read back"
		return tried, nil
	}
	if err != nil {
		return tried, err
	}
	back.WipeKeys()
	tried.readBack(back.Offload, t.Ifindex)
	return tried, nil
}
