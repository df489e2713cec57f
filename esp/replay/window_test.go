package replay

import (
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

const cycle = uint64(1) << 32

func mustNew(t interface{ Fatal(...any) }, size uint32, esn bool) *Window {
	w, err := New(size, esn)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// oracle is RFC 4303 §3.4.3 said with a map: a number is fresh when it is above the
// highest, or not more than size-1 below it and not in the map.
type oracle struct {
	size     uint64
	highest  uint64
	received map[uint64]bool
}

func (o *oracle) check(seq uint64) error {
	if o.size == 0 {
		return nil
	}
	if seq == 0 {
		return ErrZero
	}
	if seq <= o.highest && o.highest-seq > o.size-1 {
		return ErrTooOld
	}
	if o.received[seq] {
		return ErrReplayed
	}
	return nil
}

func (o *oracle) advance(seq uint64) error {
	if err := o.check(seq); err != nil {
		return err
	}
	o.received[seq] = true
	o.highest = max(o.highest, seq)
	return nil
}

func TestNewSizes(t *testing.T) {
	for _, size := range []uint32{0, 32, 33, 63, 64, 65, 4095, 4096} {
		w, err := New(size, false)
		if err != nil || w.Size() != size || w.Highest() != 0 {
			t.Errorf("New(%d): %v, %v", size, w, err)
		}
	}
	for _, size := range []uint32{1, 31, 4097, math.MaxUint32} {
		for _, esn := range []bool{false, true} {
			if w, err := New(size, esn); w != nil || err == nil {
				t.Errorf("New(%d, %v) succeeds", size, esn)
			}
		}
	}
	if w, err := New(0, true); w != nil || err == nil {
		t.Error("extended sequence numbers without a window are accepted")
	}
}

func TestCheckAndAdvance(t *testing.T) {
	type step struct {
		seq  uint64
		want error
	}
	for _, c := range []struct {
		name  string
		size  uint32
		esn   bool
		start uint64
		steps []step
	}{
		{"in order", 32, false, 0, []step{{1, nil}, {2, nil}, {3, nil}}},
		{"zero", 32, false, 0, []step{{0, ErrZero}, {1, nil}, {0, ErrZero}}},
		{"zero of a later cycle", 32, true, cycle - 1, []step{{cycle, nil}, {cycle, ErrReplayed}, {0, ErrZero}}},
		{"copies", 32, false, 0, []step{{7, nil}, {7, ErrReplayed}, {5, nil}, {5, ErrReplayed}, {7, ErrReplayed}}},
		{"lower edge", 32, false, 0, []step{{100, nil}, {69, nil}, {68, ErrTooOld}, {69, ErrReplayed}}},
		{"lower edge, odd size", 100, false, 0, []step{{1000, nil}, {901, nil}, {900, ErrTooOld}}},
		{"jump of the size", 64, false, 0, []step{{1, nil}, {65, nil}, {1, ErrTooOld}, {2, nil}}},
		{"jump of the size less one", 64, false, 0, []step{{1, nil}, {64, nil}, {1, ErrReplayed}}},
		{"jump over everything", 4096, false, 0, []step{{5, nil}, {4000000000, nil}, {4000000000 - 4095, nil}, {4000000000 - 4096, ErrTooOld}, {5, ErrTooOld}}},
		{"last without ESN", 32, false, 0, []step{{math.MaxUint32, nil}, {math.MaxUint32, ErrReplayed}, {cycle, ErrRange}, {math.MaxUint64, ErrRange}}},
		{"last with ESN", 32, true, 0, []step{{math.MaxUint64, nil}, {math.MaxUint64, ErrReplayed}, {math.MaxUint64 - 31, nil}, {math.MaxUint64 - 32, ErrTooOld}}},
		{"across the cycle", 64, true, cycle - 2, []step{{cycle - 1, nil}, {cycle + 1, nil}, {cycle, nil}, {cycle - 1, ErrReplayed}, {cycle, ErrReplayed}}},
		{"no window", 0, false, 0, []step{{9, nil}, {9, nil}, {1, nil}, {0, nil}, {cycle, ErrRange}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := mustNew(t, c.size, c.esn)
			if err := w.Restore(c.start, nil); err != nil {
				t.Fatal(err)
			}
			highest := c.start
			for i, s := range c.steps {
				if err := w.Check(s.seq); err != s.want {
					t.Fatalf("step %d: Check(%d) = %v, want %v", i, s.seq, err, s.want)
				}
				if w.Highest() != highest {
					t.Fatalf("step %d: Check(%d) moved the window", i, s.seq)
				}
				if err := w.Advance(s.seq); err != s.want {
					t.Fatalf("step %d: Advance(%d) = %v, want %v", i, s.seq, err, s.want)
				}
				if s.want == nil {
					highest = max(highest, s.seq)
				}
				if w.Highest() != highest {
					t.Fatalf("step %d: highest is %d, want %d", i, w.Highest(), highest)
				}
			}
		})
	}
}

// Two copies in one batch both pass Check; only the first may pass Advance.
func TestOfTwoCopiesOnePasses(t *testing.T) {
	w := mustNew(t, 32, false)
	for range 2 {
		if err := w.Check(4); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Advance(4); err != nil {
		t.Fatal(err)
	}
	if err := w.Advance(4); err != ErrReplayed {
		t.Fatalf("the copy: %v", err)
	}
}

var sizes = []uint32{0, 32, 33, 63, 64, 65, 128, 1000, 4095, 4096}

// The window agrees with the oracle whatever comes, wherever it starts.
func TestWindowProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom(sizes).Draw(t, "size")
		esn := size != 0 && rapid.Bool().Draw(t, "esn")
		limit := uint64(math.MaxUint32)
		start := uint64(0)
		if esn {
			limit = math.MaxUint64
			start = rapid.SampledFrom([]uint64{0, cycle - 40, 5*cycle - 4000, math.MaxUint64 - 5000}).Draw(t, "start")
		} else if rapid.Bool().Draw(t, "late") {
			start = limit - 5000
		}
		w := mustNew(t, size, esn)
		o := &oracle{size: uint64(size), received: map[uint64]bool{}}
		if start != 0 {
			if w.Advance(start) != nil || o.advance(start) != nil {
				t.Fatal("the first number is refused")
			}
		}
		for range rapid.IntRange(1, 200).Draw(t, "packets") {
			seq := drawNear(t, w.Highest(), size, limit)
			if got, want := w.Check(seq), o.check(seq); got != want {
				t.Fatalf("Check(%d) at %d = %v, want %v", seq, o.highest, got, want)
			}
			if rapid.Bool().Draw(t, "verified") {
				if got, want := w.Advance(seq), o.advance(seq); got != want {
					t.Fatalf("Advance(%d) at %d = %v, want %v", seq, o.highest, got, want)
				}
			}
			if w.Highest() != o.highest {
				t.Fatalf("highest is %d, want %d", w.Highest(), o.highest)
			}
		}
	})
}

// drawNear draws a number from where the edges are: around the highest and the lower edge,
// a jump ahead of about one window, and anywhere.
func drawNear(t *rapid.T, highest uint64, size uint32, limit uint64) uint64 {
	back := rapid.Uint64Range(0, 2*uint64(size)+70).Draw(t, "back")
	ahead := rapid.Uint64Range(0, 2*uint64(size)+70).Draw(t, "ahead")
	switch rapid.IntRange(0, 9).Draw(t, "where") {
	case 0:
		return rapid.Uint64Range(0, limit).Draw(t, "seq")
	case 1:
		return min(highest+uint64(size), limit)
	case 2, 3, 4, 5:
		if back > highest {
			return 0
		}
		return highest - back
	}
	if limit-highest < ahead {
		return limit
	}
	return highest + ahead
}

// Appendix A2.2: every number from the lower edge of the window up to 2^32 minus the size
// above its top is recovered from its low half alone.
func TestRecoverProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom(sizes[1:]).Draw(t, "size")
		w := mustNew(t, size, true)
		highest := rapid.OneOf(
			rapid.Uint64(),
			rapid.Uint64Range(0, 5000),
			rapid.Uint64Range(cycle-5000, cycle+5000),
			rapid.Uint64Range(7*cycle-5000, 7*cycle+5000),
			rapid.Uint64Range(math.MaxUint64-5000, math.MaxUint64),
		).Draw(t, "highest")
		if err := w.Restore(highest, nil); err != nil {
			t.Fatal(err)
		}
		lowest := uint64(0)
		if highest >= uint64(size)-1 {
			lowest = highest - (uint64(size) - 1)
		}
		last := highest + (cycle - uint64(size))
		if last < highest {
			last = math.MaxUint64
		}
		seq := rapid.OneOf(
			rapid.Uint64Range(lowest, last),
			rapid.Uint64Range(lowest, highest),
			rapid.SampledFrom([]uint64{lowest, highest, last}),
		).Draw(t, "seq")
		if got := w.Recover(uint32(seq)); got != seq {
			t.Fatalf("size %d, highest %#x: %#x is recovered as %#x", size, highest, seq, got)
		}
	})
}

func TestRecover(t *testing.T) {
	for _, c := range []struct {
		name    string
		highest uint64
		low     uint32
		want    uint64
	}{
		{"first packet", 0, 1, 1},
		{"same cycle, ahead", 1000, 1500, 1500},
		{"same cycle, lower edge", 1000, 1000 - 63, 1000 - 63},
		{"below the edge: next cycle", 1000, 1000 - 64, cycle + 1000 - 64},
		{"ahead into the next cycle", cycle - 1, 0, cycle},
		{"window over two cycles, in the earlier", cycle + 10, math.MaxUint32, cycle - 1},
		{"window over two cycles, in the later", cycle + 10, 3, cycle + 3},
		{"window over two cycles, lower edge", cycle + 10, math.MaxUint32 - 52, cycle - 53},
		{"window over two cycles, below the edge", cycle + 10, math.MaxUint32 - 53, 2*cycle - 54},
		{"no cycle before the first", 10, math.MaxUint32, math.MaxUint32},
		{"no cycle after the last", math.MaxUint64, 5, 5},
	} {
		w := mustNew(t, 64, true)
		if err := w.Restore(c.highest, nil); err != nil {
			t.Fatal(err)
		}
		if got := w.Recover(c.low); got != c.want {
			t.Errorf("%s: at %#x, %#x is recovered as %#x, want %#x", c.name, c.highest, c.low, got, c.want)
		}
	}
	w := mustNew(t, 64, false)
	if err := w.Restore(math.MaxUint32, nil); err != nil {
		t.Fatal(err)
	}
	if got := w.Recover(3); got != 3 {
		t.Errorf("without ESN 3 is recovered as %d", got)
	}
}

// Bitmaps written by hand from the layout: number n is bit (n-1) mod size.
func TestBitmapLayout(t *testing.T) {
	for _, c := range []struct {
		name string
		size uint32
		esn  bool
		seqs []uint64
		want []uint32
	}{
		{"nothing", 32, false, nil, []uint32{0}},
		{"first numbers", 32, false, []uint64{1, 2, 5}, []uint32{0x13}},
		{"full", 32, false, []uint64{32, 1}, []uint32{0x80000001}},
		{"wrapped", 32, false, []uint64{1, 2, 33}, []uint32{0x3}},
		{"second word", 64, false, []uint64{33, 64}, []uint32{0, 0x80000001}},
		{"size no multiple of 32", 33, false, []uint64{1, 33}, []uint32{1, 1}},
		{"size no multiple of 32, wrapped", 33, false, []uint64{33, 34}, []uint32{1, 1}},
		{"across the cycle", 32, true, []uint64{cycle - 1, cycle, cycle + 1}, []uint32{0xc0000001}},
		{"too old is gone", 64, false, []uint64{1, 2, 3, 1000}, []uint32{0, 1 << 7}},
		{"no window", 0, false, []uint64{1, 2}, nil},
	} {
		w := mustNew(t, c.size, c.esn)
		for _, s := range c.seqs {
			if err := w.Advance(s); err != nil {
				t.Fatalf("%s: Advance(%d): %v", c.name, s, err)
			}
		}
		if got := w.Bitmap(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

// A restored window decides as the original does.
func TestBitmapRestoreProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom(sizes[1:]).Draw(t, "size")
		w := mustNew(t, size, true)
		start := rapid.SampledFrom([]uint64{1, cycle - 30, 9*cycle - 5000, math.MaxUint64 - 9000}).Draw(t, "start")
		for range rapid.IntRange(0, 100).Draw(t, "packets") {
			// The verdict does not matter here: refused numbers change nothing.
			_ = w.Advance(drawNear(t, max(start, w.Highest()), size, math.MaxUint64))
		}
		bitmap := w.Bitmap()
		again := mustNew(t, size, true)
		_ = again.Advance(rapid.Uint64().Draw(t, "before")) // must leave no trace
		if err := again.Restore(w.Highest(), bitmap); err != nil {
			t.Fatal(err)
		}
		if got := again.Bitmap(); !slices.Equal(got, bitmap) {
			t.Fatalf("%#x comes back as %#x", bitmap, got)
		}
		for i := range 2*uint64(size) + 200 {
			seq := w.Highest() + 100 - i // may wrap around 0 and the maximum
			if got, want := again.Check(seq), w.Check(seq); got != want {
				t.Fatalf("Check(%d) at %d = %v, want %v", seq, w.Highest(), got, want)
			}
		}
	})
}

func TestRestore(t *testing.T) {
	w := mustNew(t, 64, false)
	if err := w.Restore(100, nil); err != nil {
		t.Fatal(err)
	}
	for seq := uint64(37); seq <= 100; seq++ {
		if err := w.Check(seq); err != ErrReplayed {
			t.Errorf("nothing known about %d: %v", seq, err)
		}
	}
	if err := w.Check(101); err != nil {
		t.Error(err)
	}

	// An explicit bitmap is believed, and a longer one is allowed.
	if err := w.Restore(100, []uint32{0, 0, 0xffffffff}); err != nil {
		t.Fatal(err)
	}
	if err := w.Check(100); err != nil {
		t.Error(err)
	}

	before := w.Bitmap()
	if err := w.Restore(5, []uint32{1}); err == nil {
		t.Error("a bitmap that is too short is accepted")
	}
	if err := w.Restore(cycle, nil); !errors.Is(err, ErrRange) {
		t.Errorf("a 64-bit number without ESN: %v", err)
	}
	if w.Highest() != 100 || !slices.Equal(w.Bitmap(), before) {
		t.Error("a refused Restore changed the window")
	}

	// There is no number 0 to have been received.
	if err := w.Restore(5, nil); err != nil || !slices.Equal(w.Bitmap(), []uint32{0x1f, 0}) {
		t.Errorf("five numbers received: %v, %#x", err, w.Bitmap())
	}

	off := mustNew(t, 0, false)
	if err := off.Restore(77, nil); err != nil || off.Highest() != 77 {
		t.Errorf("window 0: %v, highest %d", err, off.Highest())
	}
}

func TestNoAllocations(t *testing.T) {
	w := mustNew(t, 4096, true)
	seq := uint64(0)
	n := testing.AllocsPerRun(1000, func() {
		seq += 700
		if s := w.Recover(uint32(seq)); w.Check(s) != nil || w.Advance(s) != nil {
			t.Fatal("refused")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}
