//go:build !purego

package aesgcm

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// schedule is everything that follows from a key. kernels_amd64.s reads it.
type schedule struct {
	keys    [15][4]uint32 // round keys, words as in memory
	powers  [65][2]uint64 // the hash key to the 65th, …, 1st, in the form asm/ghash.go wants
	sums    [65][2]uint64 // the sum of each one's halves, twice
	rounds  uint64        // 10, 12, 14
	tagSize uint64        // bytes
	_       [4][2]uint64  // the vector with the last power sticks out
}

// set expands a key of 16, 24 or 32 bytes as FIPS 197 §5.2 does, and its hash key.
func (s *schedule) set(key []byte, tagSize int) {
	n := len(key) / 4
	s.rounds = uint64(n + 6)
	s.tagSize = uint64(tagSize)
	words := unsafe.Slice(&s.keys[0][0], 4*(n+7))
	for i := range n {
		words[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	rcon := uint32(1)
	for i := n; i < len(words); i++ {
		w := words[i-1]
		switch {
		case i%n == 0:
			w = subWord(bits.RotateLeft32(w, -8)) ^ rcon // RotWord, in words that begin with the low byte
			rcon = rcon<<1 ^ rcon>>7*0x11b
		case n > 6 && i%n == 4:
			w = subWord(w)
		}
		words[i] = words[i-n] ^ w
	}
	powers(s)
}

// What asm/layout.go says.
const (
	_ = -(unsafe.Offsetof(schedule{}.powers) ^ 240)
	_ = -(unsafe.Offsetof(schedule{}.sums) ^ (240 + 65*16))
	_ = -(unsafe.Offsetof(schedule{}.rounds) ^ (240 + 130*16))
	_ = -(unsafe.Offsetof(schedule{}.tagSize) ^ (240 + 130*16 + 8))
	_ = -unsafe.Offsetof(Packet{}.Nonce)
	_ = -(unsafe.Offsetof(Packet{}.AAD) ^ 16)
	_ = -(unsafe.Offsetof(Packet{}.Text) ^ 40)
	_ = -(unsafe.Offsetof(Packet{}.From) ^ 64)
	_ = -(unsafe.Offsetof(Packet{}.hash) ^ 112)
	_ = -(unsafe.Sizeof(Packet{}) ^ 128)
)
