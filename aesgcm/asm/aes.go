package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// AES in counter mode (NIST SP 800-38D §6.5). The counter is the last word of a block,
// highest byte first; in a block with its bytes reversed it is the first word, as the CPU
// adds it.

// counters puts the next counter blocks into states. Each is by more than the one before.
func (a isa) counters(vectors int, by Mem) (steps []step) {
	for j := range vectors {
		steps = append(steps, func() {
			VPSHUFB(a.reverse(), a.counter(), a.state(j))
			VPADDD(by, a.counter(), a.counter())
		})
	}
	return steps
}

// encrypt turns the counter blocks in states, which before puts there, into ciphertext or
// plaintext: xorKey(j) leaves in temp what key holds plus vector j of the text. other is woven
// into the nine rounds that all key sizes have.
func (a isa) encrypt(s Register, vectors int, before []step, xorKey func(j int), other []step) {
	rounds := before
	each := func(f func(st VecPhysical)) {
		for j := range vectors {
			rounds = append(rounds, func() { f(a.state(j)) })
		}
	}
	load := func(r int) { a.broadcast(roundKey(s, r), a.key()) }
	round := func(st VecPhysical) { VAESENC(a.key(), st, st) }

	rounds = append(rounds, func() { load(0) })
	each(func(st VecPhysical) { a.xor(a.key(), st, st) })
	for r := 1; r <= 9; r++ {
		rounds = append(rounds, func() { load(r) })
		each(round)
	}
	weave(rounds, other)

	Comment("Round 10 is the last with keys of 128 bits, 12 with 192, 14 with 256.")
	last := label("last")
	rounds = nil
	lastKey := GP64()
	LEAQ(roundKey(s, 10), lastKey)
	CMPQ(field(s, scheduleRounds), U8(12))
	JB(LabelRef(last))
	for _, r := range []int{10, 11} {
		load(r)
		each(round)
		emit(rounds)
		rounds = nil
	}
	LEAQ(roundKey(s, 12), lastKey)
	CMPQ(field(s, scheduleRounds), U8(12))
	JE(LabelRef(last))
	for _, r := range []int{12, 13} {
		load(r)
		each(round)
		emit(rounds)
		rounds = nil
	}
	LEAQ(roundKey(s, 14), lastKey)
	Label(last)
	a.broadcast(Mem{Base: lastKey}, a.key())
	for j := range vectors {
		xorKey(j)
		VAESENCLAST(a.temp(), a.state(j), a.state(j))
	}
}

// start makes counter of the nonce at p: the first lanes are counters 1, 2, …
func (a isa) start(p Register) {
	x := a.counter().AsX()
	VMOVDQU(field(p, packetNonce), x)
	VPINSRD(U8(3), constant("one", 0x01000000), x, x)
	VPSHUFB(a.reverse().AsX(), x, x)
	a.spread(a.counter())
	VPADDD(laneNumbers(), a.counter(), a.counter())
}

// label is a name that no other label of the function has.
func label(name string) string {
	labels++
	return fmt.Sprintf("%s%d", name, labels)
}

var labels int
