package host

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/deploy/steps"
)

// Once all are known to have finished, nobody speaks any more, and keepers have nothing left to do; what is
// owned stays. Before that nothing is forgotten.
func TestForget(t *testing.T) {
	for _, k := range kinds {
		w := prepared(t, 2, k.former)
		change := w.plan(k.kind, 2, k.former)
		q := steps.Question{Change: change.id}
		w.carryOut(change, until(steps.Finish))
		if _, err := w.hosts[0].host.Forget(t.Context(), q); err == nil {
			t.Errorf("%s: forgotten before it was finished", k.name)
		}
		for _, n := range w.hosts {
			if _, err := n.host.Finish(t.Context(), q); err != nil {
				t.Errorf("%s: %v", k.name, err)
			}
		}
		for _, n := range w.hosts {
			if pending, err := n.host.Tick(t.Context()); err != nil || !pending {
				t.Errorf("%s: %v; nothing is left to do for %s, and the others may not have finished", k.name, err, n.name)
			}
			for range 2 {
				if _, err := n.host.Forget(t.Context(), q); err != nil {
					t.Errorf("%s: %v", k.name, err)
				}
			}
			pending, err := n.host.Tick(t.Context())
			if owned := len(n.journal().Owned); err != nil || pending || (owned == 0) != (k.kind == steps.Down) {
				t.Errorf("%s: %v, something is left to do: %t, %d owned", k.name, err, pending, owned)
			}
			if _, err := os.Stat(n.host.cfg.Dir); os.IsNotExist(err) != (k.kind == steps.Down) {
				t.Errorf("%s: %v", k.name, err)
			}
		}
	}
}

// What lingers of a change that was undone goes with the next one that all have finished.
func TestForgetLingering(t *testing.T) {
	w := prepared(t, 2, 1)
	w.carryOut(w.plan(steps.Rotate, 2, 1), func(_, _ int, operation string, deliver func() error) error {
		if operation == steps.Probe {
			return errors.New("no")
		}
		return deliver()
	})
	n := w.hosts[0]
	if len(n.sas) != 3 || len(n.journal().Lingering) != 1 {
		t.Fatal(n.sad(), n.journal().Lingering)
	}
	if got := w.carryOut(w.plan(steps.Down, 3, 1), direct); got != "done" || len(n.sas) > 0 {
		t.Error(got, n.sad())
	}
	w.tidied(t, 0)
}

// A keeper ends when everything is forgotten, and whoever asks for that waits until it has.
func TestForgetEndsKeeper(t *testing.T) {
	w := prepared(t, 2, 1)
	change := w.plan(steps.Down, 2, 1)
	w.carryOut(change, until(steps.Forget))
	h := w.hosts[0].host
	path := filepath.Join(h.cfg.Dir, keeperName)
	ended := make(chan error, 1)
	go func() { ended <- h.Keep(t.Context(), func(err error) { t.Error(err) }) }()
	for kept := false; !kept; time.Sleep(time.Millisecond) {
		lock, err := lockFile(path)
		if kept = err != nil; !kept {
			lock.Close()
		}
	}
	lock, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if _, err := h.Forget(t.Context(), steps.Question{Change: change.id}); err != nil {
		t.Error(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Error("the keeper is still there: ", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(h.cfg.Dir); !os.IsNotExist(err) {
		t.Error("the keeper has left something: ", err)
	}
}

func TestWatchRemoval(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, name := range []string{path, path + "2"} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	removed, stop := watchRemoval(path)
	defer stop()
	os.Remove(path + "2")
	select {
	case <-removed:
		t.Error("another file was removed")
	default:
	}
	os.Remove(path)
	<-removed
}
