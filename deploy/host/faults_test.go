package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/deploy/steps"
	"espalier/tunnel"
)

// same complains unless all hosts are as they were.
func (w *world) same(t *testing.T, before []picture) {
	t.Helper()
	for i, n := range w.hosts {
		if now := (picture{n.sad(), n.policies()}); !now.equal(before[i]) {
			t.Errorf("%s is not as it was: %v, want %v; policies the same: %v", n.name, now.sas, before[i].sas, slices.Equal(now.policies, before[i].policies))
		}
		if j := n.journal(); len(j.Owned) != len(before[i].sas)/2 {
			t.Errorf("%s owns %d pairs", n.name, len(j.Owned))
		}
	}
	if !w.works() {
		t.Error("not everything is taken that is sent")
	}
}

// until is a wire that ends before an operation at the coordinator's death.
func until(operation string) wire {
	return func(_, _ int, name string, deliver func() error) error {
		if name == operation {
			panic(died{})
		}
		return deliver()
	}
}

// Whatever an engine, the guard or the keeper refuses, at whatever time, all hosts are as before in the end.
func TestRefused(t *testing.T) {
	t.Parallel()
	var tried cases
	for kind, k := range kinds {
		for _, op := range []string{"open", "add SA", "get SA", "delete SA", "add policy", "update policy", "delete policy", "get policy", "list policies", "guard", "keeper"} {
			for _, nth := range []int{1, 2, 5} {
				if !tried.next() {
					continue
				}
				w := prepared(t, 2, k.former)
				before := w.picture()
				victim, count := w.hosts[1], 0
				refused := fmt.Errorf("the engine refuses to %s", op)
				victim.refuse = func(what, _ string) error {
					if what == op {
						if count++; count == nth {
							return refused
						}
					}
					return nil
				}
				outcome := w.carryOut(w.plan(k.kind, 2, k.former), direct)
				w.settle()
				switch {
				case count < nth, outcome == "done": // it was not that often, or did not matter
					if c := victim.journal().Change; outcome == "done" && c != nil && c.Stage != steps.Finished {
						t.Errorf("%s, %s %d: %s", kinds[kind].name, op, nth, c.Stage)
					}
				case outcome == "unknown": // once confirmed it is finished whatever happens
					if w.hosts[0].journal().Change.Stage != victim.journal().Change.Stage {
						t.Errorf("%s, %s %d: the ends differ", kinds[kind].name, op, nth)
					}
				case outcome == "rolled back":
					t.Run(fmt.Sprintf("%s/%s %d", k.name, op, nth), func(t *testing.T) { w.same(t, before) })
				}
			}
		}
	}
}

// The disk is full, from any write on. What is open is undone in time all the same.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	var tried cases
	for _, k := range kinds {
		for nth := range 12 {
			if !tried.next() {
				continue
			}
			w := prepared(t, 2, k.former)
			before := w.picture()
			victim := w.hosts[0]
			written := victim.writes
			victim.refuse = func(what, _ string) error {
				if what == "write" && victim.writes > written+nth {
					return errors.New("no space left on device")
				}
				return nil
			}
			outcome := w.carryOut(w.plan(k.kind, 2, k.former), direct)
			w.advance(4 * timeout)
			if !w.works() && outcome != "unknown" && (outcome == "done" || victim.journal().Change.Stage == steps.Undone) {
				t.Errorf("%s, write %d, %s: not everything is taken that is sent while the disk is full", k.name, nth, outcome)
			}
			if outcome == "rolled back" && !slices.Equal(victim.policies(), before[0].policies) {
				t.Errorf("%s, write %d: policies are not as they were while the disk is full", k.name, nth)
			}
			victim.refuse = nil
			w.settle()
			if outcome == "rolled back" {
				t.Run(fmt.Sprintf("%s/%d", k.name, nth), func(t *testing.T) { w.same(t, before) })
			}
			if a, b := w.hosts[0].journal().Change, w.hosts[1].journal().Change; a != nil && b != nil && a.Begin.Change == b.Begin.Change && a.Stage != b.Stage {
				t.Errorf("%s, write %d, %s: %s and %s", k.name, nth, outcome, a.Stage, b.Stage)
			}
		}
	}
}

// The keeper is killed, and time goes by: whatever is asked next is asked of a host that has undone it.
func TestKeeperKilled(t *testing.T) {
	w := prepared(t, 2, 1)
	before := w.picture()
	w.carryOut(w.plan(steps.Rotate, 2, 1), until(steps.Confirm))
	for _, n := range w.hosts {
		n.keeps = false
	}
	w.advance(10 * timeout)
	started := 0
	for _, n := range w.hosts {
		n.refuse = func(what, _ string) error {
			if what == "keeper" {
				started++
			}
			return nil
		}
		n.restart()
		if p, err := n.host.State(t.Context()); err != nil || p.Stage != steps.Undone {
			t.Errorf("%s: %+v, %v", n.name, p, err)
		}
		n.keeps = true
	}
	if started != 2 {
		t.Errorf("%d keepers were started for what lingers", started)
	}
	w.settle()
	w.same(t, before)
}

// A clock that jumps, forward or back, undoes what is not confirmed, and nothing else.
func TestClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -30 * time.Minute} {
		for _, before := range []string{steps.Inbound, "sending", steps.Confirm} {
			w := prepared(t, 2, 1)
			was := w.picture()
			change := w.plan(steps.Rotate, 2, 1)
			w.carryOut(change, until(before))
			w.hosts[0].jump = jump
			w.advance(2 * time.Second)
			if got := w.hosts[0].journal().Change.Stage; got != steps.Undone {
				t.Errorf("%s before %s: %s", jump, before, got)
			}
			w.advance(4 * timeout)
			w.hosts[0].jump = 0
			w.settle()
			w.same(t, was)
			if len(w.unopened) > 0 || w.lost > 0 {
				t.Errorf("%s before %s: %v, %d lost", jump, before, w.unopened, w.lost)
			}
		}
	}
}

// A host that boots in the middle of a change has no SAs, and is guarded until its time is over.
func TestReboot(t *testing.T) {
	for _, k := range kinds {
		w := prepared(t, 2, k.former)
		w.carryOut(w.plan(k.kind, 2, k.former), until(steps.Confirm))
		n := w.hosts[0]
		n.sas, n.spd, n.boot = nil, nil, "second"
		n.jump = -n.now // a clock that begins anew
		n.restart()
		pairs, err := BootPairs(n.host.cfg.Dir)
		if want := 1 + k.former; err != nil || k.kind == steps.Apply && len(pairs) < 1 || k.kind == steps.Rotate && len(pairs) != want {
			t.Errorf("%s: %d pairs are guarded at boot, %v", k.name, len(pairs), err)
		}
		if p, err := n.host.State(t.Context()); err != nil || p.Stage != steps.Open {
			t.Errorf("%s: just booted, %+v, %v", k.name, p, err)
		}
		w.advance(timeout + 2*time.Second)
		p, err := n.host.State(t.Context())
		if k.former == 0 && p.Stage != steps.None { // nothing is owned, and so nothing is known
			t.Errorf("%s: %+v, %v", k.name, p, err)
		}
		if k.former > 0 && (err != nil || p.Stage != steps.Undone || !strings.Contains(p.Problem, "booted")) {
			t.Errorf("%s: %+v, %v", k.name, p, err)
		}
		if j := n.journal(); len(j.Owned) != k.former || len(n.sas) > 0 {
			t.Errorf("%s: %d owned, %d SAs", k.name, len(j.Owned), len(n.sas))
		}
		if k.kind == steps.Apply && len(n.guard) != k.former {
			t.Errorf("%s: %d pairs are guarded in the end", k.name, len(n.guard))
		}
	}
}

// Whoever asks a host that has booted meanwhile is told so, and nothing is put there.
func TestRebootAsked(t *testing.T) {
	for _, last := range []string{steps.Confirm, steps.Finish} {
		for _, ask := range []string{steps.Undo, steps.Confirm, steps.Finish, "policies"} {
			w := prepared(t, 2, 1)
			change := w.plan(steps.Rotate, 2, 1)
			w.carryOut(change, until(last))
			n := w.hosts[0]
			n.sas, n.spd, n.boot, n.jump = nil, nil, "second", -n.now+time.Second
			n.restart()
			q := steps.Question{Change: change.id}
			var p steps.Progress
			var err error
			switch ask {
			case steps.Undo:
				p, err = n.host.Undo(t.Context(), q)
			case steps.Confirm:
				p, err = n.host.Confirm(t.Context(), q)
			case steps.Finish:
				p, err = n.host.Finish(t.Context(), q)
			default:
				p, err = n.host.Policies(t.Context(), steps.PoliciesQuestion{Change: change.id, Part: steps.Accepting})
			}
			confirmed := last == steps.Finish && ask == steps.Confirm // which says what it has come to
			if (ask == "policies") != (err != nil) || err == nil && !confirmed && p.Stage != steps.Undone {
				t.Errorf("before %s, %s: %+v, %v", last, ask, p, err)
			}
			if len(n.spd)+len(n.sas) > 0 {
				t.Errorf("before %s, %s: something was put there", last, ask)
			}
		}
	}
}

// A change that somebody else has open keeps another from beginning, and says whose it is.
func TestOneAtATime(t *testing.T) {
	w := prepared(t, 2, 1)
	w.carryOut(w.plan(steps.Rotate, 2, 1), until(steps.Inbound))
	_, err := w.hosts[0].host.Begin(context.Background(), w.plan(steps.Rotate, 3, 1).begins[0])
	if err == nil || !strings.Contains(err.Error(), "given on here") || !strings.Contains(err.Error(), "undone in") {
		t.Error(err)
	}
	w.settle()
	if got := w.carryOut(w.plan(steps.Rotate, 4, 1), direct); got != "done" {
		t.Error("afterwards: ", got)
	}
}

// What could not be undone at once is tried again, until it can.
func TestTriedAgain(t *testing.T) {
	for _, op := range []string{"open", "delete SA", "update policy", "guard"} {
		w := prepared(t, 2, 1)
		before := w.picture()
		w.carryOut(w.plan(steps.Apply, 2, 1), until(steps.Confirm))
		n := w.hosts[0]
		n.refuse = func(what, _ string) error {
			if what == op {
				return errors.New("not now")
			}
			return nil
		}
		w.advance(2 * timeout)
		p, err := n.host.State(t.Context())
		if err != nil || p.Stage != steps.Undone || (op != "update policy") != strings.Contains(p.Problem, "not now") {
			t.Errorf("%s: %+v, %v", op, p, err)
		}
		n.refuse = nil
		w.settle()
		w.same(t, before)
		if p, err := n.host.State(t.Context()); err != nil || p.Problem != "" {
			t.Errorf("%s: %+v, %v", op, p, err)
		}
	}
}

// tidied asks a host for its facts, which leaves nothing where nothing is owned.
func (w *world) tidied(t *testing.T, host int) {
	t.Helper()
	h := w.hosts[host].host
	h.cfg.Gather = func(context.Context, string) (*tunnel.Facts, error) { return &tunnel.Facts{}, nil }
	if _, err := h.Facts(t.Context(), steps.FactsQuestion{}); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(h.cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something is left: ", left, err)
	}
}

// Who asks a host whose keeper was killed after tunnels were taken down takes away what it has left; not
// before it may be asked what has become of the change.
func TestKeeperKilledAfterDown(t *testing.T) {
	w := prepared(t, 2, 1)
	w.carryOut(w.plan(steps.Down, 2, 1), until(steps.Forget))
	h := w.hosts[0].host
	h.cfg.Gather = func(context.Context, string) (*tunnel.Facts, error) { return &tunnel.Facts{}, nil }
	w.hosts[0].keeps = false
	if _, err := h.Facts(t.Context(), steps.FactsQuestion{}); err != nil {
		t.Error(err)
	}
	if p, err := h.State(t.Context()); err != nil || p.Stage != steps.Finished {
		t.Errorf("%+v, %v", p, err)
	}
	w.advance(5 * timeout)
	w.tidied(t, 0)
}

// A keeper ends when nothing is left to do, and leaves nothing where nothing is owned; there is only one.
func TestKeep(t *testing.T) {
	w := prepared(t, 2, 1)
	h := w.hosts[0].host
	fail := func(err error) { t.Error(err) }
	other, err := lockFile(filepath.Join(h.cfg.Dir, keeperName))
	if err != nil {
		t.Fatal(err)
	}
	w.carryOut(w.plan(steps.Down, 2, 1), until(steps.Forget))
	if err := h.Keep(t.Context(), fail); err != nil || w.hosts[0].idle() != true {
		t.Error("beside another: ", err)
	}
	other.Close()
	if _, err := os.Stat(h.cfg.Dir); err != nil {
		t.Error(err)
	}
	w.advance(5 * timeout)
	os.WriteFile(filepath.Join(h.cfg.Dir, journalName+unfinished+"7"), nil, 0o600)
	if err := h.Keep(t.Context(), fail); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(h.cfg.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something is left: ", err)
	}
	if p, err := h.State(t.Context()); err != nil || p.Stage != steps.None {
		t.Errorf("%+v, %v", p, err)
	}
	w.tidied(t, 0)
	if got := w.carryOut(w.plan(steps.Apply, 3, 0), direct); got != "done" {
		t.Error("afterwards: ", got)
	}
}

// The time of day is set. SAs are as old as they are; where Linux would go on sending by the old ones, it is said.
func TestTimeOfDayIsSet(t *testing.T) {
	w := prepared(t, 2, 1)
	before := w.picture()
	age := func() time.Duration {
		owned, err := inPlan(w.hosts[0].journal().Owned, w.hosts[0])
		if err != nil || len(owned) != 1 {
			t.Fatalf("%d owned, %v", len(owned), err)
		}
		return owned[0].Age
	}
	w.advance(10 * time.Minute)
	was := age()
	w.hosts[0].set = 24 * time.Hour
	w.advance(time.Minute)
	if got := age(); got != was+time.Minute || got < 11*time.Minute || got > 20*time.Minute {
		t.Errorf("%s old, and a minute before %s", got, was)
	}
	w.hosts[0].set = -30 * time.Minute
	said := ""
	got := w.carryOut(w.plan(steps.Rotate, 2, 1), func(_, _ int, _ string, deliver func() error) error {
		err := deliver()
		if err != nil {
			said = err.Error()
		}
		return err
	})
	if got != "rolled back" || !strings.Contains(said, "set back") {
		t.Errorf("%s: %s", got, said)
	}
	w.settle()
	w.same(t, before)
	w.hosts[0].boot = "second"
	if got := age(); got != 0 {
		t.Errorf("%s old after a boot", got)
	}
}
