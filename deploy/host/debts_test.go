package host

import (
	"errors"
	"strings"
	"testing"

	"espalier/deploy/steps"
	"espalier/xfrm"
)

// What an undo could not do is done later, whatever has begun meanwhile: nothing about the same pair may.
func TestDebtsOfAnUndo(t *testing.T) {
	w := prepared(t, 3, 0)
	first := w.plan(steps.Apply, 1, 0)
	w.carryOut(first, until("sending"))
	n, peer := w.hosts[0], w.hosts[1].addr
	stuck := true
	n.refuse = func(op, what string) error {
		if stuck && op == "delete policy" && strings.Contains(what, peer.String()) {
			return errors.New("the engine is busy")
		}
		return nil
	}
	if p, err := n.host.Undo(t.Context(), steps.Question{Change: first.id}); err != nil || p.Problem == "" {
		t.Fatalf("%+v, %v", p, err)
	}
	again := w.plan(steps.Apply, 2, 0).begins[0]
	if _, err := n.host.Begin(t.Context(), again); err == nil || !strings.Contains(err.Error(), "the engine is busy; it is tried again every second") {
		t.Errorf("a change of the same pair: %v", err)
	}
	for i := range again.Pairs {
		if again.Pairs[i].Remote != peer {
			again.Pairs = again.Pairs[i : i+1]
			break
		}
	}
	if _, err := n.host.Begin(t.Context(), again); err != nil {
		t.Fatalf("a change of another pair: %v", err)
	}
	stuck = false
	w.advance(5 * Every)
	for _, p := range n.spd {
		if p.Dir == xfrm.PolicyOut {
			t.Errorf("left over: %s", p.ID())
		}
	}
	if j := n.journal(); len(j.Debts) != 0 || !j.Change.open() {
		t.Errorf("%d debts, %+v", len(j.Debts), j.Change)
	}
}
