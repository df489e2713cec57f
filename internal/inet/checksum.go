package inet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Sum adds b to a running ones'-complement sum of 16-bit words (RFC 1071). Pieces but the
// last must have even length. The sum is kept in 64 bits; [Fold] ends it.
//
// The bytes are summed in the machine's order, which is faster, and only the result is turned
// (RFC 1071 §2 B).
func Sum(b []byte, initial uint64) uint64 {
	sum := uint64(0)
	if len(b) >= 128 {
		sum, b = sumMost(b)
	}
	carry := uint64(0)
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(last[:]), carry)
	}
	sum, carry = bits.Add64(sum, 0, carry)
	sum, carry = bits.Add64(initial, bits.ReverseBytes64(sum+carry), 0)
	return sum + carry
}

// sumWords sums the front of b as little-endian words, as many as go into 64 bytes, and returns the
// rest.
func sumWords(b []byte) (sum uint64, rest []byte) {
	carry := uint64(0)
	for len(b) >= 64 {
		w := (*[64]byte)(b)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[8:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[16:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[24:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[32:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[40:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[48:]), carry)
		sum, carry = bits.Add64(sum, binary.LittleEndian.Uint64(w[56:]), carry)
		b = b[64:]
	}
	sum, carry = bits.Add64(sum, 0, carry)
	return sum + carry, b
}

// Fold ends a running sum: the checksum as it is stored in a header, in host order.
func Fold(sum uint64) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// PseudoSum is the sum of the pseudo-header of TCP, UDP and ICMPv6 (RFC 793, RFC 8200
// §8.1) for an upper layer of the given length.
func PseudoSum(src, dst netip.Addr, proto uint8, length int) uint64 {
	sum := uint64(proto) + uint64(length)
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		return Sum(d[:], Sum(s[:], sum))
	}
	s, d := src.As16(), dst.As16()
	return Sum(d[:], Sum(s[:], sum))
}

// SetIPv4Checksum recomputes the checksum of an IPv4 header, options included. hdr may
// go on behind the header.
func SetIPv4Checksum(hdr []byte) {
	n := int(hdr[0]&0xf) * 4
	hdr[10], hdr[11] = 0, 0
	binary.BigEndian.PutUint16(hdr[10:], Fold(Sum(hdr[:n], 0)))
}
