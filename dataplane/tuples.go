package dataplane

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"espalier/ipsec"
)

// tuples finds the policy of one direction that decides on a packet, by tuple space search:
// policies whose selectors look at the same bits of a packet share a hash table, and there are as
// many look-ups as there are such shapes, however many policies. Shapes are tried in the order
// of the best policy they ever had, until none can be better than what was found.
type tuples struct {
	shapes []*tuple
}

// shape is which bits of a packet a selector looks at.
type shape struct {
	src, dst         network
	protocol         bool
	srcPort, dstPort uint16 // masks
}

// network is which bits of an address count.
type network struct {
	bitLen, bits uint8 // 32 or 128, of which the first bits count; bitLen 0: any address
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
// that do not count: they are linked in their order.
type tuple struct {
	shape
	best  rank // no policy of it has been better
	byKey map[tupleKey]*policy
	// Where ports count: the policies that decide on packets whose ports cannot be read, in
	// order, under keys without ports.
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

func networkOf(p netip.Prefix) network {
	if !p.IsValid() {
		return network{}
	}
	return network{bitLen: uint8(p.Addr().BitLen()), bits: uint8(p.Bits())}
}

func shapeOf(s *ipsec.Selector) shape {
	return shape{
		src: networkOf(s.Src), dst: networkOf(s.Dst), protocol: s.Protocol != 0,
		srcPort: s.SrcPort.Mask, dstPort: s.DstPort.Mask,
	}
}

// of returns the bits of an address that count, and whether it has them.
func (n network) of(a netip.Addr) (bits128, bool) {
	if n.bitLen == 0 {
		return bits128{}, true
	}
	var b bits128
	switch {
	case int(n.bitLen) != a.BitLen():
		return b, false
	case n.bitLen == 32:
		a4 := a.As4()
		b.high = uint64(binary.BigEndian.Uint32(a4[:])) << 32
	default:
		a16 := a.As16()
		b.high, b.low = binary.BigEndian.Uint64(a16[:]), binary.BigEndian.Uint64(a16[8:])
	}
	if n.bits <= 64 {
		return bits128{high: b.high &^ (^uint64(0) >> n.bits)}, true
	}
	b.low &^= ^uint64(0) >> (n.bits - 64)
	return b, true
}

func (s *shape) hasPorts() bool { return s.srcPort|s.dstPort != 0 }

// keyOf is what the shape sees of a packet, but for its ports if it has none. It reports false
// for one of another family.
func (s *shape) keyOf(f *ipsec.Flow) (k tupleKey, ok bool) {
	if k.src, ok = s.src.of(f.Src); !ok {
		return k, false
	}
	if k.dst, ok = s.dst.of(f.Dst); !ok {
		return k, false
	}
	if s.protocol {
		k.protocol = f.Protocol
	}
	if !f.NoPorts {
		k.ports = uint32(f.SrcPort&s.srcPort)<<16 | uint32(f.DstPort&s.dstPort)
	}
	return k, true
}

// keysOf are the keys of a selector of this shape: with ports and without.
func (s *shape) keysOf(sel *ipsec.Selector) (with, without tupleKey) {
	f := ipsec.Flow{Src: sel.Src.Addr(), Dst: sel.Dst.Addr(), Protocol: sel.Protocol, NoPorts: true}
	without, _ = s.keyOf(&f)
	f.SrcPort, f.DstPort, f.NoPorts = sel.SrcPort.Value, sel.DstPort.Value, false
	with, _ = s.keyOf(&f)
	return with, without
}

// add puts a policy in.
func (t *tuples) add(p *policy) {
	s := shapeOf(&p.Selector)
	at := slices.IndexFunc(t.shapes, func(u *tuple) bool { return u.shape == s })
	if at < 0 {
		t.shapes = append(t.shapes, &tuple{shape: s, best: p.rank, byKey: make(map[tupleKey]*policy)})
		at = len(t.shapes) - 1
	}
	u := t.shapes[at]
	u.add(p)
	if p.rank.before(u.best) {
		u.best = p.rank
	}
	for ; at > 0 && t.shapes[at].best.before(t.shapes[at-1].best); at-- {
		t.shapes[at], t.shapes[at-1] = t.shapes[at-1], t.shapes[at]
	}
}

func (u *tuple) add(p *policy) {
	with, without := u.keysOf(&p.Selector)
	first := u.byKey[with]
	link := &first
	for *link != nil && (*link).rank.before(p.rank) {
		link = &(*link).next
	}
	p.next, *link = *link, p
	u.byKey[with] = first
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

func comparePolicies(p, q *policy) int { return p.rank.compare(q.rank) }

// remove takes a policy out that is there.
func (t *tuples) remove(p *policy) {
	s := shapeOf(&p.Selector)
	at := slices.IndexFunc(t.shapes, func(u *tuple) bool { return u.shape == s })
	u := t.shapes[at]
	u.remove(p)
	if len(u.byKey) == 0 {
		t.shapes = slices.Delete(t.shapes, at, at+1)
	}
}

func (u *tuple) remove(p *policy) {
	with, without := u.keysOf(&p.Selector)
	first := u.byKey[with]
	link := &first
	for *link != p {
		link = &(*link).next
	}
	*link, p.next = p.next, nil
	if first != nil {
		u.byKey[with] = first
	} else {
		delete(u.byKey, with)
	}
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
	for _, u := range t.shapes {
		if found != nil && found.rank.before(u.best) {
			return found
		}
		k, ok := u.keyOf(f)
		if !ok {
			continue
		}
		var p *policy
		if !f.NoPorts || !u.hasPorts() {
			p = u.byKey[k]
		} else if list := u.withoutPorts[k]; len(list) > 0 {
			p = list[0]
		}
		if p != nil && (found == nil || p.rank.before(found.rank)) {
			found = p
		}
	}
	return found
}
