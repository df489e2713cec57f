package esp

import (
	"encoding/binary"

	"espalier/ipsec"
)

// IP protocol numbers that ESP itself looks at.
const (
	protoIPv4 = 4
	protoUDP  = 17
	protoIPv6 = 41
	protoNone = 59 // dummy packet (RFC 4303 §2.6)
)

const (
	ipv4HeaderLen = 20
	ipv6HeaderLen = 40
	udpHeaderLen  = 8
)

// strip takes the trailer and the traffic flow confidentiality (TFC) padding off an
// authentic packet, whose plaintext has at least trailerLen bytes.
func (p *Packet) strip(icvLen int, mode ipsec.Mode) {
	text := p.Data[HeaderLen+IVLen : len(p.Data)-icvLen]
	end := len(text) - trailerLen
	padLen, nextHeader := int(text[end]), text[end+1]
	p.NextHeader = nextHeader
	if nextHeader == protoNone {
		p.Err = ErrDummy
		return
	}
	if padLen > end {
		p.Err = ErrPadding
		return
	}
	payload := text[:end-padLen]
	for i, b := range text[end-padLen : end] {
		if b != byte(i+1) {
			p.Err = ErrPadding
			return
		}
	}
	n, err := innerLen(payload, nextHeader, mode)
	if err != nil {
		p.Err = err
		return
	}
	p.Payload = payload[:n:n]
}

// innerLen is the length of the inner packet by its own header; what follows it is TFC
// padding (RFC 4303 §2.7). Protocols whose header tells no length fill the payload.
func innerLen(payload []byte, nextHeader uint8, mode ipsec.Mode) (n int, err error) {
	header := 0
	switch {
	case nextHeader == protoIPv4:
		if n, header, err = ipv4Len(payload); err != nil {
			return 0, err
		}
	case nextHeader == protoIPv6:
		if n, header, err = ipv6Len(payload); err != nil {
			return 0, err
		}
	case mode == ipsec.Tunnel:
		return 0, ErrNextHeader
	case len(payload) == 0: // legal ESP; whether the protocol can be empty, its layer decides
		return 0, nil
	case nextHeader == protoUDP:
		if len(payload) < udpHeaderLen {
			return 0, ErrLength
		}
		n, header = int(binary.BigEndian.Uint16(payload[4:])), udpHeaderLen
	default:
		return len(payload), nil
	}
	if n < header || n > len(payload) {
		return 0, ErrLength
	}
	return n, nil
}

func ipv4Len(p []byte) (total, header int, err error) {
	if len(p) < ipv4HeaderLen {
		return 0, 0, ErrLength
	}
	if p[0]>>4 != 4 {
		return 0, 0, ErrNextHeader
	}
	if header = int(p[0]&0xf) * 4; header < ipv4HeaderLen {
		return 0, 0, ErrLength
	}
	return int(binary.BigEndian.Uint16(p[2:])), header, nil
}

func ipv6Len(p []byte) (total, header int, err error) {
	if len(p) < ipv6HeaderLen {
		return 0, 0, ErrLength
	}
	if p[0]>>4 != 6 {
		return 0, 0, ErrNextHeader
	}
	n := int(binary.BigEndian.Uint16(p[4:]))
	if n == 0 && p[6] == 0 {
		// A hop-by-hop header without room for one: a jumbogram (RFC 2675 §3), whose
		// length no ESP packet of an ordinary IP packet can hold.
		return 0, 0, ErrLength
	}
	return ipv6HeaderLen + n, ipv6HeaderLen, nil
}
