package soak

import (
	"slices"
	"strings"
	"testing"

	"espalier/test/bench/device/hosts"
	"espalier/test/bench/device/traffic"
	"espalier/test/bench/report"
	"espalier/test/bench/sequence"
)

func clean() *findings {
	flat := slices.Repeat([]uint64{20 * hosts.MiB}, 4*fills)
	return &findings{
		control: traffic.Stream{Rate: 2e9, Retransmits: []int{0, 3, 0, 1}},
		load:    traffic.Stream{Rate: 2e9, Retransmits: []int{1, 0, 0, 2, 0, 1, 3, 0}},
		witness: sequence.Testimony{Totals: sequence.Totals{SPIs: 8, Seen: 1000}},
		drops:   map[string]uint64{},
		memory:  [2][]uint64{flat, flat},
	}
}

func unmet(results []report.Result) (names []string) {
	for _, r := range results {
		if r.Met != (r.Ratio >= r.Target) {
			names = append(names, "contradiction: "+r.Name)
		}
		if !r.Met {
			names = append(names, r.Name)
		}
	}
	return names
}

func TestWhatMustNotBe(t *testing.T) {
	if names := unmet(clean().results("x")); names != nil {
		t.Errorf("nothing is wrong, but %v", names)
	}
	for _, c := range []struct {
		want  string
		spoil func(f *findings)
	}{
		{"sequence numbers missing", func(f *findings) { f.witness.Missing = 1 }},
		{"sequence numbers out of order or again", func(f *findings) { f.witness.Late = 1 }},
		{"sequence numbers out of order or again", func(f *findings) { f.witness.Again = 1 }},
		{"SAs by which nothing came", func(f *findings) { f.silent = 1 }},
		{"packets the witness could not read", func(f *findings) { f.witness.Unread = 1 }},
		{"packets the witness lost", func(f *findings) { f.witness.Lost = 1 }},
		{"packets the cable lost", func(f *findings) { f.cable = 1 }},
		{"drops of both devices", func(f *findings) { f.drops["in-no-sa"] = 1 }},
		{"retransmissions", func(f *findings) { f.load.Retransmits = []int{9, 8, 9, 8, 9, 8, 9, 8} }},
		{"memory, receiving host", func(f *findings) {
			f.memory[1] = slices.Concat(f.memory[0][:3*fills], slices.Repeat([]uint64{22 * hosts.MiB}, fills))
		}},
	} {
		f := clean()
		c.spoil(f)
		if names := unmet(f.results("x")); len(names) != 1 || names[0] != c.want {
			t.Errorf("%s: unmet are %v", c.want, names)
		}
	}
}

func TestDropsAreNamed(t *testing.T) {
	f := clean()
	f.drops = map[string]uint64{"out-no-sa": 2, "in-no-sa": 40}
	for _, r := range f.results("x") {
		if strings.HasPrefix(r.Name, "drops") && (r.Value != 42 || r.Note != "in-no-sa 40, out-no-sa 2") {
			t.Errorf("got %+v", r)
		}
	}
}

// The memory may fill in the first quarter, and grow by 2 % and 1 MiB then.
func TestGrowth(t *testing.T) {
	quarters := func(mib ...uint64) (all []uint64) {
		for _, m := range mib {
			for range fills / 5 { // the median counts
				all = append(all, m*hosts.MiB, m*hosts.MiB, 0, m*hosts.MiB, 1<<40)
			}
		}
		return all
	}
	for _, c := range []struct {
		memory []uint64
		met    bool
	}{
		{nil, true},
		{[]uint64{1}, true},
		{quarters(10, 50, 60), true}, // too short
		{quarters(10, 50, 50, 50), true},
		{quarters(10, 50, 52, 52), true},
		{quarters(10, 50, 52, 53), false},
		{quarters(60, 50, 50, 60), false},
	} {
		if r := growth("x", c.memory); r.Met != c.met {
			t.Errorf("%v: got %+v", c.memory, r)
		}
	}
}

// A burst now and then, where there are none without rekeying, is what rekeying would do.
func TestRetransmits(t *testing.T) {
	for _, c := range []struct {
		without, with []int
		met           bool
	}{
		{nil, nil, true},
		{[]int{0, 0}, []int{0, 0, 0, 0}, true},
		{[]int{0, 0}, []int{0, 1, 0, 0}, true},
		{[]int{0, 0}, []int{0, 90, 0, 0}, false},
		{[]int{0, 90, 0, 0}, []int{0, 90, 0, 90}, true},
		{[]int{0, 3, 0, 1}, []int{0, 0, 0, 900}, false},
		{[]int{5, 4, 6, 5}, []int{5, 6, 4, 5, 6, 4, 5, 5}, true},
		{[]int{5, 4, 6, 5}, []int{9, 8, 9, 10, 8, 9, 9, 10}, false},
		{[]int{5, 4, 6, 5}, []int{0, 0, 0, 0}, true},
	} {
		if r := retransmits(c.without, c.with); r.Met != c.met {
			t.Errorf("%v, %v: got %+v", c.without, c.with, r)
		}
	}
}
