package underlay

import (
	"encoding/binary"
	"net/netip"

	"espalier/internal/inet"
)

// Room for a rebuilt header.
const (
	header4Len = 60
	header6Len = inet.IPv6Len + maxExtensions*2048
)

// header appends to dst the IP header that the control messages describe, and says where
// in it (counted from the header's start) the upper protocol is named. What they do not
// tell is zero: length, and for IPv4 identification, flags and checksum.
func (a *ancillary) header(dst []byte, remote netip.Addr, proto uint8) (header []byte, protocolAt int) {
	if a.local.Is4() {
		return a.header4(dst, remote, proto)
	}
	return a.header6(dst, remote, proto)
}

func (a *ancillary) header4(dst []byte, remote netip.Addr, proto uint8) ([]byte, int) {
	var h [inet.IPv4Len]byte
	h[0] = 0x40 | uint8(inet.IPv4Len+len(a.options))/4
	h[1], h[8], h[9] = a.tos, a.ttl, proto
	src, local := remote.As4(), a.local.As4()
	copy(h[12:], src[:])
	copy(h[16:], local[:])
	return append(append(dst, h[:]...), a.options...), 9
}

func (a *ancillary) header6(dst []byte, remote netip.Addr, proto uint8) ([]byte, int) {
	var h [inet.IPv6Len]byte
	binary.BigEndian.PutUint32(h[:], 6<<28|uint32(a.tos)<<20|a.flowLabel)
	h[7] = a.ttl
	src, local := remote.As16(), a.local.As16()
	copy(h[8:], src[:])
	copy(h[24:], local[:])

	start := len(dst)
	dst = append(dst, h[:]...)
	next := 6
	// The chain is tied anew: an authentication or fragment header that the kernel took
	// off is still named by the header before it.
	for _, e := range a.ext[:a.extCount] {
		dst[start+next] = e.proto
		next = len(dst) - start
		dst = append(dst, e.bytes...)
	}
	dst[start+next] = proto
	return dst, next
}
