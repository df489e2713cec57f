package dataplane

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"espalier/internal/inet"
	"espalier/tun"
)

// fits reports whether a frame may be sent by an SA, cut if need be; its longest packet has so many
// bytes outside. Where it may not, its sender is told what would fit (RFC 4301 §8.2.1), once for all of
// its segments.
func (o *outbound) fits(a *association, j *job, size int) bool {
	mtu := maxPacket
	if !o.probing {
		mtu = o.d.closerLook(a, j.segments.Count())
	}
	if size <= mtu || !j.dontFragment && size <= maxPacket {
		return true
	}
	o.d.drops.countN(OutTooBig, j.segments.Count())
	if j.dontFragment {
		o.tellTooBig(a, j, mtu)
	}
	return false
}

// tellTooBig answers a frame with an ICMP message into the TUN. It comes from where the frame was to
// go: as from there packets come in by the TUN anyway, no filter of reverse paths or martians minds,
// which one from an address of this host or of nobody would meet; and it is as good for a host that
// we forward for.
func (o *outbound) tellTooBig(a *association, j *job, mtu int) {
	if o.answer == nil {
		return
	}
	h, size := j.segments.Header(), j.segments.Size(0)
	pkt := o.room(size)[:size]
	if j.segments.Write(pkt, 0); !o.d.mayAnswer(h, pkt) || !o.d.paths.answers.take(time.Now()) {
		return
	}
	buf := tooBig(pkt, h, longestInner(a, h, mtu))
	o.answer(tun.VirtioHeader{}, buf, 1)
}

// mayAnswer reports whether an ICMP error may answer a packet (RFC 1122 §3.2.2, RFC 4443 §2.4 e): none
// answers an error, what has no single sender or receiver, or a fragment but the first.
func (d *Device) mayAnswer(h *inet.Header, pkt []byte) bool {
	switch {
	case h.FragOffset != 0, isICMPError(h, pkt):
		return false
	case !h.Src.IsGlobalUnicast() && !h.Src.IsLinkLocalUnicast():
		return false
	}
	return !h.Dst.IsMulticast() && !d.locals.has(h.Dst) // addresses for broadcasts are among those
}

// isICMPError takes what is too short to tell for an error.
func isICMPError(h *inet.Header, pkt []byte) bool {
	switch {
	case h.Protocol == inet.ProtoICMP && h.Version == 4:
	case h.Protocol == inet.ProtoICMPv6 && h.Version == 6:
		return len(pkt) <= h.Len || pkt[h.Len] < 128
	default:
		return false
	}
	if len(pkt) <= h.Len {
		return true
	}
	switch pkt[h.Len] {
	case 3, 4, 5, 11, 12: // RFC 1122 §3.2.2: unreachable, quench, redirect, time exceeded, parameter problem
		return true
	}
	return false
}

// Lengths in bytes: the header of an ICMP error, and what one may have at most, IP header included (RFC
// 1812 §4.3.2.3; RFC 4443 §2.4 c).
const (
	icmpErrorLen = 8
	maxICMP4     = 576
	maxICMP6     = 1280
)

// tooBig is the message that packets of at most mtu bytes would pass, with the header inner and room for
// the virtio_net_hdr before it. It quotes as much of the packet as it may. IPv6 is never told of less
// than its minimum MTU: such packets are cut outside.
func tooBig(pkt []byte, inner *inet.Header, mtu int) []byte {
	at, most := inet.IPv4Len, maxICMP4
	if inner.Version == 6 {
		at, most = inet.IPv6Len, maxICMP6
	}
	quote := pkt[:min(len(pkt), most-at-icmpErrorLen)]
	buf := make([]byte, tun.HeaderLen+at+icmpErrorLen+len(quote))
	answer := newICMP(buf[tun.HeaderLen:], inner.Dst, inner.Src)
	msg := answer[at:]
	if inner.Version == 4 {
		msg[0], msg[1] = 3, 4 // unreachable, fragmentation needed
		binary.BigEndian.PutUint16(msg[6:], uint16(mtu))
	} else {
		msg[0] = 2 // packet too big
		binary.BigEndian.PutUint32(msg[4:], uint32(max(mtu, minTUNMTU)))
	}
	copy(msg[icmpErrorLen:], quote)
	sumICMP(answer, at, inner.Dst, inner.Src)
	return buf
}

// newICMP writes the IP header of an ICMP packet that is as long as pkt, which is all zero.
func newICMP(pkt []byte, src, dst netip.Addr) []byte {
	if dst.Is4() {
		pkt[0], pkt[6], pkt[8], pkt[9] = 0x45, dfBit, outerTTL, inet.ProtoICMP
		from, to := src.As4(), dst.As4()
		copy(pkt[12:], from[:])
		copy(pkt[16:], to[:])
	} else {
		pkt[0], pkt[6], pkt[7] = 0x60, inet.ProtoICMPv6, outerTTL
		from, to := src.As16(), dst.As16()
		copy(pkt[8:], from[:])
		copy(pkt[24:], to[:])
	}
	inet.SetLength(pkt)
	return pkt
}

// sumICMP completes the checksum of a message that begins at at.
func sumICMP(pkt []byte, at int, src, dst netip.Addr) {
	msg := pkt[at:]
	var sum uint64
	if dst.Is6() {
		sum = inet.PseudoSum(src, dst, inet.ProtoICMPv6, len(msg))
	}
	binary.BigEndian.PutUint16(msg[2:], inet.Fold(inet.Sum(msg, sum)))
}

// dontFragment tells whether the outer packets must not be cut: the inner ones, of so many bytes, must
// not either, and were not made to fit by the TUN's minimum MTU (RFC 2473 §7.1 has IPv6 packets of up
// to 1280 bytes carried in fragments).
func dontFragment(inner *inet.Header, size int) bool {
	if inner.Version == 6 {
		return size > minTUNMTU
	}
	return inner.DontFragment
}

// bucket is a token bucket. It is safe for concurrent use.
type bucket struct {
	burst int           // that may be taken at once
	every time.Duration // one more

	mu   sync.Mutex
	left int
	last time.Time // of the last one that was added
}

// take reports whether there is one left.
func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last.IsZero() {
		b.left, b.last = b.burst, now
	}
	if n := now.Sub(b.last) / b.every; n > 0 {
		b.left, b.last = int(min(time.Duration(b.left)+n, time.Duration(b.burst))), b.last.Add(n*b.every)
	}
	if b.left == 0 {
		return false
	}
	b.left--
	return true
}
