package dataplane

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"espalier/ipsec"
)

// keptDevice is a device without sockets whose keeper works until the test ends, and whose
// events are kept. The time is the test's own: it stands in a bubble of testing/synctest.
func keptDevice(t *testing.T) (*Device, *eventLog) {
	t.Helper()
	d := newDevice(slog.New(slog.DiscardHandler))
	d.locals.replace(nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- d.keeper.run(ctx) }()
	l := &eventLog{}
	t.Cleanup(d.Observe(l.add))
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return d, l
}

type eventLog struct {
	mu   sync.Mutex
	deaf bool
	got  []ipsec.Event
}

func (l *eventLog) add(e ipsec.Event) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, e)
	return !l.deaf
}

// take is what was told since the last time, once all is quiet.
func (l *eventLog) take() []string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for _, e := range l.got {
		switch e := e.(type) {
		case ipsec.SAExpired:
			names = append(names, map[bool]string{false: "soft", true: "hard"}[e.Hard])
		case ipsec.PolicyExpired:
			names = append(names, map[bool]string{false: "policy soft", true: "policy hard"}[e.Hard])
		case ipsec.PeerMoved:
			names = append(names, "moved to "+e.To.String())
		case ipsec.Acquire:
			names = append(names, "acquire")
		case ipsec.Progress:
			names = append(names, [...]string{"by numbers", "by time", "by setting"}[e.Cause])
		}
	}
	l.got = nil
	return names
}

func (l *eventLog) want(t *testing.T, when string, want ...string) {
	t.Helper()
	if got := l.take(); !slices.Equal(got, want) {
		t.Errorf("%s: events %q, want %q", when, got, want)
	}
}

// packet does what the packet path does for one packet of n bytes, and reports whether it passed.
func (d *Device) packet(a *association, n int) bool {
	ok, look := a.mayCarry()
	if look {
		d.keeper.ask(&a.errand)
	}
	if !ok {
		return false
	}
	last := uint64(0)
	if a.out != nil {
		last, _ = a.out.Reserve(1)
	}
	if a.carried(1, n, d.keeper.now.Load()) || last >= a.progress.sentAt.Load() {
		d.keeper.ask(&a.errand)
	}
	return true
}

func addTestSA(t *testing.T, d *Device, change func(*ipsec.SA)) *association {
	t.Helper()
	sa := testSA(0x100)
	sa.Direction, sa.Window = ipsec.Outbound, 0
	change(&sa)
	if err := d.AddSA(t.Context(), sa); err != nil {
		t.Fatal(err)
	}
	return d.sad.inbound(sa.ID())
}

// Which packet does it: the one after those that a limit allows, as in Linux.
func TestPacketLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		a := addTestSA(t, d, func(sa *ipsec.SA) { sa.Limits = ipsec.Limits{SoftPackets: 3, HardPackets: 5} })
		for i := 1; i <= 5; i++ {
			if !d.packet(a, 10) {
				t.Fatalf("packet %d dropped", i)
			}
			switch i {
			case 4:
				l.want(t, "packet 4", "soft")
			default:
				l.want(t, "a packet without an event")
			}
		}
		if _, err := d.LookupSA(t.Context(), a.sa.ID()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if d.packet(a, 10) {
				t.Error("a packet beyond the hard limit passed")
			}
		}
		l.want(t, "packet 6", "hard")
		if _, err := d.LookupSA(t.Context(), a.sa.ID()); err == nil {
			t.Error("the SA is still there")
		}
	})
}

func TestByteLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		a := addTestSA(t, d, func(sa *ipsec.SA) { sa.Limits = ipsec.Limits{SoftBytes: 15, HardBytes: 25} })
		passed := 0
		d.control.Lock() // the keeper comes too late for the soft limit
		for d.packet(a, 10) {
			passed++
		}
		d.control.Unlock()
		if passed != 3 { // 30 bytes: the third is begun at 20
			t.Errorf("%d packets of 10 bytes passed a limit of 25", passed)
		}
		l.want(t, "all", "hard")
	})
}

// A soft limit is told once, and again only after the limits were set anew.
func TestTimeLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		a := addTestSA(t, d, func(sa *ipsec.SA) {
			sa.Limits = ipsec.Limits{SoftTime: 10 * time.Second, HardTime: 30 * time.Second}
		})
		time.Sleep(9 * time.Second)
		l.want(t, "after 9 s")
		time.Sleep(2 * time.Second)
		l.want(t, "after 11 s", "soft")
		d.keeper.ask(&a.errand) // as the first packet would
		l.want(t, "looked at again")
		time.Sleep(10 * time.Second)
		l.want(t, "after 21 s")
		update := a.read()
		update.Limits = ipsec.Limits{SoftTime: 25 * time.Second, HardTime: 60 * time.Second}
		update.Key = ipsec.NewKey(make([]byte, 20))
		if err := d.UpdateSA(t.Context(), update); err != nil {
			t.Fatal(err)
		}
		l.want(t, "after the update")
		time.Sleep(5 * time.Second)
		l.want(t, "after 26 s", "soft")
		time.Sleep(30 * time.Second)
		l.want(t, "after 56 s")
		time.Sleep(5 * time.Second)
		l.want(t, "after 61 s", "hard")
	})
}

// Limits of use begin with the first packet.
func TestUseLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		a := addTestSA(t, d, func(sa *ipsec.SA) {
			sa.Limits = ipsec.Limits{SoftIdle: 10 * time.Second, HardIdle: 20 * time.Second}
		})
		time.Sleep(time.Hour)
		l.want(t, "unused")
		d.packet(a, 1)
		synctest.Wait()
		time.Sleep(5 * time.Second)
		d.packet(a, 1) // the first counts, not the last
		time.Sleep(6 * time.Second)
		l.want(t, "11 s after the first use", "soft")
		c := a.read().Counters
		if d := c.LastUsed.Sub(c.Used); d < 4*time.Second || d > 6*time.Second || c.Packets != 2 {
			t.Errorf("first use %s, last %s, %d packets", c.Used, c.LastUsed, c.Packets)
		}
		time.Sleep(10 * time.Second)
		l.want(t, "21 s after the first use", "hard")
	})
}

// Of several SAs the newest sends, but rather one that has not reached a soft limit.
func TestDyingSAIsNotPreferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := keptDevice(t)
		old := addTestSA(t, d, func(sa *ipsec.SA) { sa.SPI = 0x100 })
		young := addTestSA(t, d, func(sa *ipsec.SA) {
			sa.SPI, sa.Limits = 0x200, ipsec.Limits{SoftPackets: 1, HardPackets: 3}
			sa.Key = ipsec.NewKey(append(make([]byte, 19), 1))
		})
		p, f := ipsec.Processing{RequestID: 7}, ipsec.Flow{Src: hostA, Dst: hostB}
		pick := func(want *association) {
			t.Helper()
			if got, _ := d.sad.forPacket(&p, &f, 0); got != want {
				t.Errorf("picked %v, want %v", got, want)
			}
		}
		pick(young)
		d.packet(young, 1)
		d.packet(young, 1) // finds the soft limit
		pick(old)
		if err := d.DeleteSA(t.Context(), old.sa.ID()); err != nil {
			t.Fatal(err)
		}
		pick(young)
		d.packet(young, 1)
		d.packet(young, 1) // finds the hard limit
		if got, waiting := d.sad.forPacket(&p, &f, 0); got != nil || waiting {
			synctest.Wait()
			if got, waiting = d.sad.forPacket(&p, &f, 0); got != nil || waiting {
				t.Errorf("after the end: %v %v", got, waiting)
			}
		}
	})
}

// What may be opened at once never crosses a limit.
func TestBatchesStopAtLimits(t *testing.T) {
	l := newState(nil, &ipsec.SA{Limits: ipsec.Limits{HardPackets: 10, HardBytes: 1000}}, time.Time{})
	for _, c := range []struct{ packets, bytes, ask, size, want int }{
		{0, 0, 8, 800, 8}, {0, 0, 11, 11, 1}, {0, 0, 2, 1001, 1}, {4, 400, 6, 600, 6}, {4, 400, 7, 70, 1}, {9, 9, 1, 9999, 1},
	} {
		l.packets.Store(uint64(c.packets))
		l.bytes.Store(uint64(c.bytes))
		if got := l.ahead(c.ask, c.size); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestPolicyLimits(t *testing.T) {
	added := time.Unix(1000, 0)
	at := func(s int) time.Time { return added.Add(time.Duration(s) * time.Second) }
	for _, c := range []struct {
		name   string
		limits ipsec.Limits
		used   int64
		now    int
		want   verdict
	}{
		{"none", ipsec.Limits{}, 0, 100, verdict{}},
		{"before both", ipsec.Limits{SoftTime: 10 * time.Second, HardTime: 20 * time.Second}, 0, 5, verdict{next: at(10)}},
		{"soft", ipsec.Limits{SoftTime: 10 * time.Second, HardTime: 20 * time.Second}, 0, 10, verdict{soft: true, next: at(20)}},
		{"soft again", ipsec.Limits{SoftTime: 10 * time.Second, HardTime: time.Hour}, 0, 100, verdict{soft: true, next: at(130)}},
		{"hard", ipsec.Limits{SoftTime: 10 * time.Second, HardTime: 20 * time.Second}, 0, 20, verdict{hard: true}},
		{"never used", ipsec.Limits{HardIdle: 20 * time.Second}, 0, 20, verdict{hard: true}},
		{"used since", ipsec.Limits{HardIdle: 20 * time.Second}, 1010, 20, verdict{next: at(30)}},
		{"idle again", ipsec.Limits{SoftIdle: 5 * time.Second, HardIdle: 20 * time.Second}, 1010, 16, verdict{soft: true, next: at(30)}},
	} {
		p := &policy{rule: &rule{Policy: ipsec.Policy{Limits: c.limits, Added: added}}}
		p.used.Store(uint32(c.used))
		if got := p.examine(at(c.now)); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// The keeper's clock, which dates packets, may be of the second before: nothing was used before it was added.
func TestNothingIsUsedBeforeItWasAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := keptDevice(t)
		a := addTestSA(t, d, func(*ipsec.SA) {})
		a.carried(1, 100, time.Now().Unix()-1)
		if c := a.read().Counters; !c.Used.Equal(c.Added) || !c.LastUsed.Equal(c.Added) {
			t.Errorf("SA added %s, used %s, last %s", c.Added, c.Used, c.LastUsed)
		}
	})
	added := time.Unix(1000, 300_000_000)
	p := &policy{rule: &rule{Policy: ipsec.Policy{Added: added}}}
	if !p.read().Used.IsZero() {
		t.Error("a policy that was never used says it was")
	}
	p.used.Store(uint32(added.Unix()) + 5)
	if used := p.read().Used; !used.Equal(time.Unix(1005, 0)) {
		t.Errorf("policy used %s", used)
	}
}

// The counters cost the packet path no allocation.
func TestCountingAllocatesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := keptDevice(t)
		a := addTestSA(t, d, func(sa *ipsec.SA) { sa.Limits = ipsec.Limits{HardPackets: 1 << 40, SoftTime: time.Hour} })
		s := newSPD(nil)
		p := ipsec.Policy{Direction: ipsec.Outbound, Processing: []ipsec.Processing{{RequestID: 7}}}
		s.put(s.prepare(&p, nil), nil)
		f := ipsec.Flow{Src: hostA, Dst: hostB}
		d.packet(a, 10)
		w := want{inOrder(s)[0], f, 0}
		if n := testing.AllocsPerRun(100, func() {
			d.packet(a, 10)
			s.lookup(ipsec.Outbound, &f, 5)
			d.sad.forPacket(&p.Processing[0], &f, 0)
			d.keeper.want(w)
		}); n != 0 {
			t.Errorf("%v allocations a packet", n)
		}
	})
}
