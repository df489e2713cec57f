package esp

import (
	"errors"
	"net/netip"
	"time"

	"espalier/aesgcm"
	ours "espalier/esp"
	"espalier/ipsec"
)

const (
	batchSize = 32 // packets
	icvLen    = 16
	window    = 64
	udp       = 17 // the payload is nobody's datagram, but long enough for one
)

// packets are a batch, and the SAs and keys it is sealed and opened by.
type packets struct {
	w     what
	out   *ours.Outbound
	in    *ours.Inbound
	batch ours.Batch

	pkts     [][]byte // from SPI to ICV
	received []ours.Packet

	aead aesgcm.AEAD
	bare []aesgcm.Packet // the same memory
}

func newPackets(w what) (*packets, error) {
	key := make([]byte, w.keyBits/8+4)
	sa := &ipsec.SA{
		Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), SPI: 0x1000,
		Mode: ipsec.Transport, Key: ipsec.NewKey(key), ICVBits: icvLen * 8, Window: window, ESN: w.esn,
	}
	p := &packets{w: w, received: make([]ours.Packet, batchSize)}
	var err error
	if p.out, err = ours.NewOutbound(sa); err != nil {
		return nil, err
	}
	if p.in, err = ours.NewInbound(sa); err != nil {
		return nil, err
	}
	if p.aead, err = aesgcm.New(key[:w.keyBits/8], icvLen); err != nil {
		return nil, err
	}
	p.layOut()
	return p, nil
}

// layOut makes room for the packets.
func (p *packets) layOut() {
	size := p.out.Len(p.w.size)
	for i := range batchSize {
		pkt := make([]byte, size)
		p.received[i].Data = pkt
		p.pkts = append(p.pkts, pkt)
		p.bare = append(p.bare, aesgcm.Packet{AAD: pkt[:ours.HeaderLen], Text: pkt[ours.HeaderLen+ours.IVLen:]})
	}
}

var errNotOpened = errors.New("a packet does not open")

// encapsulate is what is measured in one direction.
func (p *packets) encapsulate() error {
	first, err := p.out.Reserve(batchSize)
	if err != nil {
		return err
	}
	for i, pkt := range p.pkts {
		p.out.Lay(pkt, p.w.size, first+uint64(i), 253)
	}
	return p.out.Seal(&p.batch, p.pkts, first)
}

func (p *packets) timeESP(n int) (float64, error) {
	if p.w.open {
		return p.timeOpen(n, p.encapsulate, p.decapsulate)
	}
	done := 0
	begin := time.Now()
	for ; done < n; done += batchSize {
		if err := p.encapsulate(); err != nil {
			return 0, err
		}
	}
	return perPacket(time.Since(begin), done), nil
}

// decapsulate is what is measured in the other.
func (p *packets) decapsulate() error {
	p.in.Open(&p.batch, p.received)
	for i := range p.received {
		if p.received[i].Err != nil {
			return errNotOpened
		}
	}
	return nil
}

func (p *packets) timeBare(n int) (float64, error) {
	if p.w.open {
		return p.timeOpen(n, p.seal, p.openBare)
	}
	done := 0
	begin := time.Now()
	for ; done < n; done += batchSize {
		p.seal()
	}
	return perPacket(time.Since(begin), done), nil
}

func (p *packets) seal() error {
	p.aead.Seal(p.bare)
	return nil
}

func (p *packets) openBare() error {
	p.aead.Open(p.bare)
	for i := range p.bare {
		if !p.bare[i].OK {
			return errNotOpened
		}
	}
	return nil
}

// timeOpen times open alone: each batch has to be sealed before.
func (p *packets) timeOpen(n int, seal, open func() error) (float64, error) {
	var took time.Duration
	done := 0
	for ; done < n; done += batchSize {
		if err := seal(); err != nil {
			return 0, err
		}
		begin := time.Now()
		err := open()
		took += time.Since(begin)
		if err != nil {
			return 0, err
		}
	}
	return perPacket(took, done), nil
}

func perPacket(d time.Duration, packets int) float64 {
	return float64(d.Nanoseconds()) / float64(packets)
}
