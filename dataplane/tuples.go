package dataplane

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"sync/atomic"

	"espalier/ipsec"
)

// tuples finds the policy of one direction that decides on a packet, by tuple space search:
// policies whose selectors look at the same bits of a packet share a hash table, and there are as
// many look-ups as there are such shapes, however many policies. Shapes are tried in the order
// of the best policy they ever had, until none can be better than what was found.
type tuples struct {
	secret [6]uint64 // so that nobody can choose selectors or packets that collide
	shapes atomic.Pointer[[]ranking]
}

// ranking is a shape at its place. The list is never changed, but replaced.
type ranking struct {
	best rank // no policy of it has been better
	*tuple
}

// shape is which bits of a packet a selector looks at.
type shape struct {
	src, dst   bool     // it looks at addresses, which are
	src4, dst4 bool     // those of IPv4
	mask       tupleKey // ones where bits count
}

// bits128 is an address, or as much of it as counts.
type bits128 struct{ high, low uint64 }

// tupleKey is the bits of a packet that count, all others 0.
type tupleKey struct {
	src, dst bits128
	ports    uint32
	protocol uint8
}

// tuple is the policies of one shape. A key may have several, if their selectors differ in bits
// that do not count: the table has the first of them, and they are linked in their order.
type tuple struct {
	shape
	policies table[policy]
	// Where ports count: the policies that decide on packets whose ports cannot be read, in
	// order, under keys without ports. Unlike the table it is not to be read during a change.
	withoutPorts map[tupleKey][]*policy
}

// rank is the place of a policy among those of its direction: the lowest decides.
type rank struct {
	priority uint32
	order    uint64
}

func (r rank) compare(to rank) int {
	return cmp.Or(cmp.Compare(r.priority, to.priority), cmp.Compare(r.order, to.order))
}

func (r rank) before(other rank) bool { return r.compare(other) < 0 }

func shapeOf(s *ipsec.Selector) shape {
	of := shape{mask: tupleKey{src: maskOf(s.Src), dst: maskOf(s.Dst), ports: uint32(s.SrcPort.Mask)<<16 | uint32(s.DstPort.Mask)}}
	of.src, of.src4 = s.Src.IsValid(), s.Src.Addr().Is4()
	of.dst, of.dst4 = s.Dst.IsValid(), s.Dst.Addr().Is4()
	if s.Protocol != 0 {
		of.mask.protocol = ^uint8(0)
	}
	return of
}

// maskOf is ones where p has them in an address of 128 bits: of one of 32 those are the last.
func maskOf(p netip.Prefix) bits128 {
	n := max(p.Bits(), 0)
	if p.IsValid() && p.Addr().Is4() {
		n += 96
	}
	return bits128{^(^uint64(0) >> n), ^(^uint64(0) >> max(n-64, 0))}
}

// set makes b an address, in the form of 128 bits.
func (b *bits128) set(a netip.Addr) {
	if a.Is4() { // As16 would do, but slowly: it puts the 16 bytes together in memory
		a4 := a.As4()
		b.high, b.low = 0, 0xffff<<32|uint64(binary.BigEndian.Uint32(a4[:]))
		return
	}
	a16 := a.As16()
	b.high, b.low = binary.BigEndian.Uint64(a16[:8]), binary.BigEndian.Uint64(a16[8:])
}

func (s *shape) hasPorts() bool { return s.mask.ports != 0 }

// packet is what shapes see of a packet.
type packet struct {
	tupleKey
	src4, dst4 bool // its addresses are of IPv4
}

// set makes p what there is in f. Like keyOf it writes where it is to stand: to copy what was just
// written in other pieces takes a CPU longer than all the rest.
func (p *packet) set(f *ipsec.Flow) {
	p.src.set(f.Src)
	p.dst.set(f.Dst)
	p.src4, p.dst4 = f.Src.Is4(), f.Dst.Is4()
	p.protocol, p.ports = f.Protocol, 0
	if !f.NoPorts {
		p.ports = uint32(f.SrcPort)<<16 | uint32(f.DstPort)
	}
}

// keyOf makes k what the shape sees of a packet, but for its ports if it has none. It reports false
// for one of another family.
func (s *shape) keyOf(p *packet, k *tupleKey) bool {
	k.src.high, k.src.low = p.src.high&s.mask.src.high, p.src.low&s.mask.src.low
	k.dst.high, k.dst.low = p.dst.high&s.mask.dst.high, p.dst.low&s.mask.dst.low
	k.ports, k.protocol = p.ports&s.mask.ports, p.protocol&s.mask.protocol
	return (!s.src || s.src4 == p.src4) && (!s.dst || s.dst4 == p.dst4)
}

// keysOf are the keys of a selector of this shape: with ports and without.
func (s *shape) keysOf(sel *ipsec.Selector) (with, without tupleKey) {
	var p packet
	p.set(&ipsec.Flow{Src: sel.Src.Addr(), Dst: sel.Dst.Addr(), Protocol: sel.Protocol, SrcPort: sel.SrcPort.Value, DstPort: sel.DstPort.Value})
	s.keyOf(&p, &with)
	without = with
	without.ports = 0
	return with, without
}

// hash is that of a key under the secret of this table: products of two words each, each of which
// is hidden, with their halves added, as runtimes hash without instructions for AES.
func (t *tuples) hash(k *tupleKey) uint64 {
	h := product(k.src.low^t.secret[0], k.dst.low^t.secret[1])
	if k.src.high|k.dst.high != 0 { // IPv6
		h = product(k.src.high^h^t.secret[2], k.dst.high^t.secret[3])
	}
	return product(h^t.secret[4], uint64(k.ports)<<8^uint64(k.protocol)^t.secret[5])
}

func product(a, b uint64) uint64 {
	high, low := bits.Mul64(a, b)
	return high ^ low
}

func (t *tuples) hashOf(p *policy) uint64 {
	return t.hash(&tupleKey{src: p.src, dst: p.dst, ports: p.ports, protocol: p.protocol})
}

func (p *policy) has(k *tupleKey) bool {
	return p.src == k.src && p.dst == k.dst && p.ports == k.ports && p.protocol == k.protocol
}

// first is the first of the policies with a key, nil if there is none. It is table.find, in one piece
// for each packet's sake: of the lines that a packet needs it asks for as many at once as it can.
func (t *tuples) first(u *tuple, k *tupleKey) *policy {
	g := u.policies.groups.Load()
	if g == nil {
		return nil
	}
	hash := t.hash(k)
	for at := g.first(hash); ; at = g.after(at) {
		g.slots[at][0].Load() // to have these lines on the way while it waits for the tags
		g.soon[at][0].Load()
		tags := g.tags[at].Load()
		for found := equal(tags, hash); found != 0; found &= found - 1 {
			p, guess := &g.slots[at][slotOf(found)], &g.soon[at][slotOf(found)]
			soon := guess.Load()
			if soon != nil {
				soon.blemishes.none() // to have it on the way, too
			}
			if p := p.Load(); p != nil && p.has(k) {
				if recent := p.recent.Load(); recent != soon {
					guess.Store(recent)
				}
				return p
			}
		}
		if hasFree(tags) {
			return nil
		}
	}
}

// list is the shapes in the order in which they are tried.
func (t *tuples) list() []ranking {
	if shapes := t.shapes.Load(); shapes != nil {
		return *shapes
	}
	return nil
}

// add puts a policy in.
func (t *tuples) add(p *policy) {
	shapes, s := t.list(), shapeOf(&p.Selector)
	at := slices.IndexFunc(shapes, func(u ranking) bool { return u.shape == s })
	if at >= 0 && !p.rank().before(shapes[at].best) {
		t.insert(shapes[at].tuple, p)
		return
	}
	u := ranking{best: p.rank(), tuple: &tuple{shape: s, policies: table[policy]{guesses: true}}}
	if at >= 0 {
		u.tuple = shapes[at].tuple
		shapes = slices.Delete(slices.Clone(shapes), at, at+1)
	}
	t.insert(u.tuple, p)
	at, _ = slices.BinarySearchFunc(shapes, u, func(a, b ranking) int { return a.best.compare(b.best) })
	shapes = slices.Insert(slices.Clip(shapes), at, u)
	t.shapes.Store(&shapes)
}

func (t *tuples) insert(u *tuple, p *policy) {
	with, without := u.keysOf(&p.Selector)
	p.src, p.dst, p.ports, p.protocol = with.src, with.dst, with.ports, with.protocol
	first := t.first(u, &with)
	switch {
	case first == nil:
		u.policies.add(p, t.hashOf)
	case p.rank().before(first.rank()):
		p.next = first
		u.policies.replace(first, p, t.hashOf(p))
	default:
		before := first
		for before.next != nil && before.next.rank().before(p.rank()) {
			before = before.next
		}
		p.next, before.next = before.next, p
	}
	if !u.hasPorts() || letsPass(p) {
		return
	}
	if u.withoutPorts == nil {
		u.withoutPorts = make(map[tupleKey][]*policy)
	}
	list := u.withoutPorts[without]
	at, _ := slices.BinarySearchFunc(list, p, comparePolicies)
	u.withoutPorts[without] = slices.Insert(list, at, p)
}

func comparePolicies(p, q *policy) int { return p.rank().compare(q.rank()) }

// remove takes a policy out that is there.
func (t *tuples) remove(p *policy) {
	shapes, s := t.list(), shapeOf(&p.Selector)
	at := slices.IndexFunc(shapes, func(u ranking) bool { return u.shape == s })
	u := shapes[at].tuple
	t.takeOut(u, p)
	if u.policies.entries == 0 {
		shapes = slices.Delete(slices.Clone(shapes), at, at+1)
		t.shapes.Store(&shapes)
	}
}

func (t *tuples) takeOut(u *tuple, p *policy) {
	with, without := u.keysOf(&p.Selector)
	first := t.first(u, &with)
	switch {
	case first != p:
		before := first
		for before.next != p {
			before = before.next
		}
		before.next = p.next
	case p.next != nil:
		u.policies.replace(p, p.next, t.hashOf(p))
	default:
		u.policies.remove(p, t.hashOf(p))
	}
	p.next = nil
	list := u.withoutPorts[without]
	if at, ok := slices.BinarySearchFunc(list, p, comparePolicies); ok {
		if list = slices.Delete(list, at, at+1); len(list) > 0 {
			u.withoutPorts[without] = list
		} else {
			delete(u.withoutPorts, without)
		}
	}
}

// find is the policy that decides on f, nil if none does. A packet whose ports cannot be
// read falls under a selector with ports, but not to be let pass by it: what such a fragment
// belongs to nobody knows.
func (t *tuples) find(f *ipsec.Flow) (found *policy) {
	var p packet
	p.set(f)
	var k tupleKey
	shapes := t.list()
	for i := range shapes {
		u := &shapes[i]
		// Only the priority is at hand: of two with the same one the orders are compared if
		// they both match.
		if found != nil && found.priority < u.best.priority {
			return found
		}
		if !u.keyOf(&p, &k) {
			continue
		}
		var first *policy
		if !f.NoPorts || !u.hasPorts() {
			first = t.first(u.tuple, &k)
		} else if list := u.withoutPorts[k]; len(list) > 0 {
			first = list[0]
		}
		if first != nil && (found == nil || first.rank().before(found.rank())) {
			found = first
		}
	}
	return found
}
