package dataplane

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"espalier/ipsec"
)

// counted is an entry whose hash has few values, so that many entries meet.
type counted struct{ n int }

// A table holds what a map would hold.
func TestTableIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		few := uint64(rapid.IntRange(1, 300).Draw(t, "hashes"))
		hashOf := func(c *counted) uint64 { return uint64(c.n) % few * 0x9e3779b97f4a7c15 }
		var tab table[counted]
		want := map[int]*counted{}
		for range rapid.IntRange(0, 200).Draw(t, "changes") {
			n := rapid.IntRange(0, 60).Draw(t, "which")
			have, c := want[n], &counted{n: n}
			switch {
			case have == nil:
				tab.add(c, hashOf)
				want[n] = c
			case rapid.Bool().Draw(t, "replace"):
				tab.replace(have, c, hashOf(have))
				want[n] = c
			default:
				tab.remove(have, hashOf(have))
				delete(want, n)
			}
		}
		for n := range 61 {
			if got := tab.find(hashOf(&counted{n: n}), func(c *counted) bool { return c.n == n }); got != want[n] {
				t.Fatalf("%d: %v, want %v", n, got, want[n])
			}
		}
		if tab.entries != len(want) {
			t.Fatalf("%d entries, want %d", tab.entries, len(want))
		}
		byNumber := func(a, b *counted) int { return a.n - b.n }
		if got := slices.SortedFunc(tab.all, byNumber); !slices.Equal(got, slices.SortedFunc(maps.Values(want), byNumber)) {
			t.Fatalf("all: %v", got)
		}
	})
}

// Readers find what stays, while others come and go around it and the table grows.
func TestTableIsReadMeanwhile(t *testing.T) {
	hashOf := func(c *counted) uint64 { return uint64(c.n) * 0x9e3779b97f4a7c15 }
	var tab table[counted]
	const stay = 50
	for n := range stay {
		tab.add(&counted{n: n}, hashOf)
	}
	readMeanwhile(t, func() bool {
		n := rand.IntN(stay)
		c := tab.find(hashOf(&counted{n: n}), func(c *counted) bool { return c.n == n })
		return c != nil
	}, func() {
		var some []*counted
		for n := range 2000 {
			c := &counted{n: stay + n}
			tab.add(c, hashOf)
			some = append(some, c)
		}
		for _, c := range some {
			tab.remove(c, hashOf(c))
		}
	})
}

// There is a policy for a packet at all times, if never the same for long and of ever another shape:
// none of its look-ups may fall between two of them.
func TestLookupIsOfOneMoment(t *testing.T) {
	s := newSPD(nil)
	f := ipsec.Flow{Src: hostA, Dst: hostB, Protocol: 6, SrcPort: 1, DstPort: 2}
	selectors := []ipsec.Selector{{Dst: hostPrefix(hostB)}, {Src: hostPrefix(hostA)}, {Protocol: 6}, {DstPort: ipsec.Port(2)}}
	i := 0
	next := func(old *policy) *policy {
		i++
		return s.prepare(&ipsec.Policy{
			Direction: ipsec.Outbound, Selector: selectors[i%len(selectors)], Priority: uint32(rand.IntN(3)), Action: ipsec.Discard,
		}, old)
	}
	last := next(nil)
	s.put(last, nil)
	readMeanwhile(t, func() bool { return s.lookup(ipsec.Outbound, &f, 1) != nil }, func() {
		for range 5000 {
			p := next(nil) // there before the other goes
			s.put(p, nil)
			s.drop(last)
			last = next(p) // in its place
			s.put(last, p)
		}
	})
}

// What packets need stands in whole cache lines, side by side.
func TestLines(t *testing.T) {
	if n := unsafe.Sizeof(policy{}); n != 64 {
		t.Errorf("a policy has %d bytes: it should be one cache line", n)
	}
	if n := unsafe.Sizeof(association{}); n != 128 {
		t.Errorf("an association has %d bytes: it should be two cache lines", n)
	}
	var lines slab[policy]
	for i := range 1000 {
		p := lines.new()
		if at := uintptr(unsafe.Pointer(p)); at%64 != 0 || p.rule != nil {
			t.Fatalf("policy %d at %#x: %+v", i, at, p)
		}
		p.rule = &rule{}
	}
}

// readMeanwhile reads until a change is done; every reading must be good.
func readMeanwhile(t *testing.T, good func() bool, change func()) {
	t.Helper()
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if !good() {
					t.Error("nothing found")
					return
				}
			}
		})
	}
	change()
	close(done)
	readers.Wait()
}
