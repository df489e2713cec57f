package dataplane

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"espalier/ipsec"
)

// probed is an SA whose path is walked through in time, without packets.
type probed struct {
	*association
	d   *Device
	now time.Time
	rtt time.Duration
	// comes tells whether a probe of a size is answered.
	comes func(size int) bool
	sent  []int
}

func newProbed(t rapid.TB, link int, v6 bool) *probed {
	d, a := formDevice(t, pathForm{mode: ipsec.Transport, outer6: v6, inner6: v6, keyBits: 128, icv: 128}, link)
	p := &probed{association: a, d: d, now: time.Unix(1e9, 0), rtt: 30 * time.Millisecond}
	d.closerLook(a, 0)
	return p
}

// largePackets sends enough of them to make a probe due.
func (p *probed) largePackets() bool {
	p.d.closerLook(p.association, largeEnough)
	return p.path.probing.due
}

// settleAll lets time pass until nothing is under way, and returns how much.
func (p *probed) settleAll(t rapid.TB) time.Duration {
	t.Helper()
	start, times := p.now, &p.d.paths.times
	for range 1000 {
		send, _ := p.probe(p.now, times)
		p.settle(int(p.d.link.mtu.Load()))
		if p.path.probing.round == nil {
			return p.now.Sub(start)
		}
		p.sent = append(p.sent, send...)
		goOn := false
		for _, size := range send {
			if size%4 != 0 {
				t.Fatalf("probe of %d bytes", size)
			}
			if p.comes(size) {
				goOn = p.path.probing.answered(size, p.rtt) || goOn
			}
		}
		if goOn {
			p.now = p.now.Add(p.rtt)
		} else {
			p.now = p.path.probing.next
		}
	}
	t.Fatal("it does not end")
	return 0
}

func (p *probed) mtu() int { return int(p.pmtu.value.Load()) }

// Whatever the path takes, it is found exactly, within seconds; and if it takes everything nothing changes.
func TestSearchFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "IPv6")
		least := minPathMTU4
		if v6 {
			least = minPathMTU6
		}
		link := rapid.IntRange(least, 9216).Draw(t, "link")
		takes := rapid.IntRange(least, link).Draw(t, "path")
		p := newProbed(t, link, v6)
		p.comes = func(size int) bool { return size <= takes }
		if !p.largePackets() {
			t.Fatal("no probe is due")
		}
		took := p.settleAll(t)
		want := takes &^ 3
		if takes&^3 == link&^3 {
			want = link
		}
		if p.mtu() != want {
			t.Fatalf("found %d, the path takes %d of %d", p.mtu(), takes, link)
		}
		if took > 10*time.Second {
			t.Fatalf("it took %s", took)
		}
		if want == link && (len(p.sent) > 2 || p.path.learned.mtu != 0) {
			t.Fatalf("%v were sent", p.sent)
		}
	})
}

// A probe that is lost now and then changes nothing.
func TestSearchToleratesLoss(t *testing.T) {
	for lost := range 3 {
		p, n := newProbed(t, 1500, false), 0
		p.comes = func(size int) bool {
			if size == 1500 {
				n++
			}
			return size < 1500 || n > lost
		}
		p.largePackets()
		p.settleAll(t)
		if p.mtu() != 1500 {
			t.Errorf("%d lost: %d", lost, p.mtu())
		}
	}
}

// If nothing is answered, nothing is known: nothing changes, and no more is sent than a first round.
func TestSearchWithoutAnswers(t *testing.T) {
	p := newProbed(t, 1500, false)
	p.comes = func(int) bool { return false }
	p.largePackets()
	p.settleAll(t)
	if p.mtu() != 1500 || len(p.sent) != 2*tries {
		t.Errorf("%d after %v", p.mtu(), p.sent)
	}
}

// It is asked once in a while, and only if there are large packets.
func TestProbesAreRare(t *testing.T) {
	p := newProbed(t, 1500, false)
	p.comes = func(int) bool { return true }
	if p.d.closerLook(p.association, largeEnough-1); p.path.probing.due {
		t.Error("due before there were enough")
	}
	if p.d.closerLook(p.association, 1); !p.path.probing.due {
		t.Error("not due")
	}
	p.settleAll(t)
	if !slices.Equal(p.sent, []int{576, 1500}) {
		t.Errorf("sent %v", p.sent)
	}
	if p.largePackets() || p.pmtu.look.Load() != 1500 {
		t.Error("due again at once")
	}
	p.now = p.now.Add(p.d.paths.times.interval)
	if p.settleAll(t); len(p.sent) != 2 || p.pmtu.look.Load() != 576 {
		t.Errorf("sent %v without packets, or does not look at them (%d)", p.sent, p.pmtu.look.Load())
	}
	if !p.largePackets() {
		t.Error("not due after a while")
	}
	if p.settleAll(t); len(p.sent) != 4 {
		t.Errorf("sent %v", p.sent)
	}
}

// Without probing nothing is ever due.
func TestProbingOff(t *testing.T) {
	d, a := formDevice(t, pathForm{mode: ipsec.Tunnel, keyBits: 128, icv: 128}, 1500)
	d.paths.times.interval = -1
	for range 100 {
		d.closerLook(a, largeEnough)
	}
	if a.path.probing.due || a.pmtu.look.Load() != 1500 {
		t.Errorf("due %v, look %d", a.path.probing.due, a.pmtu.look.Load())
	}
}

// What was found holds as long as it comes through. Later longer ones are tried, and only then.
func TestSearchUpwards(t *testing.T) {
	p, takes := newProbed(t, 1500, false), 1300
	p.comes = func(size int) bool { return size <= takes }
	again := func(want int) {
		t.Helper()
		p.settleAll(t) // the end of a rest
		p.largePackets()
		p.settleAll(t)
		if p.mtu() != want {
			t.Fatalf("%d, want %d", p.mtu(), want)
		}
		p.now = p.now.Add(p.d.paths.times.interval)
	}
	again(1300)
	takes = 1400
	since := p.path.learned.at
	for p.now.Sub(since) < p.d.paths.times.age {
		again(1300)
	}
	again(1400)
	takes = 1200 // narrower
	again(1200)
	takes = 1500
	again(1200)
	p.now = p.now.Add(p.d.paths.times.age)
	again(1500)
	if p.path.learned != (learned{}) {
		t.Errorf("%+v", p.path.learned)
	}
}

// A round ends when a router says more, or the link changes: it asks for what does not matter any more.
func TestSearchIsOvertaken(t *testing.T) {
	p := newProbed(t, 1500, false)
	p.comes = func(int) bool { return false }
	p.largePackets()
	if send, _ := p.probe(p.now, &p.d.paths.times); len(send) != 2 {
		t.Fatalf("sent %v", send)
	}
	p.d.lower(p.association, 1300, hostA)
	if p.path.probing.round != nil || p.mtu() != 1300 {
		t.Errorf("%+v", p.path.probing)
	}
	if p.path.probing.answered(1500, 0) {
		t.Error("an answer to it counts")
	}
}
