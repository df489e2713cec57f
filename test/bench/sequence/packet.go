package sequence

import (
	"encoding/binary"

	"espalier/internal/inet"
)

const (
	udpLen   = 8
	espLen   = 8 // of the ESP header, which is all that is read
	espPort  = 4500
	fragment = 0x3fff // more fragments, or an offset
)

// espHeaders finds the ESP headers of what crosses the cable as one IPv4 packet, which may be cut short
// behind them: one, or one in each segment of a UDP super packet, the payload of which is cut into
// segments of gsoSize bytes (0: it is none). It reports whether it could read all of them; what is not
// ESP has none.
func espHeaders(packet []byte, gsoSize int, see func(spi, number uint32)) bool {
	if len(packet) < inet.IPv4Len || packet[0]>>4 != 4 {
		return true
	}
	header := int(packet[0]&15) * 4
	total := int(binary.BigEndian.Uint16(packet[2:]))
	if header < inet.IPv4Len || total < header || len(packet) < header {
		return false
	}
	protocol := packet[9]
	if protocol != inet.ProtoESP && protocol != inet.ProtoUDP {
		return true
	}
	if binary.BigEndian.Uint16(packet[6:])&fragment != 0 {
		return false
	}
	rest, length := packet[header:], total-header
	if protocol == inet.ProtoESP {
		return espHeader(rest, see)
	}
	if len(rest) < udpLen || length < udpLen {
		return false
	}
	if binary.BigEndian.Uint16(rest[2:]) != espPort {
		return true
	}
	rest, length = rest[udpLen:], length-udpLen
	if gsoSize <= 0 {
		gsoSize = max(length, 1)
	}
	for at := 0; at < length; at += gsoSize {
		if at > len(rest) || !espHeader(rest[at:], see) {
			return false
		}
	}
	return true
}

func espHeader(b []byte, see func(spi, number uint32)) bool {
	if len(b) < espLen {
		return false
	}
	see(binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]))
	return true
}
