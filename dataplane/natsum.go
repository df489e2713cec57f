package dataplane

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"espalier/internal/inet"
)

// natSums is what is known of the checksums in the packets of an SA. In transport mode through a NAT
// they cover addresses that are not those in the header any more (RFC 3948 §3.1.2): TCP, UDP and
// ICMPv6 would be thrown away, or, forwarded, by whoever looks at them.
//
// With the sender's original address known a checksum is repaired by the difference, without looking
// at the data. Without it, or if there is a second NAT, one that does not verify is corrected: ESP
// has authenticated the packet, which says more than a checksum. Linux leaves the packet as it is and
// says that nobody need look at its checksum; that does for a local receiver and not for one that
// it is forwarded to.
//
// That a NAT has changed the addresses nothing but the checksums tell, and it does so for all
// packets or none. So as long as they verify, only the first one of every second is looked at.
type natSums struct {
	translated atomic.Bool  // one did not verify: all are looked at
	checked    atomic.Int64 // when one did, in Unix seconds
}

// repairSum makes the checksum of a packet right that came in transport mode with UDP encapsulation.
// One that verifies stays as it is, and so does what has none: UDP may go without.
func (in *inbound) repairSum(a *association, pkt []byte, h *inet.Header) {
	field, covered := addressSum(pkt, h)
	e := a.encap.Load()
	if field == nil || e == nil {
		return
	}
	if was := e.ports.Original; was.IsValid() && was != h.Src {
		addSum(field, difference(was, h.Src), h.Protocol)
	}
	s, now := &a.sums, in.d.keeper.now.Load()
	if !s.translated.Load() && s.checked.Load() == now {
		return
	}
	missing := inet.Fold(inet.Sum(covered, inet.PseudoSum(h.Src, h.Dst, h.Protocol, len(covered))))
	if missing == 0 {
		s.checked.Store(now)
		return
	}
	s.translated.Store(true)
	addSum(field, uint64(missing), h.Protocol)
}

// addressSum finds the checksum that covers a packet's addresses, and what else it covers; nil if
// there is none. Behind IP options and extension headers it is left alone: with a source route it
// covers other addresses than those of the header.
func addressSum(pkt []byte, h *inet.Header) (field, covered []byte) {
	plain := h.Version == 4 && h.Len == inet.IPv4Len || h.Version == 6 && h.Len == inet.IPv6Len
	if !plain || h.IsFragment() {
		return nil, nil
	}
	covered = pkt[h.Len:h.Total]
	at := 0
	switch {
	case h.Protocol == inet.ProtoTCP && len(covered) >= tcpLen:
		at = 16
	case h.Protocol == inet.ProtoUDP && len(covered) >= udpLen:
		at = 6                          // package esp has seen that its length is that of the packet
		if covered[6]|covered[7] == 0 { // none: see RFC 768, RFC 6935
			return nil, nil
		}
	case h.Protocol == inet.ProtoICMPv6 && h.Version == 6 && len(covered) >= 4:
		at = 2
	default:
		return nil, nil
	}
	return covered[at:][:2], covered
}

// Lengths of headers without options.
const (
	tcpLen = 20
	udpLen = 8
)

// difference is what a checksum lacks that covers one address where another stands (RFC 1624).
func difference(was, is netip.Addr) (sum uint64) {
	old, now := was.As16(), is.As16()
	for i := 0; i < len(old); i += 2 {
		// The checksum is the complement of the sum: what the address has gained it has to lose.
		sum += uint64(binary.BigEndian.Uint16(old[i:])) + uint64(^binary.BigEndian.Uint16(now[i:]))
	}
	return sum
}

// addSum adds to a checksum, with the carries of ones' complement. For UDP 0 says that there is none.
func addSum(field []byte, sum uint64, proto uint8) {
	whole := ^inet.Fold(sum + uint64(binary.BigEndian.Uint16(field)))
	if whole == 0 && proto == inet.ProtoUDP {
		whole = 0xffff
	}
	binary.BigEndian.PutUint16(field, whole)
}
