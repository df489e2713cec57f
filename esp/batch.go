package esp

import (
	"encoding/binary"

	"espalier/aesgcm"
)

// Batch is scratch memory for Seal and Open. The zero value is ready; it grows to the
// largest batch seen and then allocates no more. It serves any SA, outbound and inbound,
// but one call at a time: each queue has its own. Between calls it holds no secret, but keeps
// the memory of the last packets from being collected.
type Batch struct {
	packets []aesgcm.Packet
	aad     [][HeaderLen + 4]byte // with ESN only: the high half is not part of the packet
	origin  []int                 // inbound: packets[k] is the caller's packet origin[k]
}

// begin makes room for n packets.
func (b *Batch) begin(n int) {
	if cap(b.packets) < n {
		b.packets = make([]aesgcm.Packet, n)
		b.aad = make([][HeaderLen + 4]byte, n)
		b.origin = make([]int, n)
	}
	b.packets = b.packets[:n]
}

// set makes packet k of the batch of pkt, from SPI to ICV. The nonce takes the IV from the packet
// (RFC 4106 §4).
func (b *Batch) set(k int, c *saCrypto, pkt []byte, seq uint64) {
	p := &b.packets[k]
	head := (*[HeaderLen + IVLen]byte)(pkt)
	*(*[saltLen]byte)(p.Nonce[:]) = c.salt
	*(*[IVLen]byte)(p.Nonce[saltLen:]) = [IVLen]byte(head[HeaderLen:])
	p.Text = pkt[HeaderLen+IVLen:]
	p.AAD = head[:HeaderLen]
	if c.esn {
		aad := &b.aad[k]
		binary.BigEndian.PutUint32(aad[0:], c.spi)
		binary.BigEndian.PutUint64(aad[4:], seq)
		p.AAD = aad[:]
	}
}

// end forgets the salt of the first n packets: the others have none.
func (b *Batch) end(n int) {
	for i := range b.packets[:n] {
		*(*[saltLen]byte)(b.packets[i].Nonce[:]) = [saltLen]byte{}
	}
}
