package replay

import (
	"fmt"
	"math"
)

// Bitmap returns the window in the layout of struct xfrm_replay_state_esn
// (linux/xfrm.h): a ring of Size bits in 32-bit words, in which the highest number n has
// bit (n-1) mod Size, computed on the low half of n, and each number below it the bit
// before. Bits of numbers that cannot exist (0 and below) are clear. It is nil for a
// window of size 0. The older struct xfrm_replay_state has another layout.
func (w *Window) Bitmap() []uint32 {
	if w.size == 0 {
		return nil
	}
	bitmap := make([]uint32, bitmapLen(w.size))
	w.eachNumber(func(seq uint64, bit uint32) {
		if w.received(seq) {
			bitmap[bit/32] |= 1 << (bit % 32)
		}
	})
	return bitmap
}

// Restore sets the window to highest and to a bitmap as Bitmap returns it, taken over as
// it is. A nil bitmap says that nothing is known about the numbers up to highest: all of
// them count as received. A bitmap may be longer than needed, as the kernel allows; bits
// outside the window are ignored. On an error nothing changes.
func (w *Window) Restore(highest uint64, bitmap []uint32) error {
	if !w.esn && highest > math.MaxUint32 {
		return fmt.Errorf("restore anti-replay window at %d: %w", highest, ErrRange)
	}
	if n := bitmapLen(w.size); bitmap != nil && len(bitmap) < n {
		return fmt.Errorf("restore anti-replay window: a bitmap of %d words is too short for %d packets: %d are needed", len(bitmap), w.size, n)
	}
	w.highest = highest
	clear(w.words)
	if w.size == 0 {
		return nil
	}
	w.eachNumber(func(seq uint64, bit uint32) {
		if bitmap == nil || bitmap[bit/32]&(1<<(bit%32)) != 0 {
			w.mark(seq)
		}
	})
	return nil
}

// bitmapLen is the number of 32-bit words for size bits.
func bitmapLen(size uint32) int { return int((size + 31) / 32) }

// eachNumber calls f for every number in the window, highest first, with its bit.
func (w *Window) eachNumber(f func(seq uint64, bit uint32)) {
	bit := (uint32(w.highest) - 1) % w.size
	for i := uint64(0); i < uint64(w.size) && i < w.highest; i++ {
		f(w.highest-i, bit)
		if bit == 0 {
			bit = w.size
		}
		bit--
	}
}
