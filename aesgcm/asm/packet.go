package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

type direction string

const (
	seal direction = "seal"
	open direction = "open"
)

// packet is the code for one packet.
//
// The text is taken to begin one block early. That block's counter is 1, so its key stream is
// what encrypts the tag; and in the hash it is the block of additional data. So both halves
// of GCM run over the same vectors, and neither has an odd block of its own.
//
//	counters    1     2      3      …
//	text        –   block  block    …
//	hash       AAD  block  block    …  lengths
type packet struct {
	isa
	dir direction

	s, p     Register // *schedule, *Packet
	src, dst Register // where vectors come from and go to: at first a block before the text
	left     Register // bytes from there to the end of the text
	short    Register // 1 if they are less than a chunk, else 0
	tail     Register // s, moved so that power(tail, 1) belongs to the tail's first block

	hashSlot Mem // on the stack: the hash before the tail
	edges    edges
}

// edges is what the instruction sets do differently where vectors stick out of the text.
type edges interface {
	// begin comes once, before all packets; end after them.
	begin()
	end()

	// first brings the vector that is one block early to data, that block zero.
	first()
	// putFirst stores the same vector from state 0, the early block to the packet's hash.
	putFirst()
	// keep holds state 0 for the next chunk to hash, kept brings it to data. Sealing needs
	// it because what is in memory before the text is not part of the hash.
	keep()
	kept()

	// prepareTail is before all of the following; the tail has less than a chunk, but something.
	prepareTail()
	// text says where vector j of the tail's n is, in memory or in data; zero beyond the text.
	text(j, n int) Op
	// put stores state j of the tail's n, and when sealing leaves what is to be hashed of it.
	put(j, n int)
	// finishTail comes after the last put, whatever n was.
	finishTail()
}

// packets writes the function that seals or opens packets under one schedule, one after the
// other. The packet's hash is, before, the last block of additional data plus the hash of
// those before it; afterwards it is the tag.
func (a isa) packets(dir direction) {
	TEXT(string(dir)+a.name, attr.NOSPLIT, "func(s *byte, p *byte, n int)")
	k := &packet{isa: a, dir: dir, src: GP64(), dst: GP64(), left: GP64(), short: GP64(), tail: GP64()}
	k.s, k.p = Load(Param("s"), GP64()), Load(Param("p"), GP64())
	n := NewParamAddr("n", 16)
	k.hashSlot = AllocLocal(block)
	if a.masks {
		k.edges = &maskedEdges{packet: k}
	} else {
		k.edges = &copiedEdges{packet: k}
	}
	k.edges.begin()
	a.move(reverseMask(), a.reverse())

	Label("packet")
	CMPQ(n, U8(0))
	JE(LabelRef("done"))
	k.begin()
	CMPQ(k.left, U32(uint32(k.chunk())))
	JB(LabelRef("tail"))
	k.chunks()
	Label("tail")
	if dir == seal {
		TESTQ(k.short, k.short)
		JNZ(LabelRef("hashed"))
		k.pending()
		Label("hashed")
	}
	VMOVDQU(a.hi().AsX(), k.hashSlot)
	k.lengths()
	k.tails()
	k.finish()
	ADDQ(U32(packetSize), k.p)
	DECQ(n)
	JMP(LabelRef("packet"))

	Label("done")
	VPXOR(a.temp().AsX(), a.temp().AsX(), a.temp().AsX())
	VMOVDQU(a.temp().AsX(), k.hashSlot)
	k.edges.end()
	VZEROUPPER()
	RET()
}

// begin sets up pointers, counters and hash.
func (k *packet) begin() {
	k.start(k.p)
	hash := k.hi().AsX()
	VMOVDQU(field(k.p, packetHash), hash)
	VPSHUFB(k.reverse().AsX(), hash, hash)

	MOVQ(field(k.p, packetText), k.dst)
	MOVQ(field(k.p, packetFrom), k.src)
	TESTQ(k.src, k.src)
	CMOVQEQ(k.dst, k.src)
	MOVQ(field(k.p, packetTextLen), k.left)
	SUBQ(field(k.s, scheduleTag), k.left)
	ADDQ(I8(block), k.left)
	SUBQ(I8(block), k.src)
	SUBQ(I8(block), k.dst)
	MOVQ(U32(1), k.short)
}

// chunks does what there is in whole chunks. Opening hashes a chunk while it is decrypted;
// sealing has to encrypt it first, and hashes it with the next one.
func (k *packet) chunks() {
	XORL(k.short.(GP).As32(), k.short.(GP).As32())
	const n = states
	Comment("The first chunk, a block early.")
	k.encrypt(k.s, n, k.counters(n, k.laneCount()), func(j int) {
		if j == 0 {
			k.edges.first()
			k.xor(k.data(), k.key(), k.temp())
		} else {
			k.xor(k.at(k.src, j), k.key(), k.temp())
		}
	}, k.hashChunk(true))
	k.edges.putFirst()
	for j := 1; j < n; j++ {
		k.move(k.state(j), k.at(k.dst, j))
	}
	if k.dir == seal {
		k.edges.keep()
	}

	Comment("Every other whole chunk.")
	Label("chunk")
	ADDQ(U32(uint32(k.chunk())), k.src)
	ADDQ(U32(uint32(k.chunk())), k.dst)
	SUBQ(U32(uint32(k.chunk())), k.left)
	CMPQ(k.left, U32(uint32(k.chunk())))
	JB(LabelRef("tail"))
	k.encrypt(k.s, n, k.counters(n, k.laneCount()), func(j int) {
		k.xor(k.at(k.src, j), k.key(), k.temp())
	}, k.hashChunk(false))
	for j := range n {
		k.move(k.state(j), k.at(k.dst, j))
	}
	if k.dir == seal {
		k.edges.keep()
	}
	JMP(LabelRef("chunk"))
}

// at is vector j of the chunk at p.
func (k *packet) at(p Register, j int) Mem { return Mem{Base: p, Disp: k.width * j} }

// hashChunk is the hash of the chunk that can be hashed while the one at src is encrypted.
func (k *packet) hashChunk(first bool) []step {
	load := func(j int) {
		switch {
		case k.dir == open && j == 0 && first:
			k.edges.first()
		case k.dir == open:
			k.move(k.at(k.src, j), k.data())
		case j == 0:
			k.edges.kept()
		default:
			k.move(k.at(k.dst, j).Offset(-k.chunk()), k.data())
		}
	}
	if k.dir == seal && first {
		return nil
	}
	return append(k.hash(states, load, k.hi(), k.s, k.chunk()/block), k.reduceAll()...)
}

// lengths begins the tail's hash at its end, and finds the powers that go with its beginning.
func (k *packet) lengths() {
	Comment("The hash from its end: lengths.")
	x, bits := k.data().AsX(), GP64()
	MOVQ(field(k.p, packetTextLen), bits)
	SUBQ(field(k.s, scheduleTag), bits)
	SHLQ(U8(3), bits)
	VMOVQ(bits, x)
	MOVQ(field(k.p, packetAADLen), bits)
	SHLQ(U8(3), bits)
	VPINSRQ(U8(1), bits, x, x)
	lane := k.isa
	lane.width = block
	pow, sums := lane.powersFrom(k.s, 1, 0)
	emit(lane.multiply(pow, sums, true))

	blocks := bits
	LEAQ(Mem{Base: k.left, Disp: block - 1}, blocks)
	ANDQ(I8(-block), blocks)
	MOVQ(k.s, k.tail)
	SUBQ(blocks, k.tail)
}

// pending is the hash of the last chunk, when sealing. It could be one sum with the tail's, and save a
// reduction, but that would take twice as many powers of each key.
func (k *packet) pending() {
	Comment("The chunk that is not hashed yet.")
	load := func(j int) {
		if j == 0 {
			k.edges.kept()
		} else {
			k.move(k.at(k.dst, j).Offset(-k.chunk()), k.data())
		}
	}
	emit(append(k.hash(states, load, k.hi(), k.s, k.chunk()/block), k.reduceAll()...))
}

// tails does what is left, less than a chunk: a piece of code for each number of vectors.
func (k *packet) tails() {
	hashed, done := label("tailHashed"), label("tailDone")
	labels := make([]string, states+1)
	for n := range labels {
		labels[n] = label(fmt.Sprintf("tail%dvectors", n))
	}
	TESTQ(k.left, k.left)
	JZ(LabelRef(labels[0]))
	k.edges.prepareTail()
	branch(k.left, k.width, labels, 1, states)
	for n := 1; n <= states; n++ {
		Label(labels[n])
		k.tailOf(n)
		JMP(LabelRef(hashed))
	}

	Label(labels[0])
	VMOVDQU(k.hashSlot, k.data().AsX())
	pow, sums := k.powersFrom(k.tail, 1, 0)
	emit(k.multiply(pow, sums, false))
	JMP(LabelRef(done))

	Label(hashed)
	k.edges.finishTail()
	Label(done)
}

// branch jumps to the label for what is left, in units begun, of which there are lowest to
// highest.
func branch(left Register, unit int, labels []string, lowest, highest int) {
	if lowest == highest {
		JMP(LabelRef(labels[lowest]))
		return
	}
	middle := (lowest + highest) / 2
	above := label("above")
	CMPQ(left, U32(uint32(middle*unit)))
	JA(LabelRef(above))
	branch(left, unit, labels, lowest, middle)
	Label(above)
	branch(left, unit, labels, middle+1, highest)
}

// tailOf is a tail of n vectors.
func (k *packet) tailOf(n int) {
	Commentf("A tail of %d vectors.", n)
	load := func(j int) {
		if from := k.edges.text(j, n); from != Op(k.data()) {
			k.move(from, k.data())
		}
	}
	var other []step
	if k.dir == open {
		other = k.hash(n, load, k.hashSlot, k.tail, 1)
	}
	k.encrypt(k.s, n, k.counters(n, k.laneCount()), func(j int) {
		k.xor(k.edges.text(j, n), k.key(), k.temp())
	}, other)
	for j := range n {
		k.edges.put(j, n)
	}
	if k.dir == seal {
		emit(k.hash(n, nil, k.hashSlot, k.tail, 1))
	}
}

// finish makes the tag of the sums and the early block's key stream.
func (k *packet) finish() {
	Comment("The tag.")
	emit(k.reduceAll())
	hash := k.hi().AsX()
	VPSHUFB(k.reverse().AsX(), hash, hash)
	VPXOR(field(k.p, packetHash), hash, hash)
	VMOVDQU(hash, field(k.p, packetHash))
}
