// Package inet reads and mends IP packets: bounds-checked headers (RFC 791, RFC 8200),
// checksums (RFC 1071), fragmentation and bounded reassembly.
//
// Packets flow in as byte slices and stay the caller's; nothing is kept but what the
// [Reassembler] copies. Only the standard library is used, so that every layer of the
// packet path may import it.
package inet
