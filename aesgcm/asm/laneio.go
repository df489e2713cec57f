package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// lastBlock leaves in offset where the last block of the text in a lane begins, and in size
// how much there is of it.
func (g *group) lastBlock(lane int, offset, size Register) {
	MOVQ(g.of(lane, packetTextLen), size)
	SUBQ(field(g.s, scheduleTag), size)
	LEAQ(Mem{Base: size, Disp: -1}, offset)
	ANDQ(I8(-block), offset)
	SUBQ(offset, size)
}

// maskedLanes has a mask for each lane, and one for the whole vector.
type maskedLanes struct{ *group }

var (
	laneMasks = []OpmaskPhysical{K1, K2, K3, K4}
	allLanes  = K5
)

func (l *maskedLanes) begin() {}
func (l *maskedLanes) end()   {}

// inserted and lastTexts are registers that only the wide set has.
func (l *maskedLanes) inserted() VecPhysical  { return X17 }
func (l *maskedLanes) lastTexts() VecPhysical { return Z18 }

func (l *maskedLanes) gather(from func(lane int) Mem, dst VecPhysical) {
	VMOVDQU(from(0), dst.AsX())
	for lane := 1; lane < l.lanes(); lane++ {
		VINSERTI32X4(U8(lane), from(lane), dst, dst)
	}
}

func (l *maskedLanes) gatherPairs(low, high int, dst VecPhysical) {
	x := l.temp().AsX()
	for lane := range l.lanes() {
		VMOVQ(l.of(lane, low), x)
		VPINSRQ(U8(1), l.of(lane, high), x, x)
		if lane == 0 {
			VMOVDQU64(l.temp(), dst)
		} else {
			VINSERTI32X4(U8(lane), x, dst, dst)
		}
	}
}

func (l *maskedLanes) scatter(src VecPhysical, to func(lane int) Mem) {
	VMOVDQU(src.AsX(), to(0))
	for lane := 1; lane < l.lanes(); lane++ {
		VEXTRACTI32X4(U8(lane), src, to(lane))
	}
}

func (l *maskedLanes) prepare() {
	offset, size, all := GP64(), GP64(), GP64()
	XORL(all.As32(), all.As32())
	for lane := range l.lanes() {
		l.lastBlock(lane, offset, size)
		m, from := laneMasks[lane], Mem{Base: l.src[lane], Index: offset, Scale: 1, Disp: block}
		bits := GP64()
		MOVQ(I32(-1), bits)
		BZHIQ(size, bits, bits)
		KMOVQ(bits, m)
		if lane == 0 {
			VMOVDQU8_Z(from, m, l.lastTexts().AsX())
			MOVQ(bits, all)
			continue
		}
		VMOVDQU8_Z(from, m, l.inserted())
		VINSERTI32X4(U8(lane), l.inserted(), l.lastTexts(), l.lastTexts())
		SHLQ(U8(block*lane), bits) // a bit for each byte
		ORQ(bits, all)
	}
	KMOVQ(all, allLanes)
}

func (l *maskedLanes) last() Op { return l.lastTexts() }

func (l *maskedLanes) putLast(v VecPhysical, offset int) {
	if l.dir == seal {
		VMOVDQU8_Z(v, allLanes, v)
	}
	to := at(l.dst, offset)
	VMOVDQU8(v.AsX(), laneMasks[0], to(0))
	for lane := 1; lane < l.lanes(); lane++ {
		VEXTRACTI32X4(U8(lane), v, l.inserted())
		VMOVDQU8(l.inserted(), laneMasks[lane], to(lane))
	}
}

func (l *maskedLanes) finish() {}

func (l *maskedLanes) keep(v VecPhysical) { VMOVDQA64(v, Z19) }
func (l *maskedLanes) kept() Op           { return Z19 }

func (l *maskedLanes) power() VecPhysical { return Z20 }
func (l *maskedLanes) keepCounter()       {}
func (l *maskedLanes) counterBack()       {}

// copiedLanes copies last blocks to and from the stack unless they are whole.
type copiedLanes struct {
	*group
	slots Register // vectors on the stack, aligned
}

func (l *copiedLanes) textSlot() Mem    { return Mem{Base: l.slots} }
func (l *copiedLanes) maskSlot() Mem    { return Mem{Base: l.slots, Disp: l.width} }
func (l *copiedLanes) keptSlot() Mem    { return Mem{Base: l.slots, Disp: 2 * l.width} }
func (l *copiedLanes) counterSlot() Mem { return Mem{Base: l.slots, Disp: 3 * l.width} }

func (l *copiedLanes) begin() {
	l.slots = alignedSlots(4, l.width)
}

func (l *copiedLanes) end() {
	VPXOR(l.data(), l.data(), l.data())
	l.move(l.data(), l.textSlot())
	l.move(l.data(), l.keptSlot())
	l.move(l.data(), l.counterSlot())
}

func (l *copiedLanes) keep(v VecPhysical) { l.move(v, l.keptSlot()) }
func (l *copiedLanes) kept() Op           { return l.keptSlot() }

func (l *copiedLanes) power() VecPhysical { return l.counter() }
func (l *copiedLanes) keepCounter()       { l.move(l.counter(), l.counterSlot()) }
func (l *copiedLanes) counterBack()       { l.move(l.counterSlot(), l.counter()) }

func (l *copiedLanes) gather(from func(lane int) Mem, dst VecPhysical) {
	VMOVDQU(from(0), dst.AsX())
	VINSERTI128(U8(1), from(1), dst, dst)
}

func (l *copiedLanes) gatherPairs(low, high int, dst VecPhysical) {
	x := l.temp().AsX()
	VMOVQ(l.of(0, low), dst.AsX())
	VPINSRQ(U8(1), l.of(0, high), dst.AsX(), dst.AsX())
	VMOVQ(l.of(1, low), x)
	VPINSRQ(U8(1), l.of(1, high), x, x)
	VINSERTI128(U8(1), x, dst, dst)
}

func (l *copiedLanes) scatter(src VecPhysical, to func(lane int) Mem) {
	VMOVDQU(src.AsX(), to(0))
	VEXTRACTI128(U8(1), src, to(1))
}

func (l *copiedLanes) prepare() {
	offset, size := GP64(), GP64()
	texts, masks := []Register{l.state(0).AsX(), l.state(1).AsX()}, []Register{l.state(2).AsX(), l.state(3).AsX()}
	for lane := range l.lanes() {
		l.lastBlock(lane, offset, size)
		if l.dir == seal {
			m := GP64()
			LEAQ(upTo(), m)
			SUBQ(size, m)
			VMOVDQU(Mem{Base: m, Disp: 32}, masks[lane])
		}
		whole, loaded := label("whole"), label("loaded")
		CMPQ(size, I8(block))
		JE(LabelRef(whole))
		from, to, slot := GP64(), GP64(), l.textSlot()
		VPXOR(texts[lane], texts[lane], texts[lane])
		VMOVDQU(texts[lane], slot)
		LEAQ(Mem{Base: l.src[lane], Index: offset, Scale: 1, Disp: block}, from)
		LEAQ(slot, to)
		copyUpTo(15, from, to, size, nil)
		VMOVDQU(slot, texts[lane])
		JMP(LabelRef(loaded))
		Label(whole)
		VMOVDQU(Mem{Base: l.src[lane], Index: offset, Scale: 1, Disp: block}, texts[lane])
		Label(loaded)
	}
	VINSERTI128(U8(1), texts[1], l.state(0), l.state(0))
	l.move(l.state(0), l.textSlot())
	if l.dir == seal {
		VINSERTI128(U8(1), masks[1], l.state(2), l.state(2))
		l.move(l.state(2), l.maskSlot())
	}
}

func (l *copiedLanes) last() Op { return l.textSlot() }

func (l *copiedLanes) putLast(v VecPhysical, _ int) {
	if l.dir == seal {
		VPAND(l.maskSlot(), v, v)
	}
	l.move(v, l.textSlot())
}

func (l *copiedLanes) finish() {
	offset, size := GP64(), GP64()
	x := l.data().AsX()
	for lane := range l.lanes() {
		l.lastBlock(lane, offset, size)
		ADDQ(l.of(lane, packetText), offset)
		slot := l.textSlot().Offset(block * lane)
		whole, stored := label("whole"), label("stored")
		CMPQ(size, I8(block))
		JE(LabelRef(whole))
		from, to := GP64(), GP64()
		LEAQ(slot, from)
		MOVQ(offset, to)
		copyUpTo(15, from, to, size, nil)
		JMP(LabelRef(stored))
		Label(whole)
		VMOVDQU(slot, x)
		VMOVDQU(x, Mem{Base: offset})
		Label(stored)
	}
}
