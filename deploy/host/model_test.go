package host

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"espalier/deploy/steps"
)

// kinds of changes, each with what was done before it.
var kinds = []struct {
	name   string
	kind   steps.Kind
	former int
}{
	{"first apply", steps.Apply, 0},
	{"replace", steps.Apply, 1},
	{"rotate", steps.Rotate, 1},
	{"down", steps.Down, 1},
}

// prepared is a world in which the former generation is in place.
func prepared(t testing.TB, hosts int, former int) *world {
	w := newWorld(t, hosts)
	if former > 0 {
		if got := w.carryOut(w.plan(steps.Apply, former, 0), direct); got != "done" {
			t.Fatal("before: ", got)
		}
		w.settle()
	}
	w.lost, w.clear = 0, 0
	return w
}

// scenario is one way in which a change can go wrong.
type scenario struct {
	kind       int
	hosts      int
	at         int    // message
	how        string // see wire
	partition  time.Duration
	quietHosts bool // no application says anything
}

func (s scenario) String() string {
	return fmt.Sprintf("%s of %d hosts, message %d: %s, partition %s, quiet %v", kinds[s.kind].name, s.hosts, s.at, s.how, s.partition, s.quietHosts)
}

// hows are what can become of messages, from one on.
var hows = []string{
	"the coordinator dies before it is sent",
	"the coordinator dies before it is answered",
	"the request is lost",
	"the answer is lost",
	"the host cannot be reached any more, but the others can",
	"the host cannot be reached for 12 s",
	"no host can be reached for 30 s",
}

// wire makes it happen.
func (s scenario) wire(w *world) wire {
	var down time.Duration // since when
	var victim int
	return func(n, host int, operation string, deliver func() error) error {
		if n == s.at {
			down, victim = w.now, host
			if s.partition > 0 {
				w.cut = true
			}
		}
		if w.cut && w.now > down+s.partition {
			w.cut = false
		}
		if n < s.at {
			return deliver()
		}
		switch s.how {
		case hows[0]:
			panic(died{})
		case hows[1]:
			deliver()
			panic(died{})
		case hows[2]:
			if n == s.at {
				return errLost
			}
		case hows[3]:
			if n == s.at {
				deliver()
				return errLost
			}
		case hows[4]:
			if host == victim {
				return errLost
			}
		case hows[5]:
			if host == victim && w.now < down+12*time.Second {
				return errLost
			}
		case hows[6]:
			if w.now < down+30*time.Second {
				return errLost
			}
		}
		return deliver()
	}
}

// ideal is what hosts are like after a change with which nothing has gone wrong.
func ideal(t testing.TB, kind, hosts int) []picture {
	w := prepared(t, hosts, kinds[kind].former)
	if got := w.carryOut(w.plan(kinds[kind].kind, 2, kinds[kind].former), direct); got != "done" {
		t.Fatal("nothing has gone wrong, and it is ", got)
	}
	w.settle()
	if w.lost > 0 {
		t.Errorf("%s: %d packets of an application were lost", kinds[kind].name, w.lost)
	}
	return w.picture()
}

// run carries it out, and tells what is not as it has to be in the end.
func (s scenario) run(t testing.TB, after []picture) (problems []string) {
	k := kinds[s.kind]
	w := prepared(t, s.hosts, k.former)
	w.chatter = !s.quietHosts
	before := w.picture()
	change := w.plan(k.kind, 2, k.former)
	outcome := w.carryOut(change, s.wire(w))
	if w.cut {
		w.advance(s.partition)
	}
	w.settle()
	complain := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }

	undone := 0
	for i, n := range w.hosts {
		now := picture{n.sad(), n.policies()}
		j := n.journal()
		switch {
		case now.equal(before[i]):
			undone++
			if j.Change != nil && j.Change.Begin.Change == change.id && j.Change.Stage != steps.Undone && s.hosts == 2 {
				complain("%s is as before, and says %s", n.name, j.Change.Stage)
			}
			if len(j.Owned) != (s.hosts-1)*min(1, k.former) {
				complain("%s is as before, and owns %d pairs", n.name, len(j.Owned))
			}
		case slices.Equal(now.sas, after[i].sas) && len(now.policies) == len(after[i].policies):
			if c := j.Change; c != nil && c.Stage != steps.Finished {
				complain("%s is as planned, and says %s (%s)", n.name, c.Stage, c.Problem)
			} else if c == nil && k.kind != steps.Down {
				complain("%s has forgotten what it owns", n.name)
			}
		case s.hosts == 2:
			complain("%s is neither as before nor as planned: %v, %d policies", n.name, now.sas, len(now.policies))
		}
		if len(n.guard) != len(j.Owned) && n.guarded > 0 {
			complain("%s owns %d pairs, and guards %d", n.name, len(j.Owned), len(n.guard))
		}
	}
	if s.hosts == 2 && undone != 0 && undone != s.hosts {
		complain("%d of %d hosts have undone it", undone, s.hosts)
	}
	if outcome == "done" && undone > 0 || outcome == "rolled back" && undone < s.hosts && s.hosts == 2 {
		complain("the user was told %q, and %d of %d have undone it", outcome, undone, s.hosts)
	}
	if !w.works() {
		complain("not everything is taken that is sent")
	}
	for _, n := range w.hosts {
		if left, err := os.ReadDir(n.host.cfg.Dir); outcome == "done" && k.kind == steps.Down && n.told && !errors.Is(err, fs.ErrNotExist) {
			complain("%s has %v left", n.name, left)
		}
	}
	if k.former > 0 && k.kind != steps.Down {
		if len(w.unopened) > 0 {
			complain("sent by SAs that the peer had not: %s", w.unopened[0])
		}
		if w.clear > 0 {
			complain("%d packets in clear", w.clear)
		}
		if w.lost > 0 {
			complain("%d packets of an application were lost", w.lost)
		}
	}
	return problems
}

// sparse leaves out cases: one in so many is tried.
var sparse = 1

// cases counts them.
type cases int

// next reports whether the next one is tried.
func (n *cases) next() bool {
	*n++
	return int(*n-1)%sparse == 0
}

// A change that is cut at any message, in any way, ends the same on all its hosts, and leaves nothing over.
func TestEveryCut(t *testing.T) {
	for kind, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			after := ideal(t, kind, 2)
			messages := 2 * 12
			if k.kind == steps.Down {
				messages = 2 * 6
			}
			cuts, tried := 0, cases(kind)
			for at := range messages {
				for how := range hows {
					if (at/2+how+kind)%2 == 0 || !tried.next() { // the kinds and both hosts make up for the first
						continue
					}
					s := scenario{kind: kind, hosts: 2, at: at, how: hows[how], quietHosts: (at/2+kind)%2 == 0}
					cuts++
					for _, p := range s.run(t, after) {
						t.Errorf("%s: %s", s, p)
					}
				}
			}
			t.Logf("%d cuts", cuts)
		})
	}
}

// Whatever happens, at random: cuts, partitions, and hosts that say nothing.
func TestRandomCuts(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	var after [4][4][]picture
	random := rand.New(rand.NewPCG(*randomSeed, 2))
	for range max(1, *randomCuts/sparse) {
		s := scenario{kind: random.IntN(len(kinds)), hosts: 2, at: random.IntN(22), how: hows[random.IntN(len(hows))], quietHosts: random.IntN(2) == 0}
		if random.IntN(4) == 0 {
			s.hosts, s.at = 3, random.IntN(33)
		}
		if random.IntN(2) == 0 {
			s.partition = time.Duration(random.IntN(120_000)) * time.Millisecond
		}
		if after[s.kind][s.hosts] == nil {
			after[s.kind][s.hosts] = ideal(t, s.kind, s.hosts)
		}
		for _, p := range s.run(t, after[s.kind][s.hosts]) {
			t.Errorf("%s: %s", s, p)
		}
	}
}

var (
	randomCuts = flag.Int("random-cuts", 60, "how many changes are cut at random")
	randomSeed = flag.Uint64("random-seed", 1, "which")
)
