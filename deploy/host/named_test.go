package host

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"espalier/deploy/steps"
	"espalier/tunnel"
)

// called makes of a first apply a change that only calls the pairs otherwise.
func (w *world) called(change, former, name string) *planned {
	p := w.plan(steps.Apply, 1, 1)
	p.id = change
	p.in, p.out = make([][][]byte, len(w.hosts)), make([][][]byte, len(w.hosts))
	for i := range p.begins {
		p.begins[i].Change = change
		for j := range p.begins[i].Pairs {
			end := &p.begins[i].Pairs[j]
			end.Tunnel, end.Former, end.Action = name, former, tunnel.Adjust
			end.Inbound, end.Outbound, end.Old = nil, nil, nil
		}
	}
	return p
}

// names are what is owned is called.
func (n *node) names() (all []string) {
	for _, o := range n.journal().Owned {
		all = append(all, fmt.Sprintf("%s %d", o.Tunnel, len(o.Inbound)))
	}
	slices.Sort(all)
	return all
}

// A tunnel that is called otherwise keeps all it has; undone after any step it has its former name again.
func TestCalledOtherwise(t *testing.T) {
	for _, last := range []string{"", steps.Inbound, "accepting", "sending", steps.Probe, "required", steps.Guard, "probe again", steps.Confirm, steps.Finish} {
		w := prepared(t, 3, 1)
		before := w.picture()
		change, want := w.called("other name", "db", "data"), []string{"data 1", "data 1"}
		if last == "" {
			if got := w.carryOut(change, direct); got != "done" {
				t.Fatal(got)
			}
		} else {
			w.carryOut(change, until(last))
			want = []string{"db 1", "db 1"}
			for _, n := range w.hosts {
				if p, err := n.host.Undo(t.Context(), steps.Question{Change: change.id}); err != nil || p.Stage != steps.Undone {
					t.Errorf("before %s: %+v, %v", last, p, err)
				}
			}
		}
		w.settle()
		w.same(t, before)
		for _, n := range w.hosts {
			if got := n.names(); !slices.Equal(got, want) || len(n.guard) > 0 && strings.Join(got, " ") != fmt.Sprintf("%s 1 %s 1", n.guard[0].Tunnel, n.guard[1].Tunnel) {
				t.Errorf("before %q: %q is owned, %d guarded", last, got, len(n.guard))
			}
		}
		if w.lost > 0 || w.clear > 0 {
			t.Errorf("before %q: %d lost, %d in clear", last, w.lost, w.clear)
		}
	}
}

// Names that two pairs give each other: each keeps its own SAs. Where one is undone and the other is not, both keep
// a name of their own.
func TestNamesExchanged(t *testing.T) {
	sa := func(n int) []tunnel.SAID { return []tunnel.SAID{{SAID: said(newWorld(t, 2), 0, 1, n).SAID}} }
	end := func(name, former string) steps.PairEnd {
		return steps.PairEnd{Tunnel: name, Former: former, Action: tunnel.Adjust}
	}
	a, b := Owned{Tunnel: "a", Inbound: sa(1)}, Owned{Tunnel: "b", Inbound: sa(2)}
	c := &Change{Stage: steps.Open, Begin: steps.BeginQuestion{Pairs: []steps.PairEnd{end("b", "a"), end("a", "b")}}, Pairs: []PairState{{Was: &a}, {Was: &b}}}
	j := &Journal{Owned: []Owned{a, b}, Change: c}
	check := func(what string, owned []Owned, want ...string) {
		t.Helper()
		var got []string
		for _, o := range owned {
			got = append(got, fmt.Sprint(o.Tunnel, " ", o.Inbound[0].SPI))
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	one, two := sa(1)[0].SPI, sa(2)[0].SPI
	before, after := []string{fmt.Sprint("a ", one), fmt.Sprint("b ", two)}, []string{fmt.Sprint("a ", two), fmt.Sprint("b ", one)}
	check("finished", j.after(), after...)
	check("undone when open", j.undone(c, 0, 1), before...)
	for i := range c.Begin.Pairs {
		if name := ownedAs(&c.Begin, &c.Begin.Pairs[i]); name != c.Pairs[i].Was.Tunnel {
			t.Errorf("pair %d is owned as %q", i, name)
		}
	}
	c.Stage, j.Owned = steps.Confirmed, j.after()
	check("finished again", j.after(), after...)
	check("undone when confirmed", j.undone(c, 0, 1), before...)
	check("one undone", j.undone(c, 0), after...)
}

// Names that do not fit the journal are refused, and nothing begins.
func TestNamesRefused(t *testing.T) {
	w := prepared(t, 2, 1)
	if _, err := w.hosts[0].host.Begin(t.Context(), w.called("other name", "nobody", "data").begins[0]); err == nil || !strings.Contains(err.Error(), "there is no tunnel nobody") {
		t.Error(err)
	}
	j := w.hosts[0].journal()
	another := j.Owned[0]
	another.Tunnel = "data"
	j.Owned = append(j.Owned, another)
	if err := j.checkNames(&w.called("other name", "db", "data").begins[0]); err == nil || !strings.Contains(err.Error(), "there is one of that name") {
		t.Error(err)
	}
}
