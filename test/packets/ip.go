package packets

import (
	"encoding/binary"
	"net/netip"
)

// Protocol numbers (IANA).
const (
	HopByHop = 0
	IPIP     = 4
	TCP      = 6
	UDPProto = 17
	IPv6     = 41
	Fragment = 44
	ESP      = 50
	NoNext   = 59
	DestOpts = 60
)

// IP is an IP header of either family.
type IP struct {
	Src, Dst netip.Addr
	Proto    byte
	TOS, TTL byte // TTL 0 is 64

	// IPv4
	ID      uint16
	DF, MF  bool
	Offset  int    // of a fragment, in bytes
	Options []byte // a multiple of 4 bytes

	// IPv6
	FlowLabel uint32
	Ext       []Ext
}

// Ext is an IPv6 extension header. Data is what follows next header and length: 6 bytes, or
// 8 more for each unit of length.
type Ext struct {
	Kind byte
	Data []byte
}

// Packet is the header with its payload behind it.
func (h IP) Packet(payload []byte) []byte {
	if h.TTL == 0 {
		h.TTL = 64
	}
	if h.Src.Is4() {
		return append(h.header4(len(payload)), payload...)
	}
	return append(h.header6(len(payload)), payload...)
}

func (h IP) header4(payload int) []byte {
	head := make([]byte, 20, 20+len(h.Options)+payload)
	src, dst := h.Src.As4(), h.Dst.As4()
	head[0], head[1] = byte(0x45+len(h.Options)/4), h.TOS
	binary.BigEndian.PutUint16(head[2:], uint16(20+len(h.Options)+payload))
	binary.BigEndian.PutUint16(head[4:], h.ID)
	frag := uint16(h.Offset / 8)
	if h.DF {
		frag |= 0x4000
	}
	if h.MF {
		frag |= 0x2000
	}
	binary.BigEndian.PutUint16(head[6:], frag)
	head[8], head[9] = h.TTL, h.Proto
	copy(head[12:], src[:])
	copy(head[16:], dst[:])
	head = append(head, h.Options...)
	binary.BigEndian.PutUint16(head[10:], ^sum(0, head))
	return head
}

func (h IP) header6(payload int) []byte {
	head := make([]byte, 40)
	src, dst := h.Src.As16(), h.Dst.As16()
	binary.BigEndian.PutUint32(head, 6<<28|uint32(h.TOS)<<20|h.FlowLabel)
	head[7] = h.TTL
	copy(head[8:], src[:])
	copy(head[24:], dst[:])
	at := 6
	for _, e := range h.Ext {
		head[at] = e.Kind
		at = len(head)
		head = append(head, 0, byte((len(e.Data)-6)/8))
		head = append(head, e.Data...)
	}
	head[at] = h.Proto
	binary.BigEndian.PutUint16(head[4:], uint16(len(head)-40+payload))
	return head
}

// UDP is a UDP datagram with its checksum.
func UDP(src, dst netip.AddrPort, data []byte) []byte {
	d := make([]byte, 8, 8+len(data))
	binary.BigEndian.PutUint16(d[0:], src.Port())
	binary.BigEndian.PutUint16(d[2:], dst.Port())
	binary.BigEndian.PutUint16(d[4:], uint16(8+len(data)))
	d = append(d, data...)
	pseudo := append(src.Addr().AsSlice(), dst.Addr().AsSlice()...)
	pseudo = append(pseudo, 0, UDPProto, d[4], d[5])
	c := ^sum(uint32(sum(0, pseudo)), d)
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(d[6:], c)
	return d
}

// sum is the ones' complement sum of RFC 1071.
func sum(s uint32, b []byte) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		s += uint32(b[len(b)-1]) << 8
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
