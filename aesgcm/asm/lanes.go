package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// group is the code for short packets side by side: as many as a vector has lanes, all with
// the same number of blocks. Each packet has a lane to itself, so that what a packet has only
// one of (its counter, additional data, lengths, reduction, tag) is done for all at once, and
// round keys are loaded once for all. Their hash is reduced once, at the end; so they have at
// most as many blocks as there are powers, with additional data and lengths.
type group struct {
	isa
	dir      direction
	s, p     Register   // *schedule, the first *Packet
	src, dst []Register // where vectors come from and go to: at first a block before the texts
	vectors  Register   // left
	powers   Register   // s, moved so that power(powers, isa.powers) belongs to the next vector
	io       laneIO
}

// laneIO is what the instruction sets do differently with a vector of many packets.
type laneIO interface {
	// begin comes once, before all groups; end after them.
	begin()
	end()

	// gather brings 16 bytes from each address to dst, one lane each.
	gather(from func(lane int) Mem, dst VecPhysical)
	// scatter stores one lane of src at each address.
	scatter(src VecPhysical, to func(lane int) Mem)

	// gatherPairs brings two fields of 8 bytes of each packet to dst.
	gatherPairs(low, high int, dst VecPhysical)

	// prepare is before the following two: the last block may be less than a block.
	prepare()
	// last is the vector of all last blocks, zero beyond the texts.
	last() Op
	// putLast stores the last blocks from v, at an offset from dst, and when sealing makes zero
	// of what is beyond the texts; finish is after it.
	putLast(v VecPhysical, offset int)
	finish()

	// keep holds the first blocks' key streams, for the tags; kept says where they are.
	keep(v VecPhysical)
	kept() Op

	// power is a register for powers. It may be that of the counter, which is kept elsewhere
	// from the moment a chunk's counter blocks are made to the next chunk.
	power() VecPhysical
	keepCounter()
	counterBack()
}

func (a isa) lanes() int { return a.width / block }

// groups writes the function for such packets.
func (a isa) groups(dir direction) {
	TEXT(string(dir)+a.name+"Short", attr.NOSPLIT, "func(s *byte, p *byte, groups int)")
	g := &group{isa: a, dir: dir}
	g.s, g.p = Load(Param("s"), GP64()), Load(Param("p"), GP64())
	for range a.lanes() {
		g.src, g.dst = append(g.src, GP64()), append(g.dst, GP64())
	}
	if a.masks {
		g.io = &maskedLanes{group: g}
	} else {
		g.io = &copiedLanes{group: g}
	}
	g.vectors, g.powers = GP64(), GP64()
	left := NewParamAddr("groups", 16)
	g.io.begin()
	a.move(reverseMask(), a.reverse())

	Label("group")
	CMPQ(left, U8(0))
	JE(LabelRef("done"))
	g.texts()
	g.start()
	g.io.prepare()
	g.encryptAll()
	g.io.finish()
	g.tags()
	ADDQ(U32(uint32(packetSize*a.lanes())), g.p)
	DECQ(left)
	JMP(LabelRef("group"))

	Label("done")
	g.io.end()
	VZEROUPPER()
	RET()
}

// of is a field of the packet in a lane.
func (g *group) of(lane, offset int) Mem { return field(g.p, packetSize*lane+offset) }

// at is the block of the texts that begins at offset.
func at(texts []Register, offset int) func(lane int) Mem {
	return func(lane int) Mem { return Mem{Base: texts[lane], Disp: offset} }
}

// texts finds out where the texts are.
func (g *group) texts() {
	for i := range g.lanes() {
		MOVQ(g.of(i, packetText), g.dst[i])
		MOVQ(g.of(i, packetFrom), g.src[i])
		TESTQ(g.src[i], g.src[i])
		CMOVQEQ(g.dst[i], g.src[i])
		SUBQ(I8(block), g.src[i])
		SUBQ(I8(block), g.dst[i])
	}
}

// start makes the first counter blocks: nonces, and 1.
func (g *group) start() {
	c := g.counter()
	g.io.gather(func(lane int) Mem { return g.of(lane, packetNonce) }, c)
	VPSHUFB(g.reverse(), c, c)
	g.and(constant("notCounter", repeat(4, 0xffffffff00000000, ^uint64(0))...), c, c)
	VPADDD(oneEach(), c, c)
}

func oneEach() Mem { return constant("oneEach", repeat(4, 1, 0)...) }

// encryptAll does the texts, and the hash but for its reduction.
func (g *group) encryptAll() {
	MOVQ(field(g.p, packetTextLen), g.vectors)
	SUBQ(field(g.s, scheduleTag), g.vectors)
	ADDQ(I8(2*block-1), g.vectors)
	SHRQ(U8(4), g.vectors)

	long, more, rest, done := label("long"), label("more"), label("rest"), label("done")
	CMPQ(g.vectors, U8(states))
	JA(LabelRef(long))
	g.choose(2, func(n int) { g.some(n, true, true) }, done)

	Label(long)
	Comment("One more power is for the lengths.")
	MOVQ(U32(uint32(g.isa.powers-1)), g.powers)
	SUBQ(g.vectors, g.powers)
	SHLQ(U8(4), g.powers)
	ADDQ(g.s, g.powers)
	g.some(states, true, false)
	Label(more)
	g.advance()
	CMPQ(g.vectors, U8(states))
	JBE(LabelRef(rest))
	g.some(states, false, false)
	JMP(LabelRef(more))
	Label(rest)
	g.choose(1, func(n int) { g.some(n, false, true) }, done)
	Label(done)
}

// choose has a piece of code for each number of vectors left, and ends at done.
func (g *group) choose(lowest int, code func(n int), done string) {
	labels := make([]string, states+1)
	for n := range labels {
		labels[n] = label(fmt.Sprintf("vectors%d", n))
	}
	branch(g.vectors, 1, labels, lowest, states)
	for n := lowest; n <= states; n++ {
		Label(labels[n])
		code(n)
		JMP(LabelRef(done))
	}
}

func (g *group) advance() {
	SUBQ(I8(states), g.vectors)
	ADDQ(U32(states*block), g.powers)
	for i := range g.lanes() {
		ADDQ(U32(states*block), g.src[i])
		ADDQ(U32(states*block), g.dst[i])
	}
}

// some does the next n vectors. The first of all has no text, but additional data for the
// hash; the last of all are not always whole, and the lengths come after them.
func (g *group) some(n int, first, last bool) {
	Commentf("%d vectors of a block of each packet; first: %t, last: %t.", n, first, last)
	load := func(j int) {
		switch {
		case first && j == 0:
			g.io.gather(func(lane int) Mem { return g.of(lane, packetHash) }, g.data())
		case last && j == n-1:
			g.move(g.io.last(), g.data())
		default:
			g.io.gather(at(g.src, block*j), g.data())
		}
	}
	var other []step
	if g.dir == open {
		other = g.hash(n, load, first, last)
	}
	if !first {
		g.io.counterBack()
	}
	emit(g.counters(n, oneEach())) // not woven: the hash may need the register for powers
	if !last {
		g.io.keepCounter()
	}
	g.encrypt(g.s, n, nil, func(j int) {
		if first && j == 0 {
			g.move(g.key(), g.temp())
			return
		}
		load(j)
		g.xor(g.data(), g.key(), g.temp())
	}, other)
	for j := range n {
		switch {
		case first && j == 0:
			g.io.keep(g.state(0))
		case last && j == n-1:
			g.io.putLast(g.state(j), block*j)
		default:
			g.io.scatter(g.state(j), at(g.dst, block*j))
		}
	}
	if g.dir == seal {
		emit(g.hash(n, func(j int) {
			if first && j == 0 {
				load(0)
			} else {
				g.move(g.state(j), g.data())
			}
		}, first, last))
	}
}

// hash is of n vectors, which load brings to data.
func (g *group) hash(n int, load func(j int), first, last bool) (steps []step) {
	for j := range n {
		steps = append(steps, func() { load(j) }, func() { VPSHUFB(g.reverse(), g.data(), g.data()) })
		pow, sums := g.powerInAll(g.powers, g.isa.powers-j, false, g.io.power())
		if last {
			pow, sums = g.powerInAll(g.s, n+1-j, true, g.io.power())
		}
		steps = append(steps, g.multiply(pow, sums, first && j == 0)...)
	}
	if last {
		pow, sums := g.powerInAll(g.s, 1, true, g.io.power())
		steps = append(steps, g.lengths)
		steps = append(steps, g.multiply(pow, sums, false)...)
	}
	return steps
}

// lengths is the last block of each hash.
func (g *group) lengths() {
	g.io.gatherPairs(packetTextLen, packetAADLen, g.data())
	g.broadcast(field(g.s, scheduleTag), g.temp()) // behind it is a zero
	VPSUBQ(g.temp(), g.data(), g.data())
	VPSLLQ(U8(3), g.data(), g.data())
}

// tags makes the tags of the sums and the first blocks' key streams.
func (g *group) tags() {
	Comment("The tags.")
	emit(g.reduce())
	VPSHUFB(g.reverse(), g.hi(), g.hi())
	g.xor(g.io.kept(), g.hi(), g.hi())
	g.io.scatter(g.hi(), func(lane int) Mem { return g.of(lane, packetHash) })
}
