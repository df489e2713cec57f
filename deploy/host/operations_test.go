package host

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/tunnel"
	"espalier/xfrm"
)

// Every message is delivered twice: nothing is different.
func TestTwice(t *testing.T) {
	for kind, k := range kinds {
		after := ideal(t, kind, 2)
		w := prepared(t, 2, k.former)
		got := w.carryOut(w.plan(k.kind, 2, k.former), func(_, _ int, operation string, deliver func() error) error {
			if err := deliver(); err != nil {
				return err
			}
			if err := deliver(); err != nil {
				t.Errorf("%s: %s for the second time: %v", k.name, operation, err)
			}
			return nil
		})
		w.settle()
		for i, now := range w.picture() {
			if got != "done" || !now.equal(after[i]) {
				t.Errorf("%s: %s, %s is otherwise", k.name, got, w.hosts[i].name)
			}
		}
	}
}

// Undone after any step, by the coordinator's word and twice, everything is as it was, but for what lingers.
func TestUndoFromEachStep(t *testing.T) {
	t.Parallel()
	var tried cases
	for _, k := range kinds {
		for _, last := range []string{steps.Inbound, steps.Outbound, "accepting", "sending", steps.Probe, "required", steps.Guard, "probe again", steps.Confirm, steps.Finish} {
			if k.kind == steps.Down && strings.Contains("inbound outbound required probe again tunnel-probe tunnel-guard tunnel-inbound tunnel-outbound", last) {
				continue
			}
			if !tried.next() {
				continue
			}
			w := prepared(t, 2, k.former)
			before := w.picture()
			change := w.plan(k.kind, 2, k.former)
			w.carryOut(change, until(last))
			for _, n := range w.hosts {
				for range 2 {
					p, err := n.host.Undo(t.Context(), steps.Question{Change: change.id})
					if err != nil || p.Stage != steps.Undone || p.Problem != "" {
						t.Errorf("%s before %s: %+v, %v", k.name, last, p, err)
					}
				}
				if len(n.guard) != len(n.journal().Owned) && n.guarded > 0 {
					t.Errorf("%s before %s: %d pairs are guarded, %d owned", k.name, last, len(n.guard), len(n.journal().Owned))
				}
			}
			for i, now := range w.picture() {
				if strings.Join(now.policies, "\n") != strings.Join(before[i].policies, "\n") {
					t.Errorf("%s before %s: policies are not as they were:\n%v\nwant\n%v", k.name, last, now.policies, before[i].policies)
				}
			}
			w.settle()
			w.same(t, before)
			if _, err := w.hosts[0].host.Confirm(t.Context(), steps.Question{Change: "another"}); err == nil {
				t.Error("a change that nobody has begun was confirmed")
			}
			if p, err := w.hosts[0].host.Confirm(t.Context(), steps.Question{Change: change.id}); err != nil || p.Stage != steps.Undone {
				t.Errorf("%s before %s: confirmed afterwards: %+v, %v", k.name, last, p, err)
			}
		}
	}
}

// A confirmed change is taken back from elsewhere only as long as no peer can have decided by itself.
func TestLateUndo(t *testing.T) {
	w := prepared(t, 2, 1)
	change := w.plan(steps.Rotate, 2, 1)
	w.carryOut(change, until(steps.Finish))
	w.advance(timeout + lateUndo)
	for _, n := range w.hosts {
		if p, err := n.host.Undo(t.Context(), steps.Question{Change: change.id}); err != nil || p.Stage != steps.Confirmed || !strings.Contains(p.Problem, "too late") {
			t.Errorf("%+v, %v", p, err)
		}
	}
	w.settle()
	for _, n := range w.hosts {
		if p, err := n.host.State(t.Context()); err != nil || p.Stage != steps.Finished {
			t.Errorf("%+v, %v", p, err)
		}
		if p, err := n.host.Undo(t.Context(), steps.Question{Change: change.id}); err != nil || p.Stage != steps.Finished {
			t.Errorf("undone when it was finished: %+v, %v", p, err)
		}
	}
}

// Where another host began later, it is taken back until that one can have decided.
func TestLaterUndo(t *testing.T) {
	for _, later := range []time.Duration{0, timeout / 2} {
		w := prepared(t, 2, 1)
		change := w.plan(steps.Rotate, 2, 1)
		w.carryOut(change, until(steps.Confirm))
		w.advance(timeout / 2)
		n := w.hosts[0]
		if p, err := n.host.Confirm(t.Context(), steps.Question{Change: change.id, Later: later}); err != nil || p.Stage != steps.Confirmed {
			t.Fatalf("%+v, %v", p, err)
		}
		c := n.journal().Change
		if c.Deadline+c.Later+lateUndo >= decidesFrom(c) {
			t.Errorf("taken back until %s, and peers decide from %s", c.Deadline+c.Later+lateUndo, decidesFrom(c))
		}
		w.advance(c.Deadline + lateUndo + time.Second - n.Now())
		p, err := n.host.Undo(t.Context(), steps.Question{Change: change.id})
		if err != nil || (p.Stage == steps.Undone) != (later > 0) {
			t.Errorf("%s later: %+v, %v", later, p, err)
		}
	}
}

// Nobody confirms without having seen the peers' probes.
func TestConfirmTakesProbes(t *testing.T) {
	w := prepared(t, 2, 0)
	change := w.plan(steps.Apply, 2, 0)
	w.cut = true
	if got := w.carryOut(change, direct); got != "rolled back" {
		t.Error(got)
	}
	w = prepared(t, 2, 0)
	change = w.plan(steps.Apply, 2, 0)
	w.carryOut(change, until(steps.Probe))
	if _, err := w.hosts[0].host.Confirm(t.Context(), steps.Question{Change: change.id}); err == nil || !strings.Contains(err.Error(), "no probes") {
		t.Error(err)
	}
}

// What is somebody else's is not touched, and what cannot be meant is refused before anything is written.
func TestBeginRefuses(t *testing.T) {
	foreign := func(w *world) *xfrm.Policy {
		p, err := xfrm.DecodePolicy(pairPolicies(t.Fatal, w.hosts[0].addr, w.hosts[1].addr, 7)[0])
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		name   string
		change func(w *world, q *steps.BeginQuestion)
		want   string // "" if it is taken
	}{
		{"as it is", func(*world, *steps.BeginQuestion) {}, ""},
		{"another's policy", func(w *world, _ *steps.BeginQuestion) { w.hosts[0].AddPolicy(context.Background(), foreign(w)) }, "--adopt"},
		{"another's policy, which may be adopted", func(w *world, q *steps.BeginQuestion) {
			w.hosts[0].AddPolicy(context.Background(), foreign(w))
			q.Pairs[0].Adopt = true
		}, ""},
		{"an SPI that is taken", func(w *world, q *steps.BeginQuestion) {
			s, _ := xfrm.DecodeState(state(w, 1, 0, 2, 1, ipsec.RandomKey(20)))
			w.hosts[0].AddState(context.Background(), s)
		}, "out there already"},
		{"another's SA to be deleted", func(w *world, q *steps.BeginQuestion) { q.Pairs[0].Old = []tunnel.SAID{said(w, 0, 1, 9)} }, "not espalier's"},
		{"no name", func(_ *world, q *steps.BeginQuestion) { q.Change = "" }, "no name"},
		{"no such kind", func(_ *world, q *steps.BeginQuestion) { q.Kind = "up" }, "kind"},
		{"no time", func(_ *world, q *steps.BeginQuestion) { q.Timeout = 0 }, "undone after"},
		{"a long grace", func(_ *world, q *steps.BeginQuestion) { q.Grace = 48 * time.Hour }, "kept for"},
		{"no addresses", func(_ *world, q *steps.BeginQuestion) { q.Pairs[0].Local = q.Pairs[0].Remote }, "two addresses"},
		{"no engine", func(_ *world, q *steps.BeginQuestion) { q.Pairs[0].Engine = "" }, "no engine"},
		{"a pair twice", func(_ *world, q *steps.BeginQuestion) { q.Pairs = append(q.Pairs, q.Pairs[0]) }, "twice"},
		{"one direction", func(_ *world, q *steps.BeginQuestion) { q.Pairs[0].Outbound = nil }, "one direction"},
		{"a stranger's SA", func(_ *world, q *steps.BeginQuestion) {
			q.Pairs[0].Inbound[0].Src = q.Pairs[0].Inbound[0].Src.Next().Next().Next()
		}, "not of the pair"},
		{"a reserved SPI", func(_ *world, q *steps.BeginQuestion) { q.Pairs[0].Inbound[0].SPI = 255 }, "reserved"},
		{"a policy that cannot be read", func(_ *world, q *steps.BeginQuestion) { q.Pairs[0].Policies[0] = []byte{1} }, ""},
		{"a pair that goes and gets SAs", func(_ *world, q *steps.BeginQuestion) { q.Kind = steps.Down }, "to go"},
	} {
		w := newWorld(t, 2)
		change := w.plan(steps.Apply, 2, 0)
		q := change.begins[0]
		c.change(w, &q)
		before := w.picture()
		_, err := w.hosts[0].host.Begin(t.Context(), q)
		unreadable := c.name == "a policy that cannot be read"
		switch {
		case c.want == "" && !unreadable:
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		case err == nil || !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %v, want something about %q", c.name, err, c.want)
		}
		if w.hosts[0].journal().Change != nil || !w.picture()[0].equal(before[0]) {
			t.Errorf("%s: something was written or changed", c.name)
		}
	}
}

// Only SAs that Begin has announced are added, with keys that were never sent with, and no key is left.
func TestInboundRefuses(t *testing.T) {
	w := newWorld(t, 2)
	change := w.plan(steps.Apply, 2, 0)
	h := w.hosts[0].host
	if _, err := h.Begin(t.Context(), change.begins[0]); err != nil {
		t.Fatal(err)
	}
	key := ipsec.RandomKey(20)
	for name, payload := range map[string][]byte{
		"another SPI":          state(w, 1, 0, 3, 101, key),
		"the wrong way":        state(w, 0, 1, 2, 101, key),
		"what is no SA at all": {1, 2, 3},
	} {
		given := bytes.Clone(payload)
		if _, err := h.Inbound(t.Context(), steps.SAsQuestion{Change: change.id, SAs: [][]byte{given}}); err == nil {
			t.Errorf("%s was added", name)
		}
		if !bytes.Equal(given, make([]byte, len(given))) {
			t.Errorf("%s: its key is left", name)
		}
	}
	if _, err := h.Inbound(t.Context(), steps.SAsQuestion{Change: "another", SAs: nil}); err == nil {
		t.Error("SAs of another change were added")
	}
	used := bytes.Clone(change.out[0][0])
	if _, err := h.Outbound(t.Context(), steps.SAsQuestion{Change: change.id, SAs: [][]byte{bytes.Clone(used)}}); err != nil {
		t.Fatal(err)
	}
	w.hosts[0].sas = nil // it is deleted; its key has been used
	if _, err := h.Outbound(t.Context(), steps.SAsQuestion{Change: change.id, SAs: [][]byte{used}}); err == nil || !strings.Contains(err.Error(), "nonces") {
		t.Errorf("a key for the second time: %v", err)
	}
}

// Ports of UDP encapsulation are held from before SAs are there until they are gone, whatever becomes of
// a change.
func TestPortsHeld(t *testing.T) {
	encapsulated := func(w *world, kind steps.Kind, generation, former int) *planned {
		p := w.plan(kind, generation, former)
		for i := range w.hosts {
			for _, list := range [][][]byte{p.in[i], p.out[i]} {
				for n, payload := range list {
					s, err := xfrm.DecodeState(payload)
					if err != nil {
						t.Fatal(err)
					}
					s.Encap = &xfrm.EncapTmpl{Type: xfrm.EncapESPInUDP, SrcPort: 4500, DstPort: 4501}
					if list[n], err = xfrm.EncodeState(s); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		return p
	}
	w := newWorld(t, 2)
	held := func(when string, want int) {
		t.Helper()
		for _, n := range w.hosts {
			if len(n.held) != want {
				t.Errorf("%s, %s: %v is held, want %d ports", when, n.name, n.held, want)
			}
		}
	}
	w.carryOut(encapsulated(w, steps.Apply, 1, 0), until("accepting"))
	held("SAs are there", 2) // each is sent from one port, and received by the other
	w.advance(timeout + time.Second)
	held("undone, and lingering", 2)
	w.settle()
	held("gone", 0)
	if got := w.carryOut(encapsulated(w, steps.Apply, 2, 0), direct); got != "done" {
		t.Fatal(got)
	}
	held("applied", 2)
	down := w.plan(steps.Down, 3, 2)
	w.carryOut(down, until(steps.Confirm))
	held("to be taken down", 2)
	for _, n := range w.hosts {
		n.held = nil // whoever did it was killed meanwhile
	}
	w.settle()
	held("not taken down", 2)
	if got := w.carryOut(w.plan(steps.Down, 4, 2), direct); got != "done" {
		t.Fatal(got)
	}
	held("taken down", 0)
}

// Old SAs are kept for a while; where there are none, nobody waits.
func TestGrace(t *testing.T) {
	for _, k := range kinds {
		w := prepared(t, 2, k.former)
		change := w.plan(k.kind, 2, k.former)
		w.carryOut(change, until(steps.Finish))
		begun := w.now
		if p, err := w.hosts[0].host.Finish(t.Context(), steps.Question{Change: change.id}); err != nil || p.Stage != steps.Finished {
			t.Fatalf("%+v, %v", p, err)
		}
		want := grace
		if k.former == 0 {
			want = 0
		}
		if got := w.now - begun; got != want {
			t.Errorf("%s: finished after %s, want %s", k.name, got, want)
		}
	}
}
