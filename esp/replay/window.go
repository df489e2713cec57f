package replay

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
)

// Why a sequence number is refused.
var (
	ErrReplayed = errors.New("sequence number was received before")
	ErrTooOld   = errors.New("sequence number is below the anti-replay window")
	ErrZero     = errors.New("sequence number 0 is never sent")
	ErrRange    = errors.New("sequence number above 2^32-1 without extended sequence numbers")
)

// Sizes of a window that checks. RFC 4303 §3.4.3 asks for at least 32.
const (
	MinSize = 32
	MaxSize = 4096
)

// Window remembers which of the last Size sequence numbers were received.
//
// Number s is bit s%64 of word (s/64)%len(words), a ring with at least as many words as a
// window can touch. So two numbers of the window never share a bit, and moving up clears
// whole words instead of shifting all of them (the scheme of RFC 6479).
type Window struct {
	words   []uint64 // a power of two of them; none when size is 0
	highest uint64
	size    uint32
	esn     bool
}

// New returns a window over the last size packets, nothing received yet. Size is MinSize
// to MaxSize, or 0 for no check at all. Extended sequence numbers (esn) need a window,
// because the window is what tells the high half of a number (RFC 4303 §3.3.3 and A2.2).
func New(size uint32, esn bool) (*Window, error) {
	switch {
	case size == 0 && esn:
		return nil, fmt.Errorf("anti-replay window of 0: extended sequence numbers need a window of %d to %d packets", MinSize, MaxSize)
	case size == 0:
		return &Window{}, nil
	case size < MinSize || size > MaxSize:
		return nil, fmt.Errorf("anti-replay window of %d packets: it must be %d to %d, or 0 for no check", size, MinSize, MaxSize)
	}
	// The lowest number of a window lies at most (size+62)/64 words below the highest.
	span := uint((size+62)/64 + 1)
	return &Window{words: make([]uint64, 1<<bits.Len(span-1)), size: size, esn: esn}, nil
}

// Size is the number of packets the window spans; 0 does not check.
func (w *Window) Size() uint32 { return w.size }

// Highest is the highest sequence number that Advance has accepted, or Restore has set;
// 0 when there was none.
func (w *Window) Highest() uint64 { return w.highest }

// Check says whether a packet with this number may be accepted: nil, ErrReplayed,
// ErrTooOld, ErrZero or ErrRange. It changes nothing. A window of size 0 accepts every
// number in range, 0 as well: a sender whose peer does not check may wrap around
// (RFC 4303 §3.3.3).
func (w *Window) Check(seq uint64) error {
	switch {
	case !w.esn && seq > math.MaxUint32:
		return ErrRange
	case w.size == 0:
		return nil
	case seq == 0:
		return ErrZero
	case seq > w.highest:
		return nil
	case w.highest-seq >= uint64(w.size):
		return ErrTooOld
	case w.received(seq):
		return ErrReplayed
	}
	return nil
}

// Advance records a packet whose ICV has verified. It checks again, since another packet
// may have come in between: of two copies only the first passes. On an error nothing
// changes.
func (w *Window) Advance(seq uint64) error {
	if err := w.Check(seq); err != nil {
		return err
	}
	if seq > w.highest {
		w.moveTo(seq)
	}
	if w.size != 0 {
		w.mark(seq)
	}
	return nil
}

// moveTo makes seq the highest number and empties the words that come into use.
func (w *Window) moveTo(seq uint64) {
	if n := seq/64 - w.highest/64; n >= uint64(len(w.words)) {
		clear(w.words)
	} else {
		for i := uint64(1); i <= n; i++ {
			w.words[w.word(w.highest+i*64)] = 0
		}
	}
	w.highest = seq
}

func (w *Window) word(seq uint64) int { return int(seq / 64 & uint64(len(w.words)-1)) }

func (w *Window) mark(seq uint64) { w.words[w.word(seq)] |= 1 << (seq % 64) }

func (w *Window) received(seq uint64) bool { return w.words[w.word(seq)]&(1<<(seq%64)) != 0 }
