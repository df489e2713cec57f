package trial

import (
	"fmt"
	"slices"
	"strings"
)

// dimension is one property of cases, with the values it can have in the order they are shown.
type dimension struct {
	name   string
	values []string
	of     func(Case) string
}

var (
	offloads   = dimension{"offload", []string{Crypto, Packet}, func(c Case) string { return c.Offload }}
	keys       = dimension{"AES", []string{"128", "192", "256"}, func(c Case) string { return fmt.Sprint(c.KeyBits) }}
	modes      = dimension{"mode", []string{Transport, Tunnel}, func(c Case) string { return c.Mode }}
	esn        = dimension{"ESN", []string{"off", "on"}, func(c Case) string { return onOff(c.ESN) }}
	families   = dimension{"IP", []string{"v4", "v6"}, func(c Case) string { return strings.TrimPrefix(c.Family, "ip") }}
	directions = dimension{"dir", []string{Out, In}, func(c Case) string { return c.Dir }}
	windows    = dimension{"window", []string{"0", "32", "64", "128", "256", "1024", "4096"}, func(c Case) string { return fmt.Sprint(c.Window) }}
)

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// row is cases with one answer: all that have one of its values of each dimension.
type row struct {
	Tried  // the first of them
	values [][]string
}

// fold puts cases with the same answer together that differ in one dimension only, dimension by
// dimension from the last to the first, until there is nothing to put together. No two cases may be
// alike in all dimensions.
func fold(cases []Tried, dims []dimension) []row {
	rows := make([]row, len(cases))
	for i, t := range cases {
		rows[i].Tried = t
		for _, d := range dims {
			rows[i].values = append(rows[i].values, []string{d.of(t.Case)})
		}
	}
	for before := -1; len(rows) != before; {
		before = len(rows)
		for i := len(dims) - 1; i >= 0; i-- {
			rows = foldBy(rows, i, cases, dims)
		}
	}
	return rows
}

// foldBy joins rows that differ in one dimension only.
func foldBy(rows []row, dim int, cases []Tried, dims []dimension) (folded []row) {
	at := make(map[string]int) // by all but that dimension
	for _, r := range rows {
		rest := r.cells(cases, dims)
		rest[dim] = ""
		key := fmt.Sprintf("%q %q %q", rest, r.Outcome, r.words())
		i, ok := at[key]
		if !ok {
			at[key] = len(folded)
			folded = append(folded, r)
			continue
		}
		for d := range dims {
			folded[i].values[d] = dims[d].union(folded[i].values[d], r.values[d])
		}
	}
	return folded
}

// union of values, in their order.
func (d dimension) union(a, b []string) (both []string) {
	for _, v := range d.values {
		if slices.Contains(a, v) || slices.Contains(b, v) {
			both = append(both, v)
		}
	}
	return both
}

// cells are the row in words: "any" stands for all values that were tried with the row's others.
func (r *row) cells(cases []Tried, dims []dimension) (cells []string) {
	for i := range dims {
		cell := strings.Join(r.values[i], " ")
		if n := len(r.values[i]); n > 1 && n == r.tried(cases, dims, i) {
			cell = "any"
		}
		cells = append(cells, cell)
	}
	return cells
}

// tried counts the values of one dimension among the cases that have the row's values of the others.
func (r *row) tried(cases []Tried, dims []dimension, dim int) int {
	found := make(map[string]bool)
	for _, c := range cases {
		fits := true
		for i, d := range dims {
			fits = fits && (i == dim || slices.Contains(r.values[i], d.of(c.Case)))
		}
		if fits {
			found[dims[dim].of(c.Case)] = true
		}
	}
	return len(found)
}
