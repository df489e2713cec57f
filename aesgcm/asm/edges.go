package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// maskedEdges loads and stores under masks: what a mask leaves out is neither read nor
// written, and cannot fault.
type maskedEdges struct{ *packet }

const notEarly, firstMask, lastMask, onlyMask = 0, 1, 2, 3

func (e *maskedEdges) mask(i int) OpmaskPhysical { return []OpmaskPhysical{K1, K2, K3, K4}[i] }

func (e *maskedEdges) begin() {
	m := GP64()
	MOVQ(I32(-1<<block), m)
	KMOVQ(m, e.mask(notEarly))
}

func (e *maskedEdges) end() {}

func (e *maskedEdges) first() { VMOVDQU8_Z(e.at(e.src, 0), e.mask(notEarly), e.data()) }

func (e *maskedEdges) putFirst() {
	VMOVDQU(e.state(0).AsX(), field(e.p, packetHash))
	e.putMasked(0, e.mask(notEarly))
}

func (e *maskedEdges) putMasked(j int, m OpmaskPhysical) {
	VMOVDQU8(e.state(j), m, e.at(e.dst, j))
	if e.dir == seal {
		VMOVDQU8_Z(e.state(j), m, e.state(j))
	}
}

func (e *maskedEdges) keep() { VMOVDQA64(e.state(0), Z16) }
func (e *maskedEdges) kept() { VMOVDQA64(Z16, e.data()) }

func (e *maskedEdges) prepareTail() {
	first, last, size := GP64(), GP64(), GP64()
	Comment("Leave the early block out if the packet begins here.")
	MOVQ(e.short, first)
	SHLQ(U8(block), first)
	SUBQ(e.short, first)
	NOTQ(first)
	KMOVQ(first, e.mask(firstMask))
	Comment("Leave out what is behind the text.")
	LEAQ(Mem{Base: e.left, Disp: -1}, size)
	ANDQ(U32(63), size)
	INCQ(size)
	MOVQ(I32(-1), last)
	BZHIQ(size, last, last)
	KMOVQ(last, e.mask(lastMask))
	KANDQ(e.mask(firstMask), e.mask(lastMask), e.mask(onlyMask))
}

// tailMask is the mask of vector j of the tail's n, nil if it is whole.
func (e *maskedEdges) tailMask(j, n int) OpmaskPhysical {
	switch {
	case n == 1:
		return e.mask(onlyMask)
	case j == 0:
		return e.mask(firstMask)
	case j == n-1:
		return e.mask(lastMask)
	}
	return nil
}

func (e *maskedEdges) text(j, n int) Op {
	m := e.tailMask(j, n)
	if m == nil {
		return e.at(e.src, j)
	}
	VMOVDQU8_Z(e.at(e.src, j), m, e.data())
	return e.data()
}

func (e *maskedEdges) put(j, n int) {
	if j == 0 {
		begun := label("begun")
		TESTQ(e.short, e.short)
		JZ(LabelRef(begun))
		VMOVDQU(e.state(0).AsX(), field(e.p, packetHash))
		Label(begun)
	}
	if m := e.tailMask(j, n); m != nil {
		e.putMasked(j, m)
	} else {
		e.move(e.state(j), e.at(e.dst, j))
	}
}

func (e *maskedEdges) finishTail() {}

// copiedEdges copies the last vector to and from the stack, in pieces that overlap but stay
// inside the text. The first vector stands there, too: while a chunk waits to be hashed its
// ciphertext, and in a tail its text.
type copiedEdges struct {
	*packet
	slots Register // two vectors, aligned

	// Of the tail's last vector, in bytes: where it is in the tail, where text begins in it,
	// and how much text that is.
	offset, lead, size Register
}

func (e *copiedEdges) firstSlot() Mem { return Mem{Base: e.slots} }
func (e *copiedEdges) lastSlot() Mem  { return Mem{Base: e.slots, Disp: e.width} }

func (e *copiedEdges) begin() {
	e.slots, e.offset, e.lead, e.size = alignedSlots(2, e.width), GP64(), GP64(), GP64()
}

func (e *copiedEdges) end() {
	d := e.data()
	VPXOR(d, d, d)
	e.move(d, e.firstSlot())
	e.move(d, e.lastSlot())
}

func (e *copiedEdges) first() {
	d := e.data()
	VPXOR(d, d, d)
	VINSERTI128(U8(1), e.at(e.src, 0).Offset(block), d, d)
}

func (e *copiedEdges) putFirst() {
	e.putEarly()
	VEXTRACTI128(U8(1), e.state(0), e.at(e.dst, 0).Offset(block))
}

// putEarly takes the early block out of state 0.
func (e *copiedEdges) putEarly() {
	VMOVDQU(e.state(0).AsX(), field(e.p, packetHash))
	const zeroAndUpper = 0x18
	VPERM2I128(U8(zeroAndUpper), e.state(0), e.state(0), e.state(0))
}

func (e *copiedEdges) keep() { e.move(e.state(0), e.firstSlot()) }
func (e *copiedEdges) kept() { e.move(e.firstSlot(), e.data()) }

func (e *copiedEdges) prepareTail() {
	one, begun, copied := label("oneVector"), label("begun"), label("copied")
	LEAQ(Mem{Base: e.left, Disp: -1}, e.offset)
	ANDQ(I8(-e.width), e.offset)
	MOVQ(e.left, e.size)
	SUBQ(e.offset, e.size)
	XORL(e.lead.(GP).As32(), e.lead.(GP).As32())
	TESTQ(e.offset, e.offset)
	JZ(LabelRef(one))
	TESTQ(e.short, e.short)
	JZ(LabelRef(begun))
	e.first()
	e.move(e.data(), e.firstSlot())
	JMP(LabelRef(copied))
	Label(begun)
	e.move(e.at(e.src, 0), e.data())
	e.move(e.data(), e.firstSlot())
	JMP(LabelRef(copied))
	Label(one)
	Comment("First and last vector are one.")
	MOVQ(e.short, e.lead)
	SHLQ(U8(4), e.lead)
	SUBQ(e.lead, e.size)
	Label(copied)

	VPXOR(e.data(), e.data(), e.data())
	e.move(e.data(), e.lastSlot())
	from, to := GP64(), GP64()
	LEAQ(Mem{Base: e.src, Index: e.offset, Scale: 1}, from)
	LEAQ(e.lastSlot(), to)
	ADDQ(e.lead, from)
	ADDQ(e.lead, to)
	copyUpTo(32, from, to, e.size, e.data().AsX())
}

func (e *copiedEdges) text(j, n int) Op {
	switch {
	case j == n-1:
		return e.lastSlot()
	case j == 0:
		return e.firstSlot()
	}
	return e.at(e.src, j)
}

func (e *copiedEdges) put(j, n int) {
	begun, put := label("begun"), label("put")
	if j == 0 {
		TESTQ(e.short, e.short)
		JZ(LabelRef(begun))
		if n == 1 {
			e.putEarly()
			Label(begun)
		} else {
			e.putFirst()
			JMP(LabelRef(put))
			Label(begun)
			e.move(e.state(0), e.at(e.dst, 0))
			Label(put)
		}
	}
	if j == n-1 {
		if e.dir == seal {
			m := GP64()
			LEAQ(upTo(), m)
			SUBQ(e.lead, m)
			SUBQ(e.size, m)
			VPAND(Mem{Base: m, Disp: e.width}, e.state(j), e.state(j))
		}
		e.move(e.state(j), e.lastSlot())
	} else if j > 0 {
		e.move(e.state(j), e.at(e.dst, j))
	}
}

func (e *copiedEdges) finishTail() {
	from, to := GP64(), GP64()
	LEAQ(Mem{Base: e.dst, Index: e.offset, Scale: 1}, to)
	LEAQ(e.lastSlot(), from)
	ADDQ(e.lead, from)
	ADDQ(e.lead, to)
	copyUpTo(32, from, to, e.size, e.data().AsX())
}

// upTo is 32 bytes of ones and 32 of zeros: 32 bytes from n before the zeros are a mask of n.
func upTo() Mem { return constant("upTo", append(repeat(4, ^uint64(0)), repeat(4, 0)...)...) }

// alignedSlots is a register that points at n vectors on the stack.
func alignedSlots(n, width int) Register {
	slots := GP64()
	LEAQ(AllocLocal((n+1)*width-8), slots) // the stack is aligned to 8
	ADDQ(U8(width-8), slots)
	ANDQ(I8(-width), slots)
	return slots
}

// copyUpTo copies size bytes, 0 to most: the first half or more in one piece, then the last. It
// uses x if most is 16 or more.
func copyUpTo(most int, from, to, size, x Register) {
	done := label("copied")
	r := GP64()
	both := func(piece int, move func(from, to Mem)) {
		if piece > most {
			return
		}
		less := label("less")
		CMPQ(size, I8(piece))
		JB(LabelRef(less))
		move(Mem{Base: from}, Mem{Base: to})
		move(Mem{Base: from, Index: size, Scale: 1, Disp: -piece}, Mem{Base: to, Index: size, Scale: 1, Disp: -piece})
		JMP(LabelRef(done))
		Label(less)
	}
	both(16, func(from, to Mem) { VMOVDQU(from, x); VMOVDQU(x, to) })
	both(8, func(from, to Mem) { MOVQ(from, r); MOVQ(r, to) })
	both(4, func(from, to Mem) { MOVL(from, r.As32()); MOVL(r.As32(), to) })
	both(2, func(from, to Mem) { MOVW(from, r.As16()); MOVW(r.As16(), to) })
	both(1, func(from, to Mem) { MOVB(from, r.As8()); MOVB(r.As8(), to) })
	Label(done)
}
