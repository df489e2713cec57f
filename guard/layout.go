package guard

import (
	"cmp"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

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
// addresses and ports share a set, which takes and gives up one without regard to the others; all
// other entries are rules. So do the encapsulations, if there are any.
type walk struct {
	encaps   *set // nil if there were none
	tapped   *set // likewise
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
	srcPort, dstPort uint16 // masks
	spi              bool   // of ESP
}

// key is the part of addresses and ports that counts, as the kernel compares it.
type key string

// set is a set of the table.
type set struct {
	name    string
	family  *family
	shape   shape
	members map[key]*ranked // nil where the set has no entries, but other keys
	// users, unless nil, is how often each member was put: it goes when it was taken as often.
	users map[key]int
	// hosts, unless nil, is the set of all members' addresses without their ports, for fragments that
	// do not show these.
	hosts *set
}

// withHosts gives a set the set of its members' addresses.
func (s *set) withHosts() {
	sh := s.shape
	sh.srcPort, sh.dstPort = 0, 0
	s.hosts = &set{name: s.name + "_hosts", family: s.family, shape: sh, members: make(map[key]*ranked), users: make(map[key]int)}
}

// put adds a member, and returns what that changes in the table.
func (s *set) put(k key, e *ranked) []element {
	if s.users != nil {
		if s.users[k]++; s.users[k] > 1 {
			return nil
		}
	}
	s.members[k] = e
	changes := []element{{set: s, key: k, entry: e}}
	if s.hosts != nil {
		changes = append(changes, s.hosts.put(k[:s.hosts.keyLen()], nil)...)
	}
	return changes
}

// take is the reverse of put.
func (s *set) take(k key) []element {
	if s.users != nil {
		if s.users[k]--; s.users[k] > 0 {
			return nil
		}
		delete(s.users, k)
	}
	delete(s.members, k)
	changes := []element{{set: s, key: k, remove: true}}
	if s.hosts != nil {
		changes = append(changes, s.hosts.take(k[:s.hosts.keyLen()])...)
	}
	return changes
}

// setFrom is from how many entries on a set takes the place of rules, which read better.
const setFrom = 8

// shapeOf returns the shape of an entry that can be in a set: one that looks at addresses, and at
// ports only where they are numbers of 16 bits.
func shapeOf(e *entry) (shape, bool) {
	s := &e.Selector
	sh := shape{direction: e.Direction, protocol: s.Protocol, srcPort: s.SrcPort.Mask, dstPort: s.DstPort.Mask}
	if s.Src.IsValid() {
		sh.srcBits = uint8(s.Src.Bits())
	}
	if s.Dst.IsValid() {
		sh.dstBits = uint8(s.Dst.Bits())
	}
	src, _, _ := portFields(s.Protocol)
	return sh, s.Interface == 0 && e.Mask == 0 && sh.srcBits|sh.dstBits != 0 && (!s.HasPorts() || src.length == 2)
}

func keyOf(e *entry) key {
	var b []byte
	if p := e.Selector.Src; p.IsValid() && p.Bits() > 0 {
		b = append(b, p.Masked().Addr().AsSlice()...)
	}
	if p := e.Selector.Dst; p.IsValid() && p.Bits() > 0 {
		b = append(b, p.Masked().Addr().AsSlice()...)
	}
	for _, p := range []ipsec.PortMatch{e.Selector.SrcPort, e.Selector.DstPort} {
		if !p.Any() {
			b = appendPort(b, p.Value&p.Mask)
		}
	}
	return key(b)
}

// appendPort appends a port as it stands in a register of 32 bits.
func appendPort(b []byte, port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(b, port), 0, 0)
}

// encapSet is an empty set for encapsulations on one side, with a set of their addresses.
func encapSet(s *side, f *family, name string) *set {
	bits := uint8(8 * f.addrLen)
	sh := shape{dstBits: bits, protocol: unix.IPPROTO_UDP, dstPort: 0xffff}
	if !s.anyPeer {
		sh.srcBits, sh.srcPort = bits, 0xffff
	}
	all := &set{name: name, family: f, shape: sh, members: make(map[key]*ranked), users: make(map[key]int)}
	all.withHosts()
	return all
}

// encapKey is the key of an encapsulation on one side.
func encapKey(s *side, e Encap) key {
	src, dst := e.Remote, e.Local
	if s.sends {
		src, dst = dst, src
	}
	if s.anyPeer {
		return key(appendPort(dst.Addr().AsSlice(), dst.Port()))
	}
	b := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	return key(appendPort(appendPort(b, src.Port()), dst.Port()))
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
			if e.Selector.HasPorts() && !seg.admits {
				s.withHosts()
			}
			seg.sets[sh] = s
		}
		if k := keyOf(&e.entry); s.members[k] == nil {
			s.put(k, e)
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

// add puts an entry into its set, and returns what that changes in the table and how to undo it. It
// reports false if it has none and needs a rule.
func (w *walk) add(e *ranked) (changes []element, undo func(), ok bool) {
	seg := w.find(e)
	if seg == nil {
		return nil, nil, false
	}
	sh, ok := shapeOf(&e.entry)
	s := seg.sets[sh]
	if !ok || s == nil {
		return nil, nil, false
	}
	k := keyOf(&e.entry)
	if s.members[k] != nil {
		return nil, nil, false
	}
	if e.compare(&seg.first) < 0 {
		seg.first = *e
	}
	if e.compare(&seg.last) > 0 {
		seg.last = *e
	}
	return s.put(k, e), func() { s.take(k) }, true
}

// remove takes an entry out of its set. It reports false if it has a rule, or was the last.
func (w *walk) remove(e *ranked) (changes []element, undo func(), ok bool) {
	seg := w.find(e)
	if seg == nil {
		return nil, nil, false
	}
	sh, _ := shapeOf(&e.entry)
	s, k := seg.sets[sh], keyOf(&e.entry)
	if s == nil || s.members[k] != e || len(s.members) == 1 {
		return nil, nil, false
	}
	return s.take(k), func() { s.put(k, e) }, true
}
