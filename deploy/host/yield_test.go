package host

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/tunnel"
)

// wedged is a world whose coordinator died when host 0 had confirmed, and whose host 1 was booted then.
func wedged(t *testing.T, kind steps.Kind, former int) (w *world, confirmed *planned) {
	w = prepared(t, 2, former)
	confirmed = w.plan(kind, 2, former)
	w.carryOut(confirmed, func(_, host int, operation string, deliver func() error) error {
		if operation == steps.Confirm && host == 1 {
			panic(died{})
		}
		return deliver()
	})
	n := w.hosts[1]
	n.sas, n.spd, n.boot = nil, nil, "second"
	n.jump = -n.now
	n.restart()
	return w, confirmed
}

// again plans a change of what there is now, as package tunnel does.
func (w *world) again(kind steps.Kind, generation int) *planned {
	p := w.plan(kind, generation, 1)
	for i, n := range w.hosts {
		end := &p.begins[i].Pairs[0]
		end.Old = n.stays()
	}
	return p
}

// stays are the SAs that do not linger only.
func (n *node) stays() (ids []tunnel.SAID) {
	for _, s := range n.sas {
		id := tunnel.SAID{SAID: ipsec.SAID{Dst: s.Dst, SPI: s.SPI}, Src: s.Src}
		if !slices.ContainsFunc(n.journal().Lingering, func(l Lingering) bool { return l.ID == id }) {
			ids = append(ids, id)
		}
	}
	return ids
}

// A host that has confirmed and hears nothing takes another change in time, and nothing of either
// generation is lost by that; afterwards both ends agree.
func TestGivesWay(t *testing.T) {
	t.Parallel()
	var tried cases
	for _, k := range kinds {
		for _, next := range []steps.Kind{steps.Apply, steps.Down, "undone"} {
			if !tried.next() {
				continue
			}
			w, confirmed := wedged(t, k.kind, k.former)
			n := w.hosts[0]
			n.host.cfg.Gather = func(context.Context, string) (*tunnel.Facts, error) { return &tunnel.Facts{}, nil }
			complain := func(format string, args ...any) {
				t.Helper()
				t.Errorf("%s, then %s: "+format, append([]any{k.name, next}, args...)...)
			}
			facts := func() *tunnel.Facts {
				f, err := n.host.Facts(t.Context(), steps.FactsQuestion{})
				if err != nil {
					t.Fatal(err)
				}
				return f
			}
			f := facts()
			if _, err := n.host.Begin(t.Context(), w.again(steps.Apply, 3).begins[0]); err == nil || !strings.Contains(err.Error(), "another one can begin in 4") || err.Error() != f.Change {
				complain("begun at once: %v, %q", err, f.Change)
			}
			if f.ChangeLeft <= timeout || f.ChangeLeft > timeout+steps.GivesWay {
				complain("%s is left", f.ChangeLeft)
			}
			if was := n.journal().Change.Begin.Change; was != confirmed.id {
				complain("a change that was refused is in the journal: %s", was)
			}
			w.advance(f.ChangeLeft + time.Second)
			before, guard := w.picture()[0], n.guard
			both := n.stays()
			if f := facts(); f.Change != "" || f.ChangeLeft != 0 || len(f.Owned) != 1 || !f.Owned[0].Undecided ||
				len(f.Owned[0].Inbound)+len(f.Owned[0].Outbound) != len(n.sas) {
				complain("%+v, %d SAs", f, len(n.sas))
			}
			if n.journal().Change.Stage != steps.Confirmed || !w.picture()[0].equal(before) {
				complain("asking has changed something")
			}
			kind, via := next, wire(direct)
			if next == "undone" {
				kind, via = steps.Apply, until(steps.Confirm)
			}
			got := w.carryOut(w.again(kind, 3), via)
			w.lost, w.unopened = 0, nil
			w.advance(2 * timeout)
			if next == "undone" { // both generations, and as it was
				if !slices.Equal(n.stays(), both) || len(n.spd) != len(before.policies) {
					complain("%v and not %v, %d policies", n.stays(), both, len(n.spd))
				}
				if o := n.journal().Owned; len(o) != 1 || !o[0].Undecided || len(o[0].Inbound) != len(both)/2 {
					complain("%d pairs: %v", len(o), n.stays())
				}
				if len(n.guard) != len(guard) {
					complain("%d pairs are guarded, and %d were", len(n.guard), len(guard))
				}
				if got = w.carryOut(w.again(steps.Apply, 4), direct); got != "done" {
					complain("at last %s", got)
				}
				w.lost, w.unopened = 0, nil
				w.advance(2 * timeout)
			}
			if got != "done" || w.lost > 0 && next == steps.Apply || len(w.unopened) > 0 {
				complain("%s, %d lost, %v", got, w.lost, w.unopened)
			}
			if !w.works() {
				complain("not everything is taken that is sent")
			}
			for _, m := range w.hosts {
				j := m.journal()
				sas, policies, owned := 2, 5, 1
				if next == steps.Down {
					sas, policies, owned = 0, 0, 0
				}
				if len(m.stays()) != sas || len(m.spd) != policies || len(j.Owned) != owned || len(m.guard) != owned || (j.Change == nil) != (next == steps.Down) || j.Change != nil && j.Change.Stage != steps.Finished {
					complain("%s has %v, %d policies, %d pairs, %d guarded; %+v", m.name, m.sad(), len(m.spd), len(j.Owned), len(m.guard), j.Change)
				}
				if slices.ContainsFunc(j.Owned, func(o Owned) bool { return o.Undecided || o.Opened }) {
					complain("%s is still undecided", m.name)
				}
			}
		}
	}
}

// A coordinator that was told to finish a change has its grace; the change that follows waits for that.
func TestGivesWayAfterGrace(t *testing.T) {
	w := prepared(t, 2, 1)
	change := w.plan(steps.Rotate, 2, 1)
	for i := range change.begins {
		change.begins[i].Grace = 10 * timeout
	}
	w.carryOut(change, until(steps.Finish))
	n := w.hosts[0]
	n.keeps = false
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.ticking = true // a wait is over at once
	n.host.cfg.Clock = asleep{n}
	n.host.Finish(ctx, steps.Question{Change: change.id})
	w.ticking = false
	w.advance(9 * timeout)
	if _, err := n.host.Begin(t.Context(), w.again(steps.Rotate, 3).begins[0]); err == nil || !strings.Contains(err.Error(), "can begin in") {
		t.Error(err)
	}
	w.advance(2 * timeout)
	if _, err := n.host.Begin(t.Context(), w.plan(steps.Rotate, 3, 2).begins[0]); err != nil {
		t.Error(err)
	}
	if len(n.sas) != 2 {
		t.Error("old SAs are there: ", n.sad())
	}
}

// asleep is a host's clock by which nobody waits.
type asleep struct{ *node }

func (asleep) Sleep(ctx context.Context, _ time.Duration) error { return ctx.Err() }
