package main

import (
	"github.com/mmcloughlin/avo/attr"
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets into the Go types schedule and Packet. Package aesgcm does not compile when its
// types are laid out differently: see layout_amd64.go there.
const (
	// For each SA there is a schedule in memory, and what an SA takes counts: see isa.go for what
	// the two sets do with the room for these powers of the hash key. They end in the same place.
	numPowers = 55

	schedulePowers = 0
	scheduleKeys   = schedulePowers + numPowers*16
	scheduleRounds = scheduleKeys + 15*16
	scheduleTag    = scheduleRounds + 8

	packetNonce   = 0
	packetAADLen  = 24
	packetText    = 40
	packetTextLen = 48
	packetFrom    = 64
	packetHash    = 112
	packetSize    = 128
)

// roundKey is where the key of round r stands.
func roundKey(s Register, r int) Mem {
	return Mem{Base: s, Disp: scheduleKeys + 16*r}
}

// power is where the hash key to the k-th stands. They descend, as a message needs them.
func power(s Register, k int) Mem {
	return Mem{Base: s, Disp: schedulePowers + (numPowers-k)*16}
}

// sum is where the sum of that power's halves stands, twice, if the set keeps it.
func sum(s Register, k int) Mem {
	return Mem{Base: s, Disp: schedulePowers + (numSums-k)*16}
}

func field(p Register, offset int) Mem { return Mem{Base: p, Disp: offset} }

// constant is a table in read-only memory, made once.
func constant(name string, qwords ...uint64) Mem {
	if m, ok := constants[name]; ok {
		return m
	}
	m := GLOBL(name, attr.RODATA|attr.NOPTR)
	for i, q := range qwords {
		DATA(8*i, U64(q))
	}
	constants[name] = m
	return m
}

var constants = map[string]Mem{}

func repeat(n int, qwords ...uint64) (all []uint64) {
	for range n {
		all = append(all, qwords...)
	}
	return all
}

// GCM numbers bits from the first byte's highest; carry-less multiplication wants them from
// the last byte's lowest. Reversing the bytes of a block gets there, up to the reflection
// within the product that powers accounts for.
func reverseMask() Mem {
	return constant("reverse", repeat(4, 0x08090a0b0c0d0e0f, 0x0001020304050607)...)
}

// The field's polynomial, reflected, without the terms x^128 and 1: x^127+x^126+x^121.
func polynomial() Mem {
	return constant("polynomial", repeat(8, 0xc200000000000000)...)
}
