//go:build !purego

package inet

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

var hasAVX2 = cpu.X86.HasAVX2

// sumAVX2 sums n bytes, a multiple of 64 and not 0, as little-endian words of 32 bits.
//
//go:noescape
func sumAVX2(p *byte, n int) uint64

// sumMost sums the front of b, which is long, as little-endian words, and returns the rest.
func sumMost(b []byte) (sum uint64, rest []byte) {
	if !hasAVX2 {
		return sumWords(b)
	}
	n := len(b) &^ 63
	return sumAVX2(unsafe.SliceData(b), n), b[n:]
}
