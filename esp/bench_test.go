package esp

import (
	"fmt"
	"testing"
)

const benchBatch = 32

func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{64, 1408} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			o := newOutbound(b, testSA(withESN))
			var batch Batch
			pkts := make([][]byte, benchBatch)
			for i := range pkts {
				pkts[i] = make([]byte, o.Len(size))
			}
			b.SetBytes(int64(size * benchBatch))
			for b.Loop() {
				first, err := o.Reserve(benchBatch)
				if err != nil {
					b.Fatal(err)
				}
				for i := range pkts {
					o.Lay(pkts[i], size, first+uint64(i), protoTCP)
				}
				if err := o.Seal(&batch, pkts, first); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen opens the same packets again and again: copying them back is part of the
// measurement, and the window checks nothing so that they pass.
func BenchmarkOpen(b *testing.B) {
	for _, size := range []int{64, 1408} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			sa := testSA(withWindow(0))
			o, in := newOutbound(b, sa), newInbound(b, sa)
			var batch Batch
			pkts := make([]Packet, benchBatch)
			sealed := make([][]byte, benchBatch)
			for i := range pkts {
				sealed[i] = send(b, o, protoTCP, pattern(size))[0]
				pkts[i].Data = make([]byte, len(sealed[i]))
			}
			b.SetBytes(int64(size * benchBatch))
			for b.Loop() {
				for i := range pkts {
					copy(pkts[i].Data, sealed[i])
				}
				in.Open(&batch, pkts)
				if pkts[0].Err != nil {
					b.Fatal(pkts[0].Err)
				}
			}
		})
	}
}
