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
	b.begin(len(pkts))
	in.admit(b, pkts)
	in.aead.Open(b.packets)
	in.advance(b, pkts)
	for k, i := range b.origin {
		if p := &pkts[i]; p.Err == nil {
			text := b.packets[k].Text
			p.Payload, p.NextHeader, p.Err = strip(text[:len(text)-in.icvLen], in.mode)
		}
	}
	b.end()
}

// admit puts into the batch what is long enough and not a replay on first sight.
func (in *Inbound) admit(b *Batch, pkts []Packet) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for i := range pkts {
		p := &pkts[i]
		p.Seq, p.Payload, p.NextHeader, p.Err = 0, nil, 0, nil
		switch {
		case in.wiped:
			p.Err = ErrWiped
			continue
		case len(p.Data) < HeaderLen+IVLen+trailerLen+in.icvLen:
			p.Err = ErrTruncated
			continue
		case binary.BigEndian.Uint32(p.Data) != in.spi:
			p.Err = ErrSPI
			continue
		}
		p.Seq = in.window.Recover(binary.BigEndian.Uint32(p.Data[4:]))
		if p.Err = in.window.Check(p.Seq); p.Err != nil {
			in.countReplay(p.Err)
			continue
		}
		b.add(&in.saCrypto, i, p.Data, p.Seq)
	}
}

// advance moves the window for what has verified. A copy of a packet of the same batch, or
// of one that another queue opened meanwhile, is found here.
func (in *Inbound) advance(b *Batch, pkts []Packet) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for k := range b.packets {
		p := &pkts[b.origin[k]]
		if !b.packets[k].OK {
			p.Err = ErrIntegrity
			in.counters.IntegrityDrops++
		} else if p.Err = in.window.Advance(p.Seq); p.Err != nil {
			in.countReplay(p.Err)
		}
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
