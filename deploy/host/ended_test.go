package host

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/deploy/steps"
)

// inEngine has all pairs of a change be in an engine.
func (p *planned) inEngine(engine string) *planned {
	for i := range p.begins {
		for k := range p.begins[i].Pairs {
			p.begins[i].Pairs[k].Engine = engine
		}
	}
	return p
}

// A userspace device that was started anew somewhere else is still the one that has the tunnel. What is
// owned in one that has ended can be taken down, and nothing can be put there.
func TestDeviceMoved(t *testing.T) {
	const before, after = "unix:/run/espalier/1/p4p1.sock", "unix:/run/espalier/2/p4p1.sock"
	w := newWorld(t, 2)
	if got := w.carryOut(w.plan(steps.Apply, 1, 0).inEngine(before), direct); got != "done" {
		t.Fatal(got)
	}
	n := w.hosts[0]
	if _, err := n.host.Begin(t.Context(), w.plan(steps.Apply, 2, 1).inEngine(after).begins[0]); err == nil || !strings.Contains(err.Error(), "take it down before") {
		t.Error("while the other one is there: ", err)
	}
	var gone string
	for _, n := range w.hosts {
		n.sas, n.spd = nil, nil
		n.refuse = func(op, what string) error {
			if op == "open" && what == gone {
				return fmt.Errorf("connect to %s: nobody listens: %w", what, syscall.ECONNREFUSED)
			}
			return nil
		}
	}
	gone = before
	if _, err := n.host.Begin(t.Context(), w.plan(steps.Apply, 2, 0).inEngine(before).begins[0]); err == nil || !strings.Contains(err.Error(), "nobody listens") {
		t.Error("in a device that has ended: ", err)
	}
	if got := w.carryOut(w.plan(steps.Apply, 2, 0).inEngine(after), direct); got != "done" || !w.works() {
		t.Error("moved: ", got)
	}
	if o := n.journal().Owned; len(o) != 1 || o[0].Engine != after {
		t.Errorf("%+v", o)
	}
	gone = after
	n.sas, n.spd = nil, nil
	change, said := w.plan(steps.Down, 3, 2).inEngine(after), ""
	got := w.carryOut(change, func(_, host int, operation string, deliver func() error) error {
		err := deliver()
		if p, _ := n.host.Finish(t.Context(), steps.Question{Change: change.id}); operation == steps.Finish && host == 0 {
			said = p.Problem
		}
		return err
	})
	if got != "done" || n.guard != nil || !strings.Contains(said, "espalier dataplane --release --dev p4p1") {
		t.Error("down: ", got, n.guard, said)
	}
	w.tidied(t, 0)
}

// What a namespace with a name has is where the next one of that name looks for it.
func TestDirOfNamedNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("network namespaces take root")
		}
		t.Skip("network namespaces take root")
	}
	runtime.LockOSThread() // and the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	dir := func() string {
		d, err := Dir("/s")
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	unnamed, boot := dir(), ThisBoot()
	name := fmt.Sprintf("espalier-host-%d", os.Getpid())
	file := filepath.Join("/run/netns", name)
	t.Cleanup(func() { os.Remove(file) })
	for range 2 {
		if err := os.MkdirAll("/run/netns", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", file, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		if got := dir(); got != "/s/tunnels-netns-"+name || got == unnamed {
			t.Error(got)
		}
		if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Fatal(err)
		}
	}
	if again := ThisBoot(); again == boot || !strings.HasPrefix(unnamed, "/s/tunnels-") {
		t.Errorf("%s, as before; %s", again, unnamed)
	}
}
