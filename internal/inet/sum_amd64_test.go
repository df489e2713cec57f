//go:build !purego

package inet

import (
	"math/bits"
	"math/rand/v2"
	"testing"
)

// littleEndian folds a sum of little-endian words.
func littleEndian(sum uint64) uint16 { return bits.ReverseBytes16(Fold(sum)) }

// Both ways to sum agree with the plain one, at each length and alignment.
func TestSums(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	room := make([]byte, 4096)
	for n := 64; n < 2048; n++ {
		b := room[r.IntN(64):][:n]
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if n%3 == 0 {
			for i := range b {
				b[i] = 0xff // carries
			}
		}
		whole := n &^ 63
		want := slowChecksum(b[:whole])
		sum, rest := sumWords(b)
		if littleEndian(sum) != want || len(rest) != n-whole {
			t.Fatalf("sumWords of %d bytes: %#x and %d left, want %#x", n, littleEndian(sum), len(rest), want)
		}
		if !hasAVX2 {
			continue
		}
		if got := littleEndian(sumAVX2(&b[0], whole)); got != want {
			t.Fatalf("sumAVX2 of %d bytes: %#x, want %#x", whole, got, want)
		}
		if got, want := Fold(Sum(b, 0)), slowChecksum(b); got != want {
			t.Fatalf("Sum of %d bytes: %#x, want %#x", n, got, want)
		}
	}
	if !hasAVX2 {
		t.Log("this CPU has no AVX2")
	}
}

func BenchmarkSum(b *testing.B) {
	p := make([]byte, 1400)
	for name, sum := range map[string]func(){
		"chosen": func() { Sum(p, 0) },
		"words":  func() { sumWords(p) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				sum()
			}
		})
	}
}
