package esp

import (
	"encoding/binary"

	"espalier/aesgcm"
)

// Batch is scratch memory for Seal and Open. The zero value is ready; it grows to the
// largest batch seen and then allocates no more. It serves any SA, outbound and inbound,
// but one call at a time: each queue has its own. Between calls it holds no packet and no
// secret.
type Batch struct {
	packets []aesgcm.Packet
	aad     [][HeaderLen + 4]byte // with ESN only: the high half is not part of the packet
	origin  []int                 // packets[k] is the caller's packet origin[k]
}

// begin empties the batch and makes room for n packets.
func (b *Batch) begin(n int) {
	if cap(b.packets) < n {
		b.packets = make([]aesgcm.Packet, 0, n)
		b.aad = make([][HeaderLen + 4]byte, n)
		b.origin = make([]int, 0, n)
	}
	b.packets = b.packets[:0]
	b.origin = b.origin[:0]
}

// add appends the caller's packet i: pkt from SPI to ICV, with the full sequence number
// seq. The nonce takes the IV from the packet (RFC 4106 §4).
func (b *Batch) add(c *saCrypto, i int, pkt []byte, seq uint64) {
	k := len(b.packets)
	b.packets = b.packets[:k+1]
	b.origin = append(b.origin, i)
	p := &b.packets[k]
	copy(p.Nonce[:saltLen], c.salt[:])
	copy(p.Nonce[saltLen:], pkt[HeaderLen:HeaderLen+IVLen])
	p.Text = pkt[HeaderLen+IVLen:]
	p.AAD = pkt[:HeaderLen]
	if c.esn {
		aad := &b.aad[k]
		binary.BigEndian.PutUint32(aad[0:], c.spi)
		binary.BigEndian.PutUint64(aad[4:], seq)
		p.AAD = aad[:]
	}
}

// end forgets packets and salt.
func (b *Batch) end() {
	clear(b.packets)
	b.packets = b.packets[:0]
}
