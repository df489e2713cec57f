// Package esp makes and opens ESP packets (RFC 4303) with AES-GCM (RFC 4106): the
// cryptographic half of one SA, [Outbound] or [Inbound]. It does no I/O and knows neither
// IP headers outside ESP nor UDP encapsulation nor the SPD.
//
// Outbound, the caller reserves sequence numbers, lays packets out in its own buffers and
// has them sealed in place:
//
//	first, err := out.Reserve(n)
//	copy(pkt[HeaderLen+IVLen:], payload); out.Lay(pkt, len(payload), first+i, nextHeader)
//	err = out.Seal(&batch, pkts, first)
//
// Inbound, it hands over received packets, which are decrypted in place:
//
//	in.Open(&batch, packets)   // then each packet has a Payload or an Err
//
// A packet from SPI to ICV:
//
//	0     4     8      16                                             len-ICV
//	| SPI | seq |  IV  | payload | padding 1,2,3… | pad len | next hdr | ICV |
//	|<-- AAD -->|      |<-------------- encrypted, 4·n bytes ------->|
//
// The nonce is salt‖IV (RFC 4106 §4), and the IV of a packet sent is its 64-bit sequence
// number, which never repeats under one key. A received IV is taken as it is. The
// additional data are SPI‖seq, with extended sequence numbers SPI‖seq-high‖seq-low
// (RFC 4106 §5).
//
// Packet buffers belong to the caller throughout; a [Packet.Payload] points into its Data.
// Scratch memory belongs to the caller too: one [Batch] per queue. So queues share nothing
// but the sequence counter (an atomic), the anti-replay window (a mutex held for the
// bookkeeping of a batch, never during decryption) and a read lock that keeps the key
// alive while a batch is under way.
package esp
