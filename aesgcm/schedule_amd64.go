//go:build !purego

package aesgcm

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

// schedule is everything that follows from a key. kernels_amd64.s reads it. There is one for each SA:
// it holds no more than pays.
type schedule struct {
	powers  [numPowers][2]uint64 // of the hash key, which is the last, in the form asm/ghash.go wants
	keys    [15][4]uint32        // round keys, words as in memory; the vector with the last power sticks into them
	rounds  uint64               // 10, 12, 14
	tagSize uint64               // bytes
	_       uint64               // zero
}

const (
	numPowers = 55
	// The narrow kernels use the 38 lowest, and in the place of the others the sums of the halves
	// of the 17 lowest, twice each.
	powers256 = numPowers - 17
	powers512 = numPowers
)

// set expands a key of 16, 24 or 32 bytes as FIPS 197 §5.2 does, and its hash key, whose
// lowest powers are wanted.
func (s *schedule) set(key []byte, tagSize, numPowers int) {
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
	powers(s, numPowers)
}

// What asm/layout.go says.
const (
	_ = -unsafe.Offsetof(schedule{}.powers)
	_ = -(unsafe.Offsetof(schedule{}.keys) ^ (55 * 16))
	_ = -(unsafe.Offsetof(schedule{}.rounds) ^ (55*16 + 240))
	_ = -(unsafe.Offsetof(schedule{}.tagSize) ^ (55*16 + 240 + 8))
	_ = -unsafe.Offsetof(Packet{}.Nonce)
	_ = -(unsafe.Offsetof(Packet{}.AAD) ^ 16)
	_ = -(unsafe.Offsetof(Packet{}.Text) ^ 40)
	_ = -(unsafe.Offsetof(Packet{}.From) ^ 64)
	_ = -(unsafe.Offsetof(Packet{}.hash) ^ 112)
	_ = -(unsafe.Sizeof(Packet{}) ^ 128)
)
