package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// GHASH (NIST SP 800-38D §6.4) of blocks b1…bn after hash y is
//
//	(y+b1)·H^n + b2·H^(n-1) + … + bn·H
//
// in GF(2^128). The products are added up unreduced, as lo + mid·x^64 + hi·x^128 in each lane;
// lanes are added and the sum is reduced once for many blocks.

// factor is what data is multiplied by: at op, once load has been emitted, if there is a load.
type factor struct {
	op   Op
	load step
}

// multiply adds data, times the powers at pow, to lo, mid and hi; if first is set it is their
// first summand. sums are the sums of the halves of pow; if there is none, pow is in a register, where
// they are made of it. It destroys data.
func (a isa) multiply(pow, sums factor, first bool) (steps []step) {
	d, t, lo, mid, hi := a.data(), a.temp(), a.lo(), a.mid(), a.hi()
	product := func(halves uint8, by Op, sum VecPhysical, first bool) {
		if first {
			steps = append(steps, func() { VPCLMULQDQ(U8(halves), by, d, sum) })
		} else {
			steps = append(steps, func() { VPCLMULQDQ(U8(halves), by, d, t); a.xor(t, sum, sum) })
		}
	}
	const lowLow, highHigh, highLow, lowHigh = 0x00, 0x11, 0x01, 0x10
	if pow.load != nil {
		steps = append(steps, pow.load)
	}
	product(lowLow, pow.op, lo, first)
	product(highHigh, pow.op, hi, first)
	if a.halves {
		steps = append(steps, func() { VPSHUFD(U8(0x4e), d, t); a.xor(t, d, d) })
		switch r, ok := pow.op.(VecPhysical); {
		case sums.load != nil:
			steps = append(steps, sums.load)
		case sums.op == nil && ok:
			sums.op = r
			steps = append(steps, func() { VPSHUFD(U8(0x4e), r, t); a.xor(t, r, r) })
		}
		product(lowLow, sums.op, mid, first) // and lo and hi, which reduce takes out
	} else {
		product(highLow, pow.op, mid, first)
		product(lowHigh, pow.op, mid, false)
	}
	return steps
}

// powersFrom are the factors for a vector of blocks, the first with the k-th power and the
// others with those below it, vector j after that.
func (a isa) powersFrom(s Register, k, j int) (pow, sums factor) {
	return factor{op: power(s, k).Offset(a.width * j)}, factor{op: sum(s, k).Offset(a.width * j)}
}

// powerInAll are the factors for a vector whose blocks all have the k-th power. They go
// through r. low tells that it is one of those whose sums are kept.
func (a isa) powerInAll(s Register, k int, low bool, r VecPhysical) (pow, sums factor) {
	pow = factor{r, func() { a.broadcast(power(s, k), r) }}
	if low {
		sums = factor{r, func() { a.broadcast(sum(s, k), r) }}
	}
	return pow, sums
}

// reduce makes one reduced block of each lane of lo, mid and hi, in hi. Twice the lowest 64 bits are made to vanish by adding a multiple of the
// polynomial: that is what a reflected field's reduction comes to.
func (a isa) reduce() []step {
	lo, mid, hi, t := a.lo(), a.mid(), a.hi(), a.temp()
	up := func(from, to VecPhysical) []step {
		return []step{
			func() { VPCLMULQDQ(U8(0), polynomial(), from, t) },
			func() { VPSHUFD(U8(0x4e), from, from) },
			func() { a.xorInto(from, t, to) },
		}
	}
	var steps []step
	if a.halves {
		steps = append(steps, func() { a.xorInto(lo, hi, mid) })
	}
	steps = append(steps, up(lo, mid)...)
	return append(steps, up(mid, hi)...)
}

// reduceAll makes one reduced block of all lanes, in the lowest of hi; the others are zero.
func (a isa) reduceAll() []step {
	return append(a.reduce(), func() { a.fold(a.hi()) })
}

// hash is a chunk or less, vector by vector: load brings vector j, bytes as in memory, to
// data; without load it is state j. The first block's power is the k-th at s. before is the
// hash so far, one block: in hi, then the sum begins here, or in memory, then it has begun.
func (a isa) hash(vectors int, load func(j int), before Op, s Register, k int) (steps []step) {
	fresh := before == Op(a.hi())
	for j := range vectors {
		if load == nil {
			steps = append(steps, func() { VPSHUFB(a.reverse(), a.state(j), a.data()) })
		} else {
			steps = append(steps, func() { load(j) }, func() { VPSHUFB(a.reverse(), a.data(), a.data()) })
		}
		switch {
		case j > 0:
		case fresh:
			steps = append(steps, func() { a.xor(a.hi(), a.data(), a.data()) })
		default:
			steps = append(steps, func() { VMOVDQU(before, a.temp().AsX()); a.xor(a.temp(), a.data(), a.data()) })
		}
		pow, sums := a.powersFrom(s, k, j)
		steps = append(steps, a.multiply(pow, sums, fresh && j == 0)...)
	}
	return steps
}
