package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/underlay"
)

// cpu is the number of one.
func cpu(n uint32) *uint32 { return &n }

// queuedSA is pathSA(0) under another SPI, for one queue or for all.
func queuedSA(spi ipsec.SPI, c *uint32) ipsec.SA {
	sa := pathSA(0)
	sa.SPI, sa.CPU, sa.Key = spi, c, ipsec.RandomKey(20)
	return sa
}

// Each queue sends by the newest of its own SAs, or else by the newest of those for all, and by no
// other queue's.
func TestQueueSendsByItsOwnSA(t *testing.T) {
	d := pathDevice(t, 1, ipsec.Outbound) // with an SA for all, 0x1000
	outs := []*outbound{newOutbound(d, nil), newOutbound(d, nil), newOutbound(d, nil)}
	for i, o := range outs {
		o.queue = uint16(i) // the first is of none: it sends probes
	}
	frame := udpPacket(pathHost(0), 1, 100)
	expect := func(when string, want ...string) {
		t.Helper()
		for range 2 { // looked up, and remembered
			for i, o := range outs {
				if got := sendOne(o, frame); got != want[i] {
					t.Errorf("%s: outbound %d: %s, want %s", when, i, got, want[i])
				}
			}
		}
	}
	add := func(spi ipsec.SPI, c *uint32) *association {
		t.Helper()
		a, err := d.sad.add(queuedSA(spi, c), nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	remove := func(spi ipsec.SPI) {
		t.Helper()
		if _, err := d.sad.remove(ipsec.SAID{Dst: hostB, SPI: spi}); err != nil {
			t.Fatal(err)
		}
	}
	expect("one for all", "[0x1000]", "[0x1000]", "[0x1000]")
	add(0x2000, cpu(0))
	expect("one for the first queue", "[0x1000]", "[0x2000]", "[0x1000]")
	second := add(0x2001, cpu(1))
	expect("one for each", "[0x1000]", "[0x2000]", "[0x2001]")
	add(0x1001, nil)
	expect("a newer one for all", "[0x1001]", "[0x2000]", "[0x2001]")
	add(0x3000, cpu(0))
	expect("a newer one for the first queue", "[0x1001]", "[0x3000]", "[0x2001]")
	second.blemishes.add(dying)
	expect("that of the second is to expire", "[0x1001]", "[0x3000]", "[0x1001]")
	remove(0x3000)
	expect("the newer one is gone", "[0x1001]", "[0x2000]", "[0x1001]")
	remove(0x2000)
	expect("the first queue has none", "[0x1001]", "[0x1001]", "[0x1001]")
	remove(0x1001)
	remove(0x1000)
	expect("there is none for all", "[dropped: out-no-sa]", "[dropped: out-no-sa]", "[0x2001]")
	remove(0x2001)
	if n := d.sad.bound.Load(); n != 0 {
		t.Errorf("%d SAs of queues are left", n)
	}
}

// What the packet path finds, with all it remembers, is what the rule says.
func TestChoiceOfQueues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := pathDevice(t, 1, ipsec.Outbound)
		policy := inOrder(d.spd)[0]
		there := d.sad.list()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch what := rapid.IntRange(0, 9).Draw(t, "step"); {
			case what < 2:
				sa := queuedSA(ipsec.SPI(0x2000+len(there)), rapid.SampledFrom([]*uint32{nil, cpu(0), cpu(0), cpu(1)}).Draw(t, "CPU"))
				if rapid.IntRange(0, 3).Draw(t, "narrow") == 0 {
					sa.Selector.SrcPort = ipsec.Port(1)
				}
				a, err := d.sad.add(sa, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				there = append(there, a)
			case what < 4:
				a := rapid.SampledFrom(there).Draw(t, "SA")
				switch rapid.IntRange(0, 2).Draw(t, "fate") {
				case 0:
					d.sad.remove(a.id)
				case 1:
					a.blemishes.add(dying)
				default:
					a.blemishes.add(spent)
				}
			}
			queue := uint16(rapid.IntRange(0, 2).Draw(t, "queue"))
			f := ipsec.Flow{Src: hostA, Dst: pathHost(0), Protocol: inet.ProtoUDP, SrcPort: uint16(rapid.IntRange(1, 2).Draw(t, "port"))}
			got, _ := d.sad.forPolicy(policy, &f, queue)
			if want := chosen(d.sad.list(), &f, queue); got != want {
				t.Fatalf("queue %d: SA %v, want %v", queue, got, want)
			}
		}
	})
}

// chosen is the rule, told another way: of what fits and is not spent, what is for the queue itself and
// not dying, what is for all and not dying, and then the same, dying.
func chosen(newestFirst []*association, f *ipsec.Flow, queue uint16) *association {
	for _, c := range []struct {
		queue uint16
		dying bool
	}{{queue, false}, {0, false}, {queue, true}, {0, true}} {
		for _, a := range newestFirst {
			if a.queue == c.queue && a.blemishes.has(dying) == c.dying && !a.blemishes.has(spent) && a.sa.Selector.Match(f) {
				return a
			}
		}
	}
	return nil
}

// Whatever comes and goes while two queues send, none of their packets goes by an SA of the other's,
// by one that had gone before, or by one for all while there is one of their own.
func TestQueuesWhileSAsChange(t *testing.T) {
	const changes = 1000
	d := pathDevice(t, 1, ipsec.Outbound) // its SA is for all, and stays
	// SPIs are 0x100000 × (1 + queue) and a count.
	var begun, done [2]atomic.Int64 // the newest that packets of a queue may go by, and must
	spi := func(q, i int) ipsec.SPI { return ipsec.SPI(0x100000*(1+q) + i) }
	var senders, changers sync.WaitGroup
	for q := range 2 {
		changers.Go(func() {
			for i := 1; i <= changes; i++ {
				begun[q].Store(int64(i))
				if _, err := d.sad.add(queuedSA(spi(q, i), cpu(uint32(q))), nil, nil); err != nil {
					t.Error(err)
				}
				done[q].Store(int64(i))
				if i > 1 {
					d.sad.remove(ipsec.SAID{Dst: hostB, SPI: spi(q, i-1)})
				}
			}
		})
		senders.Go(func() {
			wire := new(memory)
			o := newOutbound(d, wire)
			o.queue = uint16(q) + 1
			frames := udpFrames(4, 64, func(int) netip.Addr { return pathHost(0) }, nil)
			for oldest := int64(0); oldest < changes; {
				oldest = done[q].Load()
				wire.packets = wire.packets[:0]
				o.handle(frames)
				newest := begun[q].Load()
				for _, p := range wire.packets {
					got := ipsec.SPI(binary.BigEndian.Uint32(p[inet.IPv4Len:]))
					if i := int64(got) - int64(spi(q, 0)); (i < oldest || i > newest) && (oldest > 0 || got != pathSA(0).SPI) {
						t.Errorf("queue %d: SA %s, it should be from %s to %s", q, got, spi(q, int(oldest)), spi(q, int(newest)))
						return
					}
				}
			}
		})
	}
	changers.Wait()
	senders.Wait()
}

// What cannot be tied to a queue is refused as Linux refuses it, and what is reads back.
func TestSAOfQueueThatIsNotThere(t *testing.T) {
	d := pathDevice(t, 0, ipsec.Outbound)
	d.senders = make([]*underlay.LinkSender, 2)
	ctx := context.Background()
	add := func(change func(*ipsec.SA)) error {
		sa := queuedSA(0x2000, cpu(1))
		sa.Window = 0
		change(&sa)
		return d.AddSA(ctx, sa)
	}
	if err := add(func(sa *ipsec.SA) { sa.CPU = cpu(2) }); !errors.Is(err, ipsec.ErrRange) {
		t.Errorf("queue 2 of 2: %v", err)
	}
	if err := add(func(sa *ipsec.SA) { sa.CPU = cpu(1 << 16) }); !errors.Is(err, ipsec.ErrRange) {
		t.Errorf("queue 65536 of 2: %v", err)
	}
	if err := add(func(sa *ipsec.SA) { sa.Direction = ipsec.AnyDirection }); !errors.Is(err, ipsec.ErrInvalid) {
		t.Errorf("without a direction: %v", err)
	}
	if err := add(func(*ipsec.SA) {}); err != nil {
		t.Fatal(err)
	}
	if sa, err := d.LookupSA(ctx, ipsec.SAID{Dst: hostB, SPI: 0x2000}); err != nil || sa.CPU == nil || *sa.CPU != 1 {
		t.Errorf("reads back for CPU %v, %v", sa.CPU, err)
	}
}
