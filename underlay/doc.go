// Package underlay holds the sockets that carry ESP between hosts: as IP protocol 50 (RFC
// 4303, section 2) and inside of UDP (RFC 3948). It knows IP headers and nothing of what
// ESP holds.
//
// What flows in: [ListenRaw] and [ListenUDP] open receivers. A [Datagram] is the outer IP
// header and the ESP packet behind it, reassembled by the kernel where the outer packet
// was fragmented. Both point into buffers of the receiver and are good until its next
// Receive; the payload may be decrypted in place. A [Tap] receives the same from one device, before
// the kernel's IP layer and with less work for it. [ListenICMP] opens a receiver of what routers say
// about packets that were too big for them.
// What flows out: a [Sender] takes whole IP packets and sends them as they are (protocol
// 50, and traffic that bypasses IPsec), a [LinkSender] those to neighbours with less work;
// [UDP.Send] takes payloads and lets the kernel write the headers. Both only read the caller's buffers, and are done with them on return.
//
// Every socket carries the mark of [Config], by which rules keep the underlay out of the
// tunnel it carries. Sockets belong to the network namespace of the thread that opens
// them. Nothing is allocated per packet.
package underlay
