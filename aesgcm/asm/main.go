// Command asm writes the assembly of package aesgcm: go run . -out ../kernels_amd64.s
//
// The files in reading order: layout.go, what Go and assembly agree on in memory; isa.go, the
// two vector widths; ghash.go and aes.go, the two halves of GCM as lists of steps; weave.go,
// which interleaves such lists; key.go, what happens once for each key; packet.go, one packet
// from its first byte to its tag; edges.go, first and last bytes, where vectors stick out;
// lanes.go and laneio.go, the same two for short packets side by side.
package main

import . "github.com/mmcloughlin/avo/build"

func main() {
	ConstraintExpr("amd64,!purego")

	cpuid()
	subWord()
	powers()
	ghash()
	for _, a := range []isa{vaes256, vaes512} {
		a.packets(seal)
		a.packets(open)
		a.groups(seal)
		a.groups(open)
	}
	Generate()
}
