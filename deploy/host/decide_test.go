package host

import (
	"testing"
	"time"

	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/tunnel"
)

const second = time.Second

// What a host does with a pair that was confirmed, and of which nobody tells it more.
func TestDecide(t *testing.T) {
	const since = 100 * second
	for _, c := range []struct {
		name string
		view view
		want verdict
	}{
		{"peers may still undo it", view{now: 99 * second, newest: 98 * second, hasNew: true, hasOld: true}, hold},
		{"the peer sends by the new SA", view{now: 101 * second, newest: 101 * second, hasNew: true, hasOld: true}, finish},
		{"a first apply, and the peer sends", view{now: 101 * second, newest: 101 * second, hasNew: true}, finish},
		{"the peer sends by both", view{now: 120 * second, newest: 101 * second, oldFirst: 101 * second, oldLast: 120 * second, hasNew: true, hasOld: true}, finish},
		{"the peer sends by the old SA for a while", view{now: 106 * second, oldFirst: 101 * second, oldLast: 106 * second, hasNew: true, hasOld: true}, undo},
		{"one late packet by the old SA", view{now: 106 * second, oldFirst: 101 * second, oldLast: 101 * second, hasNew: true, hasOld: true}, hold},
		{"silence, and there is an old SA", view{now: 9999 * second, hasNew: true, hasOld: true}, hold},
		{"a first apply, and a little silence", view{now: 219 * second, hasNew: true}, hold},
		{"a first apply, and silence", view{now: 220 * second, hasNew: true}, undo},
		{"the SAs stay", view{now: 100 * second, hasOld: true}, finish},
		{"it goes, and the peer keeps it", view{now: 106 * second, leaves: true, hasOld: true, oldFirst: 101 * second, oldLast: 106 * second}, undo},
		{"it goes, and one packet was late", view{now: 400 * second, leaves: true, hasOld: true, oldFirst: 101 * second, oldLast: 101 * second}, hold},
		{"it goes, and nothing comes", view{now: 699 * second, leaves: true, hasOld: true}, hold},
		{"it goes, and nothing has come for long", view{now: 700 * second, leaves: true, hasOld: true}, finish},
		{"it goes, one packet was late, and nothing has come since", view{now: 701 * second, leaves: true, hasOld: true, oldFirst: 101 * second, oldLast: 101 * second}, finish},
	} {
		c.view.since = since
		if got := c.view.decide(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestTimes(t *testing.T) {
	c := Change{Begin: steps.BeginQuestion{Kind: steps.Apply, Timeout: 60 * second}, Stage: steps.Open, Begun: 100 * second, Deadline: 160 * second}
	for now, want := range map[time.Duration]bool{100 * second: false, 159 * second: false, 160 * second: true, 999 * second: true, 99 * second: true} {
		if got := overdue(&c, now); got != want {
			t.Errorf("overdue at %s: %v", now, got)
		}
	}
	if c.Stage = steps.Confirmed; overdue(&c, 999*second) {
		t.Error("a confirmed change is overdue")
	}
	for now, want := range map[time.Duration]bool{101 * second: true, 164 * second: true, 165 * second: false, 99 * second: false} {
		if got := takesUndo(&c, now); got != want {
			t.Errorf("takes an undo at %s: %v", now, got)
		}
	}
	// Whenever it was confirmed, nobody takes an undo any more once somebody else may decide: all had
	// begun before the first confirmation.
	for _, confirmed := range []time.Duration{101 * second, 159 * second} {
		peer := c
		if peer.Confirmed = confirmed; takesUndo(&c, decidesFrom(&peer)) {
			t.Errorf("confirmed at %s: a peer could still undo it at %s", confirmed, decidesFrom(&peer))
		}
	}
	for _, stage := range []steps.Stage{steps.Finished, steps.Undone} {
		if c.Stage = stage; takesUndo(&c, 101*second) || overdue(&c, 999*second) {
			t.Errorf("%s is not the end", stage)
		}
	}
}

func TestGone(t *testing.T) {
	old := []tunnel.SAID{{SAID: ipsec.SAID{SPI: 1}}}
	for _, c := range []struct {
		name      string
		l         Lingering
		now, last time.Duration
		want      bool
	}{
		{"just undone", Lingering{}, 110 * second, 0, false},
		{"long ago, and nothing came by it", Lingering{}, 220 * second, 100 * second, true},
		{"long ago, and something came just now", Lingering{}, 220 * second, 200 * second, false},
		{"the peer was never heard since", Lingering{Old: old}, 2000 * second, 100 * second, false},
		{"the peer sends by the old SA", Lingering{Old: old, Heard: true}, 220 * second, 100 * second, true},
		{"the peer was not heard for a day", Lingering{Old: old}, 25 * time.Hour, 100 * second, true},
		{"the clock went back", Lingering{}, 50 * second, 40 * second, false},
	} {
		c.l.Since, c.l.Timeout = 100*second, 60*second
		if got := c.l.gone(c.now, c.last); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
