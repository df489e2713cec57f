package guard

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"espalier/ipsec"
)

// What sets hold after changes one by one is what they would hold if made anew: no entry too
// many or too few, and none in a segment across one that has the other effect.
func TestChangesOfSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := rapid.IntRange(1, 3).Draw(t, "sets from")
		var all []*ranked
		fresh := func() *walk {
			l := build(&Config{}, all, nil, nil, from)
			return l.walks[&egress][&ipv4]
		}
		w := fresh()
		for i := range rapid.IntRange(0, 40).Draw(t, "changes") {
			if len(all) > 0 && rapid.IntRange(0, 2).Draw(t, "remove") == 0 {
				at := rapid.IntRange(0, len(all)-1).Draw(t, "which")
				e := all[at]
				all = slices.Delete(all, at, at+1)
				if _, _, ok := w.remove(e); !ok {
					w = fresh()
				}
			} else {
				e := &ranked{setEntry(t), uint64(i)}
				at, _ := slices.BinarySearchFunc(all, e, (*ranked).compare)
				all = slices.Insert(all, at, e)
				if _, _, ok := w.add(e); !ok {
					w = fresh()
				}
			}
			check(t, w, all)
		}
	})
}

// setEntry is most often one that can be in a set.
func setEntry(t *rapid.T) entry {
	e := entry{Direction: ipsec.Outbound, Action: ipsec.Action(rapid.IntRange(0, 2).Draw(t, "action")), Priority: uint32(rapid.IntRange(0, 4).Draw(t, "priority"))}
	e.Selector.Dst = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(0, 9).Draw(t, "host"))}), rapid.SampledFrom([]int{32, 32, 31}).Draw(t, "bits"))
	e.Selector.Protocol = rapid.SampledFrom([]uint8{0, 0, 6}).Draw(t, "protocol")
	e.Selector.DstPort = rapid.SampledFrom([]ipsec.PortMatch{{}, {}, {}, ipsec.Port(80)}).Draw(t, "port")
	return e
}

// check looks whether the walk decides on the entries in sets as their order demands.
func check(t *rapid.T, w *walk, all []*ranked) {
	t.Helper()
	for i := range w.segments {
		seg := &w.segments[i]
		if i > 0 && (w.segments[i-1].admits == seg.admits || w.segments[i-1].last.compare(&seg.first) >= 0) {
			t.Fatalf("segments %d and %d", i-1, i)
		}
		for sh, s := range seg.sets {
			hosts := make(map[key]int)
			for k := range s.members {
				if s.hosts != nil {
					hosts[k[:s.hosts.keyLen()]]++
				}
			}
			if s.hosts != nil && (!maps.Equal(hosts, s.hosts.users) || len(hosts) != len(s.hosts.members)) {
				t.Fatalf("set %s: hosts %v, users %v, want %v", s.name, s.hosts.members, s.hosts.users, hosts)
			}
			if (s.hosts != nil) != (sh.dstPort != 0 && !seg.admits) {
				t.Fatalf("set %s of shape %+v: hosts %v", s.name, sh, s.hosts)
			}
			for k, e := range s.members {
				if got, _ := shapeOf(&e.entry); got != sh || keyOf(&e.entry) != k || e.admits() != seg.admits || !slices.Contains(all, e) {
					t.Fatalf("%+v in set %s", e, s.name)
				}
				// Whatever has the other effect lies before the segment or behind it.
				if e.compare(&seg.first) < 0 || e.compare(&seg.last) > 0 {
					t.Fatalf("%+v lies outside of its segment", e)
				}
			}
		}
	}
	for _, e := range all {
		for i := range w.segments {
			seg := &w.segments[i]
			if e.admits() != seg.admits && e.compare(&seg.first) > 0 && e.compare(&seg.last) < 0 {
				t.Fatalf("%+v lies in a segment of the other effect", e)
			}
		}
	}
}
