package guard

import (
	"cmp"
	"slices"

	"espalier/ipsec"
)

// ranked is an entry at its place among all: by priority, then in the order given, those
// inherited behind the others.
type ranked struct {
	entry
	order uint64
}

func (r *ranked) compare(to *ranked) int {
	return cmp.Or(cmp.Compare(r.Priority, to.Priority), cmp.Compare(r.order, to.order))
}

// inheritedOrder is the order of the first inherited entry. Of equal priority the SPD's own come
// first: a restarted process that adds its policies again, one by one, then keeps their order.
const inheritedOrder = 1 << 63

// inOrder gives entries, in their order, places from the one given.
func inOrder(entries []entry, from uint64) []*ranked {
	all := make([]*ranked, len(entries))
	for i, e := range entries {
		all[i] = &ranked{e, from + uint64(i)}
	}
	return all
}

// walk is what a table holds for packets of one family going one way, as far as it can be changed
// without replacing the table. Entries that follow each other and have one effect are a segment:
// within it their order does not matter. Many entries of a segment that look at the same bits of
// an address share a set, which takes and gives up one without regard to the others; all other
// entries are rules.
type walk struct {
	segments []segment
}

// segment is a run of entries that all admit, or all drop.
type segment struct {
	admits      bool
	first, last ranked // no entry of it lies before or behind; there may be none at these places
	sets        map[shape]*set
}

// shape is what the entries of a set have in common.
type shape struct {
	direction        ipsec.Direction // two directions may share a hook, and have the same addresses
	srcBits, dstBits uint8
	protocol         uint8
}

// key is the part of both addresses that counts, as the kernel compares it.
type key string

// set is a set of the table.
type set struct {
	name    string
	family  *family
	shape   shape
	members map[key]*ranked
}

// setFrom is from how many entries on a set takes the place of rules, which read better.
const setFrom = 8

// shapeOf returns the shape of an entry that can be in a set.
func shapeOf(e *entry) (shape, bool) {
	s := &e.Selector
	sh := shape{direction: e.Direction, protocol: s.Protocol}
	if s.Src.IsValid() {
		sh.srcBits = uint8(s.Src.Bits())
	}
	if s.Dst.IsValid() {
		sh.dstBits = uint8(s.Dst.Bits())
	}
	return sh, s.Interface == 0 && !s.HasPorts() && sh.srcBits|sh.dstBits != 0
}

func keyOf(e *entry) key {
	var b []byte
	if p := e.Selector.Src; p.IsValid() && p.Bits() > 0 {
		b = append(b, p.Masked().Addr().AsSlice()...)
	}
	if p := e.Selector.Dst; p.IsValid() && p.Bits() > 0 {
		b = append(b, p.Masked().Addr().AsSlice()...)
	}
	return key(b)
}

// newWalk finds the segments of entries in SPD order, and which of those share sets: at least as
// many as from tells. Of entries with the same key only the first is in the set.
func newWalk(f *family, entries []*ranked, from int, name func() string) (walk, map[*ranked]*set) {
	var w walk
	in := make(map[*ranked]*set)
	for len(entries) > 0 {
		admits := entries[0].admits()
		n := slices.IndexFunc(entries, func(e *ranked) bool { return e.admits() != admits })
		if n < 0 {
			n = len(entries)
		}
		seg := segment{admits: admits, first: *entries[0], last: *entries[n-1], sets: make(map[shape]*set)}
		seg.fill(f, entries[:n], from, name, in)
		w.segments = append(w.segments, seg)
		entries = entries[n:]
	}
	return w, in
}

func (seg *segment) fill(f *family, entries []*ranked, from int, name func() string, in map[*ranked]*set) {
	count := make(map[shape]int)
	for _, e := range entries {
		if sh, ok := shapeOf(&e.entry); ok {
			count[sh]++
		}
	}
	for _, e := range entries {
		sh, ok := shapeOf(&e.entry)
		if !ok || count[sh] < from {
			continue
		}
		s := seg.sets[sh]
		if s == nil {
			s = &set{name: name(), family: f, shape: sh, members: make(map[key]*ranked, count[sh])}
			seg.sets[sh] = s
		}
		if k := keyOf(&e.entry); s.members[k] == nil {
			s.members[k] = e
			in[e] = s
		}
	}
}

// find is the segment that an entry belongs to, nil if it needs one of its own: between two of
// the same effect lies one of the other.
func (w *walk) find(e *ranked) *segment {
	next, _ := slices.BinarySearchFunc(w.segments, e, func(s segment, e *ranked) int { return s.first.compare(e) })
	admits := e.admits()
	// All segments before next begin before e.
	if next > 0 {
		before := &w.segments[next-1]
		if before.admits == admits {
			return before
		}
		if e.compare(&before.last) < 0 {
			return nil
		}
	}
	if next < len(w.segments) && w.segments[next].admits == admits {
		return &w.segments[next]
	}
	return nil
}

// add puts an entry into its set. It reports false if it has none and needs a rule.
func (w *walk) add(e *ranked) (*set, bool) {
	seg := w.find(e)
	if seg == nil {
		return nil, false
	}
	sh, ok := shapeOf(&e.entry)
	s := seg.sets[sh]
	if !ok || s == nil {
		return nil, false
	}
	k := keyOf(&e.entry)
	if s.members[k] != nil {
		return nil, false
	}
	s.members[k] = e
	if e.compare(&seg.first) < 0 {
		seg.first = *e
	}
	if e.compare(&seg.last) > 0 {
		seg.last = *e
	}
	return s, true
}

// remove takes an entry out of its set. It reports false if it has a rule, or was the last.
func (w *walk) remove(e *ranked) (*set, bool) {
	seg := w.find(e)
	if seg == nil {
		return nil, false
	}
	sh, _ := shapeOf(&e.entry)
	s, k := seg.sets[sh], keyOf(&e.entry)
	if s == nil || s.members[k] != e || len(s.members) == 1 {
		return nil, false
	}
	delete(s.members, k)
	return s, true
}
