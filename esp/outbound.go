package esp

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync/atomic"

	"espalier/ipsec"
)

// Outbound is the sending half of an SA. All its methods are safe for concurrent use, each
// caller with its own buffers and its own [Batch].
type Outbound struct {
	saCrypto
	start     uint64 // numbers up to this one were used before this Outbound existed
	limit     uint64 // the last number there is
	numbers   *Numbers
	exhausted error
}

// NewOutbound validates sa and takes over its key; the caller may wipe its own copy. The
// first number reserved is sa.Counters.Sent+1. The error matches ipsec.ErrInvalid or
// ipsec.ErrUnsupported and contains no key material.
func NewOutbound(sa *ipsec.SA) (*Outbound, error) {
	o := &Outbound{start: sa.Counters.Sent, limit: math.MaxUint32}
	if sa.ESN {
		o.limit = math.MaxUint64
	}
	if o.start > o.limit {
		return nil, fmt.Errorf("outbound SA %s: %w: sequence number %d was sent without extended sequence numbers", sa.ID(), ipsec.ErrInvalid, o.start)
	}
	if err := o.init(sa, ipsec.Outbound); err != nil {
		return nil, err
	}
	o.numbers = new(Numbers)
	o.numbers.raise(o.start)
	// Built once: when it is needed, it is needed for every packet.
	o.exhausted = fmt.Errorf("outbound SA %s: %w: replace the SA", sa.ID(), ErrExhausted)
	return o, nil
}

// Numbers is a sequence from which SAs take their numbers. Numbers are nonces: SAs with the same
// key and salt must share one. The zero value begins with 1. It is safe for concurrent use.
type Numbers struct{ sent atomic.Uint64 }

// raise makes to the last number sent, unless more were.
func (n *Numbers) raise(to uint64) {
	for sent := n.sent.Load(); sent < to && !n.sent.CompareAndSwap(sent, to); sent = n.sent.Load() {
	}
}

// Share makes o go on with n, behind both what n has given out and what sa.Counters.Sent said.
// It must be called before the first Reserve.
func (o *Outbound) Share(n *Numbers) {
	n.raise(o.start)
	o.start = max(o.start, n.sent.Load())
	o.numbers = n
}

// Reserve takes the next n sequence numbers, first to first+n-1, all or none. No number is
// ever given out twice; those that are not used are lost, which receivers tolerate. The
// last number is 2^32-1, with ESN 2^64-1; past it Reserve takes nothing and returns
// ErrExhausted (RFC 4303 §3.3.3). n must be positive.
func (o *Outbound) Reserve(n int) (first uint64, err error) {
	if n <= 0 {
		return 0, fmt.Errorf("reserve %d sequence numbers: %w: at least 1", n, ipsec.ErrInvalid)
	}
	for {
		sent := o.numbers.sent.Load()
		if sent >= o.limit || uint64(n) > o.limit-sent {
			return 0, o.exhausted
		}
		if o.numbers.sent.CompareAndSwap(sent, sent+uint64(n)) {
			return sent + 1, nil
		}
	}
}

// Sent is the last sequence number reserved.
func (o *Outbound) Sent() uint64 { return o.numbers.sent.Load() }

// Len is the length of the ESP packet around a payload, SPI to ICV, in bytes.
func (o *Outbound) Len(payload int) int {
	return HeaderLen + IVLen + (payload+trailerLen+align-1)&^(align-1) + o.icvLen
}

// MaxPayload is the largest payload whose ESP packet fits into room bytes; -1 when not
// even an empty one does.
func (o *Outbound) MaxPayload(room int) int {
	text := (room - HeaderLen - IVLen - o.icvLen) &^ (align - 1)
	if text < trailerLen {
		return -1
	}
	return text - trailerLen
}

// Lay writes SPI, sequence number, IV and trailer around a payload that stands at
// pkt[HeaderLen+IVLen:][:payloadLen]; the room for the ICV stays as it is. It panics if
// pkt is not Len(payloadLen) bytes long.
func (o *Outbound) Lay(pkt []byte, payloadLen int, seq uint64, nextHeader uint8) {
	if payloadLen < 0 || len(pkt) != o.Len(payloadLen) {
		panic(fmt.Sprintf("esp: a packet of %d bytes for a payload of %d, which takes %d", len(pkt), payloadLen, o.Len(payloadLen)))
	}
	binary.BigEndian.PutUint64(pkt, uint64(o.spi)<<32|uint64(uint32(seq)))
	binary.BigEndian.PutUint64(pkt[HeaderLen:], seq)
	trailer := pkt[HeaderLen+IVLen+payloadLen : len(pkt)-o.icvLen]
	padLen := len(trailer) - trailerLen
	for i := range padLen {
		trailer[i] = byte(i + 1)
	}
	trailer[padLen] = byte(padLen)
	trailer[padLen+1] = nextHeader
}

// Seal encrypts a batch in place and writes the ICVs: pkts[i] is laid out with number
// first+i, and all these numbers come from Reserve. Each packet may be sealed only once:
// sealing it again under the same number would give its content away. It allocates nothing
// once b has seen a batch of this size.
//
// An error, ErrSequence, ErrTruncated or ErrWiped, is about the whole batch: then every
// packet is zeroed, so that no cleartext can leave by mistake.
func (o *Outbound) Seal(b *Batch, pkts [][]byte, first uint64) error {
	err := o.seal(b, pkts, first)
	if err != nil {
		for _, pkt := range pkts {
			clear(pkt)
		}
	}
	return err
}

func (o *Outbound) seal(b *Batch, pkts [][]byte, first uint64) error {
	if len(pkts) == 0 {
		return nil
	}
	if sent := o.numbers.sent.Load(); first <= o.start || first > sent || uint64(len(pkts)-1) > sent-first {
		return ErrSequence
	}
	o.alive.RLock()
	defer o.alive.RUnlock()
	if o.wiped {
		return ErrWiped
	}
	b.begin(len(pkts))
	defer b.end(len(pkts))
	if err := o.fill(b, pkts, first); err != nil {
		return err
	}
	o.aead.Seal(b.packets)
	return nil
}

// fill puts the packets into the batch. It guards the nonces: every packet carries the number
// that Reserve gave out for it.
func (o *Outbound) fill(b *Batch, pkts [][]byte, first uint64) error {
	shortest := o.Len(0)
	for i, pkt := range pkts {
		if len(pkt) < shortest {
			return ErrTruncated
		}
		if binary.BigEndian.Uint64(pkt[HeaderLen:]) != first+uint64(i) {
			return ErrSequence
		}
		b.set(i, &o.saCrypto, pkt, first+uint64(i))
	}
	return nil
}
