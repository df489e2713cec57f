package dataplane

import (
	"math/bits"
	"sync/atomic"
)

// table is a hash table that packets read without a lock while one writer at a time changes it.
// With many entries it is the cache lines they touch that packets pay for: a look-up reads a word
// of tags, of which many fit into a cache, one slot, and then only entries whose hash has the same
// tag, most often the one that is looked for. The zero table is empty.
//
// A reader sees every entry that is there before and after its look-up; for more than that, see
// spd.lookup.
type table[E any] struct {
	groups atomic.Pointer[groups[E]]

	// What follows is the writer's.
	guesses bool // there is room for what is needed next: see groups
	entries int
	removed int // since groups were made
}

// groups are eight slots each. There is a power of two of them.
type groups[E any] struct {
	// tags has a byte for each slot: 0 if it is free since the groups were made, 1 if there was
	// an entry, else some bits of its hash. A search ends where a slot is free.
	tags  []atomic.Uint64
	slots [][groupSize]atomic.Pointer[E]
	// soon, unless nil, has for each slot the SA that is needed after its entry, so that the CPU can
	// fetch both at once. It is no more than a guess.
	soon [][groupSize]atomic.Pointer[association]
}

const (
	groupSize = 8
	noEntry   = 1
	eachByte  = 0x0101010101010101
	highBits  = 0x80 * eachByte
)

// tagOf is what is remembered of a hash. Which group it is in, other bits tell.
func tagOf(hash uint64) uint64 { return hash>>56 | 0x80 }

// equal marks the highest bit of each byte of tags that is this hash's: and may be, above such a
// one, of a byte that is not.
func equal(tags, hash uint64) uint64 {
	differ := tags ^ tagOf(hash)*eachByte
	return (differ - eachByte) &^ differ & highBits
}

// slotOf is the first slot that is marked.
func slotOf(found uint64) int { return bits.TrailingZeros64(found) / 8 }

// hasFree tells whether a slot has been free all the time.
func hasFree(tags uint64) bool { return (tags-eachByte)&^tags&highBits != 0 }

// find gives the entry with this hash that is the one, nil if there is none.
func (t *table[E]) find(hash uint64, is func(*E) bool) *E {
	g := t.groups.Load()
	if g == nil {
		return nil
	}
	for at := g.first(hash); ; at = g.after(at) {
		g.slots[at][0].Load() // the CPU fetches the line of slots while it waits for the tags
		tags := g.tags[at].Load()
		for found := equal(tags, hash); found != 0; found &= found - 1 {
			if e := g.slots[at][slotOf(found)].Load(); e != nil && is(e) {
				return e
			}
		}
		if hasFree(tags) {
			return nil
		}
	}
}

// first is the group where a search begins, after the one where it goes on.
func (g *groups[E]) first(hash uint64) uint64 { return hash & uint64(len(g.tags)-1) }
func (g *groups[E]) after(at uint64) uint64   { return (at + 1) & uint64(len(g.tags)-1) }

// add puts an entry in. hashOf is the hash of each.
func (t *table[E]) add(e *E, hashOf func(*E) uint64) {
	t.makeRoom(hashOf)
	t.entries++
	t.groups.Load().insert(e, hashOf(e))
}

func (g *groups[E]) insert(e *E, hash uint64) {
	for at := g.first(hash); ; at = g.after(at) {
		tags := g.tags[at].Load()
		for slot := range groupSize {
			if tags>>(8*slot)&0x80 == 0 {
				g.slots[at][slot].Store(e)
				g.setTag(at, slot, tagOf(hash))
				return
			}
		}
	}
}

func (g *groups[E]) setTag(group uint64, slot int, tag uint64) {
	tags := g.tags[group].Load()
	g.tags[group].Store(tags&^(0xff<<(8*slot)) | tag<<(8*slot))
}

// replace puts an entry in the place of another with the same key.
func (t *table[E]) replace(old, e *E, hash uint64) {
	g, group, slot := t.place(old, hash)
	g.slots[group][slot].Store(e)
}

// remove takes out an entry that is there.
func (t *table[E]) remove(e *E, hash uint64) {
	g, group, slot := t.place(e, hash)
	g.setTag(group, slot, noEntry)
	g.slots[group][slot].Store(nil)
	if g.soon != nil {
		g.soon[group][slot].Store(nil)
	}
	t.removed++
	if t.entries--; t.entries == 0 {
		t.clear()
	}
}

// place is where an entry is that is there.
func (t *table[E]) place(e *E, hash uint64) (g *groups[E], group uint64, slot int) {
	g = t.groups.Load()
	for group = g.first(hash); ; group = g.after(group) {
		for slot = range groupSize {
			if g.slots[group][slot].Load() == e {
				return g, group, slot
			}
		}
		if hasFree(g.tags[group].Load()) {
			panic("an entry to take out is not there")
		}
	}
}

func (t *table[E]) clear() {
	t.groups.Store(nil)
	t.entries, t.removed = 0, 0
}

// makeRoom sees to it that one more entry can be added, with an eighth of the slots free.
func (t *table[E]) makeRoom(hashOf func(*E) uint64) {
	old := t.groups.Load()
	if old != nil && t.entries+t.removed < len(old.tags)*(groupSize-1) {
		return
	}
	n := 1
	for t.entries >= n*(groupSize-1)*3/4 {
		n *= 2
	}
	g := &groups[E]{tags: make([]atomic.Uint64, n), slots: make([][groupSize]atomic.Pointer[E], n)}
	if t.guesses {
		g.soon = make([][groupSize]atomic.Pointer[association], n)
	}
	for e := range t.all {
		g.insert(e, hashOf(e))
	}
	t.removed = 0
	t.groups.Store(g)
}

// all yields all entries. The table must not change meanwhile.
func (t *table[E]) all(yield func(*E) bool) {
	g := t.groups.Load()
	if g == nil {
		return
	}
	for i := range g.slots {
		for slot := range groupSize {
			if e := g.slots[i][slot].Load(); e != nil && !yield(e) {
				return
			}
		}
	}
}
