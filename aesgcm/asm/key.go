package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// cpuid asks for what golang.org/x/sys/cpu does not report: VAES and VPCLMULQDQ without
// AVX-512.
func cpuid() {
	TEXT("cpuid", attr.NOSPLIT, "func(leaf, sub uint32) (ebx, ecx uint32)")
	Load(Param("leaf"), EAX)
	Load(Param("sub"), ECX)
	CPUID()
	Store(EBX, Return("ebx"))
	Store(ECX, Return("ecx"))
	RET()
}

// subWord uses that AESENCLAST with a key of zero is SubBytes and ShiftRows, and that
// ShiftRows does nothing to a block of four equal columns.
func subWord() {
	TEXT("subWord", attr.NOSPLIT, "func(w uint32) uint32")
	w := Load(Param("w"), GP32())
	VMOVD(w, X0)
	VPBROADCASTD(X0, X0)
	VPXOR(X1, X1, X1)
	VAESENCLAST(X1, X0, X0)
	VMOVD(X0, w)
	Store(w, ReturnIndex(0))
	RET()
}

// powers fills in the n lowest powers, and the sums as long as there is room for them. One block at
// a time: once for each key it does not matter.
func powers() {
	TEXT("powers", attr.NOSPLIT, "func(s *byte, n int)")
	s, left := Load(Param("s"), GP64()), Load(Param("n"), GP64())
	lo, mid, hi, t, h, one, u := X0, X1, X2, X3, X4, X5, X6

	Comment("H is the zero block encrypted.")
	key, last := GP64(), GP64()
	MOVQ(field(s, scheduleRounds), last)
	SHLQ(U8(4), last)
	LEAQ(roundKey(s, 1), key)
	LEAQ(roundKey(s, 0).Idx(last, 1), last)
	VMOVDQU(roundKey(s, 0), h)
	Label("round")
	VAESENC(Mem{Base: key}, h, h)
	ADDQ(U8(16), key)
	CMPQ(key, last)
	JB(LabelRef("round"))
	VAESENCLAST(Mem{Base: key}, h, h)
	VPSHUFB(reverseMask(), h, h)

	Comment("A product of reflected numbers is one bit too low. H times x makes up for it:",
		"shift left, and reduce by x^128 = x^127+x^126+x^121+1 if a bit falls out.")
	VPSHUFD(U8(0xff), h, t)
	VPSRAD(U8(31), t, t)
	VPAND(constant("overflow", 1, 0xc200000000000000), t, t)
	VPSRLQ(U8(63), h, lo)
	VPSLLDQ(U8(8), lo, lo)
	VPSLLQ(U8(1), h, h)
	VPOR(lo, h, h)
	VPXOR(t, h, h)
	VMOVDQA(h, one)

	at, sums := GP64(), GP64()
	LEAQ(power(s, 1), at)
	MOVQ(U32(numSums), sums)
	Label("next")
	VMOVDQU(h, Mem{Base: at})
	Comment("Where there is no room for sums powers will overwrite them.")
	TESTQ(sums, sums)
	JZ(LabelRef("powersOnly"))
	VPSHUFD(U8(0x4e), h, t)
	VPXOR(h, t, t)
	VMOVDQU(t, Mem{Base: at, Disp: (numSums - numPowers) * 16})
	DECQ(sums)
	Label("powersOnly")
	multiplyBlock(h, one, lo, mid, hi, t, u)
	VMOVDQA(hi, h)
	SUBQ(U8(16), at)
	DECQ(left)
	JNZ(LabelRef("next"))
	for _, x := range []VecPhysical{lo, mid, hi, t, h, one, u} {
		VPXOR(x, x, x)
	}
	RET()
}

// ghash hashes whole blocks one after the other: for additional data longer than ESP's.
func ghash() {
	TEXT("ghash", attr.NOSPLIT, "func(s *byte, hash *byte, data *byte, blocks int)")
	s, hash := Load(Param("s"), GP64()), Load(Param("hash"), GP64())
	data, blocks := Load(Param("data"), GP64()), Load(Param("blocks"), GP64())
	lo, mid, hi, t, h, one, u, reverse := X0, X1, X2, X3, X4, X5, X6, X7
	VMOVDQU(reverseMask(), reverse)
	VMOVDQU(power(s, 1), one)
	VMOVDQU(Mem{Base: hash}, h)
	VPSHUFB(reverse, h, h)
	Label("next")
	TESTQ(blocks, blocks)
	JZ(LabelRef("done"))
	VMOVDQU(Mem{Base: data}, t)
	VPSHUFB(reverse, t, t)
	VPXOR(t, h, h)
	multiplyBlock(h, one, lo, mid, hi, t, u)
	VMOVDQA(hi, h)
	ADDQ(U8(16), data)
	DECQ(blocks)
	JMP(LabelRef("next"))
	Label("done")
	VPSHUFB(reverse, h, h)
	VMOVDQU(h, Mem{Base: hash})
	VPXOR(one, one, one)
	RET()
}

// multiplyBlock multiplies two blocks, reduced, into hi; see ghash.go.
func multiplyBlock(x, y, lo, mid, hi, t, u VecPhysical) {
	VPCLMULQDQ(U8(0x00), x, y, lo)
	VPCLMULQDQ(U8(0x01), x, y, mid)
	VPCLMULQDQ(U8(0x10), x, y, t)
	VPXOR(t, mid, mid)
	VPCLMULQDQ(U8(0x11), x, y, hi)
	VMOVDQU(polynomial(), u)
	for _, pair := range [][2]VecPhysical{{lo, mid}, {mid, hi}} {
		VPCLMULQDQ(U8(0), u, pair[0], t)
		VPSHUFD(U8(0x4e), pair[0], pair[0])
		VPXOR(t, pair[1], pair[1])
		VPXOR(pair[0], pair[1], pair[1])
	}
}
