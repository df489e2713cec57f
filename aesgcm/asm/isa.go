package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// isa is a width of vectors. The same code is emitted for both; what the instruction sets do
// differently is in this file, in edges.go and in laneio.go.
type isa struct {
	name   string
	width  int  // of a vector, in bytes
	masks  bool // AVX-512: masked loads and stores, three-way xor, 32 registers
	halves bool // Karatsuba: three multiplications for four, at the price of shuffles
	powers int  // of the hash key, as many as it keeps
}

var (
	// On Zen 3, which the narrow set is for, a multiplication
	// keeps all four vector units busy for two cycles: there Karatsuba pays.
	vaes256 = isa{name: "VAES256", width: 32, halves: true, powers: numPowers - numSums}
	vaes512 = isa{name: "VAES512", width: 64, masks: true, powers: numPowers}
)

// numSums is of how many powers, the lowest, the narrow set keeps the sums of halves that Karatsuba
// needs: of those for a chunk, or a tail with the block of lengths. They stand where the wide set has
// its highest powers. Of the others, which are for short packets side by side, it makes them as it goes.
const numSums = 16 + 1

const (
	block  = 16
	states = 8 // vectors under encryption at a time
)

// chunk is what the main loop takes at a time.
func (a isa) chunk() int { return states * a.width }

// Registers. The narrow set has 16, all of them in use.

func (a isa) reg(i int) VecPhysical {
	x := []VecPhysical{X0, X1, X2, X3, X4, X5, X6, X7, X8, X9, X10, X11, X12, X13, X14, X15}[i]
	switch a.width {
	case 16:
		return x
	case 32:
		return x.AsY().(VecPhysical)
	}
	return x.AsZ().(VecPhysical)
}

func (a isa) state(i int) VecPhysical { return a.reg(i) } // blocks under encryption
func (a isa) key() VecPhysical        { return a.reg(8) }
func (a isa) lo() VecPhysical         { return a.reg(9) }  // sum of products: lower part,
func (a isa) mid() VecPhysical        { return a.reg(10) } // 64 bits up,
func (a isa) hi() VecPhysical         { return a.reg(11) } // 128 bits up; between chunks the hash
func (a isa) data() VecPhysical       { return a.reg(12) }
func (a isa) temp() VecPhysical       { return a.reg(13) }
func (a isa) counter() VecPhysical    { return a.reg(14) } // blocks to encrypt next, bytes reversed
func (a isa) reverse() VecPhysical    { return a.reg(15) }

// Instructions whose names differ.

func (a isa) xor(x, y Op, dst VecPhysical) {
	if a.masks {
		VPXORQ(x, y, dst)
	} else {
		VPXOR(x, y, dst)
	}
}

func (a isa) and(x, y Op, dst VecPhysical) {
	if a.masks {
		VPANDQ(x, y, dst)
	} else {
		VPAND(x, y, dst)
	}
}

// xorInto adds x and y to dst.
func (a isa) xorInto(x Op, y VecPhysical, dst VecPhysical) {
	if a.masks {
		VPTERNLOGD(U8(0x96), x, y, dst)
	} else {
		VPXOR(x, dst, dst)
		VPXOR(y, dst, dst)
	}
}

func (a isa) move(src, dst Op) {
	if a.masks {
		VMOVDQU64(src, dst)
	} else {
		VMOVDQU(src, dst)
	}
}

// broadcast copies 16 bytes of memory into every lane.
func (a isa) broadcast(src Mem, dst VecPhysical) {
	if a.masks {
		VBROADCASTI32X4(src, dst)
	} else {
		VBROADCASTI128(src, dst)
	}
}

// spread copies the lowest lane of r into every lane.
func (a isa) spread(r VecPhysical) {
	if a.masks {
		VSHUFI64X2(U8(0), r, r, r)
	} else {
		VPERM2I128(U8(0), r, r, r)
	}
}

// fold adds all lanes of r into the lowest and leaves zero in the others.
func (a isa) fold(r VecPhysical) {
	x, t := r.AsX(), a.temp()
	if a.masks {
		VEXTRACTI64X4(U8(1), r, t.AsY())
		VPXOR(t.AsY(), r.AsY(), r.AsY())
	}
	VEXTRACTI128(U8(1), r.AsY(), t.AsX())
	VPXOR(t.AsX(), x, x)
}

// laneNumbers is 0, 1, 2, 3 in the counters of four reversed blocks.
func laneNumbers() Mem { return constant("laneNumbers", 0, 0, 1, 0, 2, 0, 3, 0) }

// laneCount is the number of lanes in each of their counters.
func (a isa) laneCount() Mem {
	n := a.width / block
	return constant("laneCount"+a.name, repeat(n, uint64(n), 0)...)
}
