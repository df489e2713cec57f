package esp

import (
	"encoding/binary"
	"fmt"
	"sync"

	"espalier/esp/replay"
	"espalier/ipsec"
)

// Packet is one received packet. The caller sets Data; Open sets all the rest.
type Packet struct {
	// Data is the ESP packet from SPI to ICV, without IP or UDP header. It is decrypted in
	// place; after an error its content is not specified.
	Data []byte

	Seq        uint64 // full sequence number; not authentic unless the ICV has verified
	Payload    []byte // the inner packet, a part of Data; nil after an error
	NextHeader uint8  // IP protocol of Payload
	Err        error  // nil: deliver Payload
}

// Inbound is the receiving half of an SA. All its methods are safe for concurrent use, each
// caller with its own packets and its own [Batch].
type Inbound struct {
	saCrypto
	mode ipsec.Mode

	mu       sync.Mutex // guards what follows; never held during decryption
	window   *replay.Window
	counters ipsec.Counters // only the three drop counters are kept here
}

// NewInbound validates sa and takes over its key; the caller may wipe its own copy. The
// window and the drop counters continue from sa.Counters (see [replay.Window.Restore] for
// a missing bitmap). The error matches ipsec.ErrInvalid or ipsec.ErrUnsupported and
// contains no key material.
func NewInbound(sa *ipsec.SA) (*Inbound, error) {
	in := &Inbound{mode: sa.Mode}
	if err := in.init(sa, ipsec.Inbound); err != nil {
		return nil, err
	}
	var err error
	if in.window, err = replay.New(sa.Window, sa.ESN); err == nil {
		err = in.window.Restore(sa.Counters.Received, sa.Counters.Bitmap)
	}
	if err != nil {
		return nil, fmt.Errorf("inbound SA %s: %w: %w", sa.ID(), ipsec.ErrInvalid, err)
	}
	in.counters.ReplayDrops = sa.Counters.ReplayDrops
	in.counters.WindowDrops = sa.Counters.WindowDrops
	in.counters.IntegrityDrops = sa.Counters.IntegrityDrops
	return in, nil
}

// Open processes a batch as RFC 4303 §3.4 orders it: sequence numbers are checked before
// anything is decrypted, the window moves only for packets whose ICV verifies, then
// padding and traffic flow confidentiality padding are verified and taken off. Each packet
// ends with a Payload or an Err; one bad packet has no influence on the others. It
// allocates nothing once b has seen a batch of this size.
func (in *Inbound) Open(b *Batch, pkts []Packet) {
	in.alive.RLock()
	defer in.alive.RUnlock()
	if in.wiped {
		for i := range pkts {
			pkts[i] = Packet{Data: pkts[i].Data, Err: ErrWiped}
		}
		return
	}
	b.begin(len(pkts))
	n := in.admit(b, pkts)
	in.aead.Open(b.packets[:n])
	in.finish(b, n, pkts)
	b.end(n)
}

// admit puts into the batch what is long enough and not a replay on first sight, and returns how
// many packets that are.
func (in *Inbound) admit(b *Batch, pkts []Packet) (n int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	shortest := HeaderLen + IVLen + trailerLen + in.icvLen
	for i := range pkts {
		p := &pkts[i]
		p.Seq, p.Payload, p.NextHeader, p.Err = 0, nil, 0, nil
		if len(p.Data) < shortest {
			p.Err = ErrTruncated
			continue
		}
		spi, low := binary.BigEndian.Uint32(p.Data), binary.BigEndian.Uint32(p.Data[4:])
		if spi != in.spi {
			p.Err = ErrSPI
			continue
		}
		p.Seq = in.window.Recover(low)
		if err := in.window.Check(p.Seq); err != nil {
			p.Err = err
			in.countReplay(err)
			continue
		}
		b.set(n, &in.saCrypto, p.Data, p.Seq)
		b.origin[n] = i
		n++
	}
	return n
}

// Refuses reports whether an ESP packet is one that has come before, or too late. It counts nothing.
func (in *Inbound) Refuses(data []byte) bool {
	// With ESN what lies behind the window is taken for a number of the next cycle (RFC 4303 §A2.2), and
	// its ICV does not verify. No packet is so far ahead.
	const behind = 1 << 31
	if len(data) < HeaderLen {
		return false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	seq := in.window.Recover(binary.BigEndian.Uint32(data[4:]))
	return in.window.Check(seq) != nil || seq > in.window.Highest()+behind
}

// finish moves the window for what has verified and takes off what is not payload. A copy of a
// packet of the same batch, or of one that another queue opened meanwhile, is found here.
func (in *Inbound) finish(b *Batch, n int, pkts []Packet) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for k, i := range b.origin[:n] {
		p := &pkts[i]
		if !b.packets[k].OK {
			p.Err = ErrIntegrity
			in.counters.IntegrityDrops++
			continue
		}
		if err := in.window.Advance(p.Seq); err != nil {
			p.Err = err
			in.countReplay(err)
			continue
		}
		p.strip(in.icvLen, in.mode)
	}
}

func (in *Inbound) countReplay(err error) {
	switch err {
	case replay.ErrTooOld:
		in.counters.WindowDrops++
	default:
		in.counters.ReplayDrops++
	}
}

// Counters returns Received, Bitmap and the three drop counters, all of one moment. The
// other counters of an SA are its owner's and zero here.
func (in *Inbound) Counters() ipsec.Counters {
	in.mu.Lock()
	defer in.mu.Unlock()
	c := in.counters
	c.Received = in.window.Highest()
	c.Bitmap = in.window.Bitmap()
	return c
}

// Window is the size of the anti-replay window in packets; 0 does not check.
func (in *Inbound) Window() uint32 { return in.window.Size() }

// Highest is the highest sequence number authenticated.
func (in *Inbound) Highest() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.window.Highest()
}

// Bitmap is the anti-replay window as [replay.Window.Bitmap] lays it out.
func (in *Inbound) Bitmap() []uint32 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.window.Bitmap()
}
