package esp

import (
	"bytes"
	"errors"
	"math"
	"sync"
	"testing"

	"espalier/ipsec"
)

// Every packet is the one that RFC 4303 and RFC 4106 describe, for every length.
func TestSealEveryLength(t *testing.T) {
	for _, sa := range []*ipsec.SA{
		testSA(), testSA(withICV(96)),
		testSA(withESN, afterNumber(cycle-100)), testSA(withESN, withICV(96), afterNumber(cycle-100)),
	} {
		o, in := newOutbound(t, sa), newInbound(t, sa)
		for n := range 301 {
			payload := pattern(n)
			pkt := send(t, o, protoTCP, payload)[0]
			seq := o.Sent()
			if want := rawSeal(t, sa, seq, seq, withTrailer(payload, protoTCP)); !bytes.Equal(pkt, want) {
				t.Fatalf("ESN %v, ICV %d, payload %d:\n got %x\nwant %x", sa.ESN, sa.ICVBits, n, pkt, want)
			}
			p := openOne(in, pkt)
			if p.Err != nil || p.Seq != seq || p.NextHeader != protoTCP || !bytes.Equal(p.Payload, payload) {
				t.Fatalf("ESN %v, ICV %d, payload %d comes back as %+v", sa.ESN, sa.ICVBits, n, p)
			}
		}
		if in.Highest() != o.Sent() {
			t.Errorf("sent %d, received %d", o.Sent(), in.Highest())
		}
	}
}

func TestLenAndMaxPayload(t *testing.T) {
	for _, bits := range []int{96, 128} {
		o := newOutbound(t, testSA(withICV(bits)))
		for n := range 2000 {
			if l := o.Len(n); (l-bits/8)%4 != 0 || l < 8+8+n+2+bits/8 || l > 8+8+n+2+3+bits/8 {
				t.Fatalf("ICV %d: Len(%d) = %d", bits, n, l)
			}
		}
		for room := range 2000 {
			p := o.MaxPayload(room)
			if p >= 0 && o.Len(p) > room || o.Len(p+1) <= room {
				t.Fatalf("ICV %d: MaxPayload(%d) = %d, of length %d and %d", bits, room, p, o.Len(p), o.Len(p+1))
			}
			if p < -1 {
				t.Fatalf("MaxPayload(%d) = %d", room, p)
			}
		}
	}
	o := newOutbound(t, testSA())
	for _, room := range []int{-1, 0, 35, math.MinInt32} {
		if p := o.MaxPayload(room); p != -1 {
			t.Errorf("MaxPayload(%d) = %d", room, p)
		}
	}
	if p := o.MaxPayload(36); p != 2 {
		t.Errorf("the smallest packet of 8+8+4+16 bytes holds 2 bytes, not %d", p)
	}
	// MTU 1500, IPv4 header 20: 1480 = 8 + 8 + 1448 + 16, of which 2 are trailer.
	if p := o.MaxPayload(1480); p != 1446 {
		t.Errorf("MaxPayload(1480) = %d", p)
	}
}

func TestLayPanicsOnTheWrongLength(t *testing.T) {
	o := newOutbound(t, testSA())
	for _, n := range []int{0, o.Len(10) - 1, o.Len(10) + 4} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d bytes for a payload of 10 are accepted", n)
				}
			}()
			o.Lay(make([]byte, n), 10, 1, protoTCP)
		}()
	}
}

// The last number is used, the next one refused, with and without ESN.
func TestExhaustion(t *testing.T) {
	for _, c := range []struct {
		sa   *ipsec.SA
		last uint64
	}{
		{testSA(afterNumber(math.MaxUint32 - 3)), math.MaxUint32},
		{testSA(withESN, afterNumber(math.MaxUint64-3)), math.MaxUint64},
	} {
		o, in := newOutbound(t, c.sa), newInbound(t, c.sa)
		if _, err := o.Reserve(4); !errors.Is(err, ErrExhausted) {
			t.Fatalf("four of three: %v", err)
		}
		if o.Sent() != c.last-3 {
			t.Fatalf("a refused reservation took numbers up to %d", o.Sent())
		}
		pkts := send(t, o, protoTCP, pattern(1), pattern(2), pattern(3))
		for i, p := range open(in, pkts...) {
			if p.Err != nil || p.Seq != c.last-2+uint64(i) {
				t.Errorf("packet %d: number %d, %v", i, p.Seq, p.Err)
			}
		}
		if o.Sent() != c.last {
			t.Errorf("sent %d, want %d", o.Sent(), c.last)
		}
		for _, n := range []int{1, 2, math.MaxInt} {
			if first, err := o.Reserve(n); !errors.Is(err, ErrExhausted) || first != 0 {
				t.Errorf("after the last number: %d, %v", first, err)
			}
		}
		if again := newOutbound(t, testSA(func(sa *ipsec.SA) { *sa = *c.sa; sa.Counters.Sent = c.last })); again != nil {
			if _, err := again.Reserve(1); !errors.Is(err, ErrExhausted) {
				t.Errorf("a new Outbound after the last number: %v", err)
			}
		}
	}
}

func TestReserveNothing(t *testing.T) {
	o := newOutbound(t, testSA())
	for _, n := range []int{0, -1, math.MinInt} {
		if _, err := o.Reserve(n); !errors.Is(err, ipsec.ErrInvalid) {
			t.Errorf("Reserve(%d): %v", n, err)
		}
	}
	if o.Sent() != 0 {
		t.Errorf("sent %d", o.Sent())
	}
}

// Many goroutines reserve until nothing is left: every number is given out exactly once,
// and the last one too.
func TestReserveConcurrently(t *testing.T) {
	const total = 20000
	o := newOutbound(t, testSA(afterNumber(math.MaxUint32-total)))
	var mu sync.Mutex
	taken := map[uint64]bool{}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			var mine []uint64
			for n := g + 1; n > 0; {
				first, err := o.Reserve(n)
				if err != nil {
					n-- // a smaller piece may still fit
					continue
				}
				for i := range n {
					mine = append(mine, first+uint64(i))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for _, seq := range mine {
				if taken[seq] {
					t.Errorf("number %d is given out twice", seq)
				}
				taken[seq] = true
			}
		})
	}
	wg.Wait()
	if len(taken) != total || !taken[math.MaxUint32] || o.Sent() != math.MaxUint32 {
		t.Errorf("%d of %d numbers given out, the last %d", len(taken), total, o.Sent())
	}
}

// A batch that does not carry its reserved numbers is refused whole, and no cleartext is
// left of it.
func TestSealRefusesOtherNumbers(t *testing.T) {
	lay := func(o *Outbound, seqs ...uint64) (pkts [][]byte) {
		for _, seq := range seqs {
			pkt := bytes.Repeat([]byte{0xee}, o.Len(40))
			o.Lay(pkt, 40, seq, protoTCP)
			pkts = append(pkts, pkt)
		}
		return pkts
	}
	for _, c := range []struct {
		name  string
		first uint64
		seqs  []uint64
		cut   int
		want  error
	}{
		{"reserved", 101, []uint64{101, 102, 103, 104}, 0, nil},
		{"nothing", 900, nil, 0, nil},
		{"number 0", 0, []uint64{0}, 0, ErrSequence},
		{"used before this SA was restored", 100, []uint64{100}, 0, ErrSequence},
		{"not reserved", 105, []uint64{105}, 0, ErrSequence},
		{"one more than reserved", 101, []uint64{101, 102, 103, 104, 105}, 0, ErrSequence},
		{"laid out with other numbers", 101, []uint64{101, 103}, 0, ErrSequence},
		{"laid out twice with the same", 101, []uint64{101, 101}, 0, ErrSequence},
		{"far too high", math.MaxUint64, []uint64{math.MaxUint64, 0}, 0, ErrSequence},
		{"too short", 101, []uint64{101, 102}, 39, ErrTruncated},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newOutbound(t, testSA(afterNumber(100)))
			if _, err := o.Reserve(4); err != nil {
				t.Fatal(err)
			}
			pkts := lay(o, c.seqs...)
			if c.cut != 0 {
				pkts[1] = pkts[1][:o.Len(40)-c.cut-4]
			}
			if err := o.Seal(new(Batch), pkts, c.first); err != c.want {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			for i, pkt := range pkts {
				if zero := bytes.Count(pkt, []byte{0}) == len(pkt); zero != (c.want != nil) {
					t.Errorf("packet %d is %x", i, pkt)
				}
			}
		})
	}
}

func TestOutboundWipe(t *testing.T) {
	o := newOutbound(t, testSA())
	first, err := o.Reserve(1)
	if err != nil {
		t.Fatal(err)
	}
	pkt := bytes.Repeat([]byte{0xee}, o.Len(40))
	o.Lay(pkt, 40, first, protoTCP)
	o.Wipe()
	o.Wipe()
	if err := o.Seal(new(Batch), [][]byte{pkt}, first); err != ErrWiped {
		t.Error(err)
	}
	if bytes.Count(pkt, []byte{0}) != len(pkt) {
		t.Errorf("cleartext is left: %x", pkt)
	}
	if o.salt != [4]byte{} {
		t.Error("the salt is left")
	}
}

// Queues seal on one SA while it is wiped: what comes out is sealed or zero, never clear.
func TestWipeWhileSealing(t *testing.T) {
	sa := testSA()
	o := newOutbound(t, sa)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var b Batch
			in := newInbound(t, sa)
			for err := error(nil); err == nil; {
				first, rerr := o.Reserve(1)
				if rerr != nil {
					t.Error(rerr)
					return
				}
				pkt := bytes.Repeat([]byte{0xee}, o.Len(40))
				o.Lay(pkt, 40, first, protoTCP)
				if err = o.Seal(&b, [][]byte{pkt}, first); err != nil {
					if err != ErrWiped || bytes.Count(pkt, []byte{0}) != len(pkt) {
						t.Errorf("%v: %x", err, pkt)
					}
				} else if p := openOne(in, pkt); p.Err != nil {
					t.Errorf("number %d: %v", first, p.Err)
				}
			}
		})
	}
	for o.Sent() < 500 {
		if _, err := o.Reserve(1); err != nil {
			t.Fatal(err)
		}
	}
	o.Wipe()
	wg.Wait()
}

func TestSealDoesNotAllocate(t *testing.T) {
	for _, sa := range []*ipsec.SA{testSA(), testSA(withESN)} {
		o := newOutbound(t, sa)
		var b Batch
		pkts := make([][]byte, 32)
		for i := range pkts {
			pkts[i] = make([]byte, o.Len(1408))
		}
		n := testing.AllocsPerRun(100, func() {
			first, err := o.Reserve(len(pkts))
			if err != nil {
				t.Fatal(err)
			}
			for i := range pkts {
				o.Lay(pkts[i], 1408, first+uint64(i), protoTCP)
			}
			if err := o.Seal(&b, pkts, first); err != nil {
				t.Fatal(err)
			}
		})
		if n != 0 {
			t.Errorf("ESN %v: %v allocations per batch", sa.ESN, n)
		}
	}
}
