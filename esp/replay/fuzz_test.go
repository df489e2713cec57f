package replay

import (
	"encoding/binary"
	"math"
	"testing"
)

// FuzzWindow lets the input choose a window and the packets that come: each 8 bytes are
// an offset from the highest number, so that the input stays near the edges. The window
// must agree with the oracle and survive Bitmap and Restore at any point.
func FuzzWindow(f *testing.F) {
	f.Add(uint16(32), false, uint64(0), []byte("\x00\x00\x00\x00\x00\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Add(uint16(64), true, uint64(math.MaxUint32), []byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add(uint16(4096), true, uint64(math.MaxUint64-9), []byte("\x00\x00\x00\x00\x00\x00\x00\x0a"))
	f.Add(uint16(0), false, uint64(1), []byte{})
	f.Fuzz(func(t *testing.T, size uint16, esn bool, start uint64, packets []byte) {
		w, err := New(uint32(size), esn)
		if err != nil {
			return
		}
		if w.Restore(start, nil) != nil {
			return
		}
		o := &oracle{size: uint64(size), highest: start, received: map[uint64]bool{}}
		for i := uint64(0); i < uint64(size) && i < start; i++ {
			o.received[start-i] = true
		}
		for ; len(packets) >= 8; packets = packets[8:] {
			seq := w.Highest() + binary.BigEndian.Uint64(packets)
			if recovered := w.Recover(uint32(seq)); uint32(recovered) != uint32(seq) {
				t.Fatalf("Recover(%#x) = %#x changes the low half", uint32(seq), recovered)
			}
			if !esn {
				seq = uint64(uint32(seq))
			}
			if got, want := w.Check(seq), o.check(seq); got != want {
				t.Fatalf("Check(%d) at %d = %v, want %v", seq, o.highest, got, want)
			}
			if got, want := w.Advance(seq), o.advance(seq); got != want {
				t.Fatalf("Advance(%d) at %d = %v, want %v", seq, o.highest, got, want)
			}
			if w.Highest() != o.highest {
				t.Fatalf("highest is %d, want %d", w.Highest(), o.highest)
			}
			if err := w.Restore(w.Highest(), w.Bitmap()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
