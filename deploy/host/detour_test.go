package host

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"espalier/deploy/boot"
	"espalier/deploy/steps"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tunnel"
)

// detoured is a world of two hosts whose ssh goes from the first to the second by the tunnel between them.
func detoured(t *testing.T) (*world, *planned) {
	t.Helper()
	w := newWorld(t, 2)
	p := w.withSSH(w.plan(steps.Apply, 1, 0))
	if said := w.carryOut(p, direct); said != "done" {
		t.Fatal(said)
	}
	w.settle()
	return w, p
}

func (w *world) withSSH(p *planned) *planned {
	a, b := w.hosts[0].addr, w.hosts[1].addr
	p.begins[0].Pairs[0].Detours = []tunnel.Detour{{Local: a, Remote: b, Port: 22}}
	p.begins[1].Pairs[0].Detours = []tunnel.Detour{{Local: b, Remote: a, Port: 22, Serves: true}}
	return p
}

// reboot takes what a host has in memory.
func (n *node) reboot() {
	n.sas, n.spd, n.boot, n.jump = nil, nil, "second", -n.now
	n.restart()
}

// ssh reports whether a packet from the first host to the server on the second goes in clear, and back.
func (w *world) ssh(t *testing.T) (clear bool) {
	t.Helper()
	a, b := w.hosts[0], w.hosts[1]
	before := w.clear
	there := a.send(Flow{Src: a.addr, Dst: b.addr, Protocol: inet.ProtoTCP, SrcPort: 40000, DstPort: 22}, true)
	back := b.send(Flow{Src: b.addr, Dst: a.addr, Protocol: inet.ProtoTCP, SrcPort: 22, DstPort: 40000}, true)
	return there && back && w.clear == before+2
}

func open(pairs []boot.Pair) bool {
	return slices.ContainsFunc(pairs, func(p boot.Pair) bool { return p.Open })
}

// TestDetour: when a host has been booted, ssh to it goes outside of the tunnel until a rotation has brought that back.
func TestDetour(t *testing.T) {
	w, _ := detoured(t)
	w.chatter = false
	a, b := w.hosts[0], w.hosts[1]
	before, owned := a.policies(), b.journal().Owned[0].Detours
	if w.ssh(t) || open(a.guard) || open(b.guard) || len(owned) != 1 || !owned[0].Serves {
		t.Fatalf("in the beginning: guards %+v, %+v; %+v", a.guard, b.guard, owned)
	}
	b.reboot()
	pairs, err := BootPairs(b.host.cfg.Dir)
	bare, done := b.host.Bare(t.Context())
	defer done()
	if err != nil || len(pairs) != 1 || !bare(pairs[0]) {
		t.Errorf("after a boot: %+v, %v", pairs, err)
	}
	if bare, done := a.host.Bare(t.Context()); bare(pairs[0]) {
		t.Error("the other host is taken for one that has been booted")
	} else {
		done()
	}
	if w.ssh(t) {
		t.Error("ssh goes in clear by itself")
	}

	q := steps.DetourQuestion{Remotes: []netip.Addr{b.addr}}
	for range 2 {
		answer, err := a.host.Detour(t.Context(), q)
		if err != nil || !slices.Equal(answer.Tunnels, []string{"db"}) {
			t.Fatalf("%+v, %v", answer, err)
		}
		if !w.ssh(t) || !open(a.guard) {
			t.Errorf("ssh does not pass: %q", a.policies())
		}
	}
	w.advance(5 * time.Second)
	if !w.ssh(t) {
		t.Error("the keeper has ended it although it is needed")
	}
	for _, f := range []Flow{{Src: a.addr, Dst: b.addr, Protocol: inet.ProtoTCP, SrcPort: 22, DstPort: 80}, {Src: a.addr, Dst: b.addr, Protocol: inet.ProtoUDP, DstPort: 22}} {
		if clear := w.clear; a.send(f, true) || w.clear > clear {
			t.Errorf("%+v goes in clear", f)
		}
	}
	if said := w.carryOut(w.withSSH(w.plan(steps.Rotate, 2, 1)), direct); said != "done" {
		t.Fatal(said)
	}
	w.settle()
	if after := a.policies(); !slices.Equal(after, before) || open(a.guard) || open(b.guard) || len(a.journal().Detours) > 0 || !w.works() {
		t.Errorf("after the rotation: %q; guards %+v, %+v; %+v", after, a.guard, b.guard, a.journal().Detours)
	}
}

// TestDetourEnds: it ends when it is told to, and with the process that has asked for it.
func TestDetourEnds(t *testing.T) {
	for _, how := range []string{"told", "killed", "booted"} {
		w, _ := detoured(t)
		w.chatter = false
		a, b := w.hosts[0], w.hosts[1]
		before := a.policies()
		b.reboot()
		if _, err := a.host.Detour(t.Context(), steps.DetourQuestion{Remotes: []netip.Addr{b.addr}}); err != nil {
			t.Fatal(err)
		}
		switch how {
		case "told":
			if _, err := a.host.Detour(t.Context(), steps.DetourQuestion{Remotes: []netip.Addr{b.addr}, End: true}); err != nil {
				t.Fatal(err)
			}
		case "killed":
			dead := exec.Command("true")
			if err := dead.Run(); err != nil {
				t.Fatal(err)
			}
			j := a.journal()
			j.Detours[0].For = []processID{{dead.Process.Pid, begun(os.Getpid()), a.boot}}
			if err := a.host.write(j); err != nil {
				t.Fatal(err)
			}
			w.advance(2 * time.Second)
		case "booted":
			a.boot = "second"
			w.advance(2 * time.Second)
		}
		if after := a.policies(); !slices.Equal(after, before) || open(a.guard) || len(a.journal().Detours) > 0 {
			t.Errorf("%s: %q; guard %+v; %+v", how, after, a.guard, a.journal().Detours)
		}
	}
}

// TestDetourUndone: a rotation that fails leaves the booted host open to ssh, and the other one closed.
func TestDetourUndone(t *testing.T) {
	w, _ := detoured(t)
	w.chatter = false
	a, b := w.hosts[0], w.hosts[1]
	b.reboot()
	if _, err := a.host.Detour(t.Context(), steps.DetourQuestion{Remotes: []netip.Addr{b.addr}}); err != nil {
		t.Fatal(err)
	}
	p := w.withSSH(w.plan(steps.Rotate, 2, 1))
	if said := w.carryOut(p, func(_, host int, operation string, deliver func() error) error {
		if operation == "probe again" {
			return errors.New("refused")
		}
		return deliver()
	}); said != "rolled back" {
		t.Fatal(said)
	}
	w.advance(timeout)
	if !open(b.guard) || open(a.guard) {
		t.Errorf("guards %+v, %+v", a.guard, b.guard)
	}
	if _, err := a.host.Detour(t.Context(), steps.DetourQuestion{Remotes: []netip.Addr{b.addr}}); err != nil || !w.ssh(t) {
		t.Errorf("ssh does not pass again: %v", err)
	}
}

// TestDownAfterBoot: what a boot has taken is no more guarded either.
func TestDownAfterBoot(t *testing.T) {
	w, _ := detoured(t)
	b := w.hosts[1]
	b.reboot()
	p := w.plan(steps.Down, 2, 1)
	p.begins[1].Pairs[0].Gone = nil // as a plan has it, where nothing is there
	if said := w.carryOut(p, direct); said != "done" {
		t.Fatal(said)
	}
	w.settle()
	if len(b.guard)+len(b.journal().Owned) > 0 {
		t.Errorf("guarded still: %+v, owned %+v", b.guard, b.journal().Owned)
	}
}

// TestDetourTakesNothingOver: a policy for ssh that somebody has is left alone.
func TestDetourTakesNothingOver(t *testing.T) {
	w, _ := detoured(t)
	a, b := w.hosts[0], w.hosts[1]
	d := tunnel.Detour{Local: a.addr, Remote: b.addr, Port: 22}
	owned, err := inPlan(a.journal().Owned, a)
	if err != nil {
		t.Fatal(err)
	}
	theirs := d.Policies(owned[0].Policies)[1]
	theirs.Action, theirs.Priority = ipsec.Discard, 7
	xp, err := steps.LinuxPolicy(&theirs)
	if err == nil {
		err = a.AddPolicy(t.Context(), xp)
	}
	before := a.policies()
	if err != nil {
		t.Fatal(err)
	}
	if answer, err := a.host.Detour(t.Context(), steps.DetourQuestion{Remotes: []netip.Addr{b.addr}}); err == nil || len(answer.Tunnels) > 0 || !slices.Equal(a.policies(), before) {
		t.Errorf("%+v, %v", answer, err)
	}
}
