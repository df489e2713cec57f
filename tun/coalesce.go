package tun

import (
	"bytes"
	"encoding/binary"

	"espalier/internal/inet"
)

// Coalescer joins TCP or UDP packets that follow one another into one frame, the reverse of a
// Segmenter: cut again, the frame gives the same packets. It so saves the kernel's stack from
// being entered for each. One goroutine at a time may use it.
//
// What it joins is alike in all but sequence number, length, identification and checksum, and
// has a checksum that it has verified: a frame says that its checksum need not be looked at,
// and that must never be said of what nobody has looked at. TTL, TOS, flow label, options,
// acknowledgement and window are those of every packet; SYN, FIN, RST, URG and CWR are never
// in it; PSH ends it, and a packet that is shorter than the first. All else is written as it came,
// behind what came before.
type Coalescer struct {
	write func(h VirtioHeader, buf []byte, packets int)
	udp   bool // the kernel takes UDP in frames

	frame []byte // HeaderLen bytes, and the frame under way
	n     int    // length of its packet
	count int    // packets in it; 0: none is under way

	protocol uint8
	v6       bool
	at       int    // of the TCP or UDP header in the packet
	fixed    int    // length of both headers
	mss      int    // payload of the first packet
	next     uint32 // sequence number, of TCP
	lastID   uint16
	verified bool // the first packet's checksum, which is looked at when a second comes
	closed   bool // nothing may follow
}

// NewCoalescer makes a Coalescer that hands its frames to write, in the form of Queue.Write
// and with the number of packets in them. buf is write's only until it returns. UDP is joined only
// for a device that can do it: see [Device.UDPFrames].
func NewCoalescer(udp bool, write func(h VirtioHeader, buf []byte, packets int)) *Coalescer {
	return &Coalescer{write: write, udp: udp, frame: make([]byte, HeaderLen, BufferLen)}
}

// Add takes the packet buf[HeaderLen:], which h describes, and keeps nothing of buf.
func (c *Coalescer) Add(buf []byte, h *inet.Header) {
	pkt := buf[HeaderLen:]
	fixed, ok := c.coalescible(pkt, h)
	if ok && c.continues(pkt, h, fixed) {
		c.append(pkt)
	} else {
		c.Flush()
		if !ok {
			c.write(VirtioHeader{}, buf, 1)
			return
		}
		c.start(pkt, h, fixed)
	}
	if c.closed {
		c.Flush()
	}
}

const (
	tcpAckAt    = 8
	tcpWindowAt = 14
	tcpACK      = 0x10
	tcpECE      = 0x40
)

// coalescible reports whether pkt may be part of a frame at all, and the length of its
// headers.
func (c *Coalescer) coalescible(pkt []byte, h *inet.Header) (fixed int, ok bool) {
	plain := h.Version == 4 && h.Len == inet.IPv4Len || h.Version == 6 && h.Len == inet.IPv6Len
	if !plain || h.IsFragment() || h.Total != len(pkt) {
		return 0, false
	}
	upper := pkt[h.Len:]
	length, ok := upperHeaderLen(h.Protocol, upper)
	if !ok || length >= len(upper) { // no payload, no frame
		return 0, false
	}
	if h.Protocol == inet.ProtoTCP {
		// The low half of the offset byte holds flags, too (RFC 9768, and reserved ones).
		ok = upper[tcpOffsetAt]&0xf == 0 && upper[tcpFlagsAt]&^(tcpPSH|tcpECE) == tcpACK
	} else {
		// Without a checksum (RFC 768) there is nothing to verify.
		ok = c.udp && int(binary.BigEndian.Uint16(upper[udpLengthAt:])) == len(upper) && binary.BigEndian.Uint16(upper[udpChecksumAt:]) != 0
	}
	return h.Len + length, ok
}

// continues reports whether pkt is what follows in the frame, alike in all that one header
// must say for both, and sound.
func (c *Coalescer) continues(pkt []byte, h *inet.Header, fixed int) bool {
	size := len(pkt) - fixed
	if c.count == 0 || c.closed || h.Protocol != c.protocol || fixed != c.fixed || (h.Version == 6) != c.v6 || size > c.mss || c.n+size > maxFrame {
		return false
	}
	first := c.frame[HeaderLen:]
	upper, firstUpper := pkt[c.at:fixed], first[c.at:fixed]
	if h.Protocol == inet.ProtoTCP && !c.continuesTCP(upper, firstUpper) || c.count == maxDatagrams && h.Protocol == inet.ProtoUDP {
		return false
	}
	return bytes.Equal(upper[:portsLen], firstUpper[:portsLen]) && c.sameIP(pkt, first) && c.sound(pkt, h)
}

const (
	// maxFrame is the longest packet an IP header can describe.
	maxFrame = 0xffff

	// maxDatagrams is how many datagrams the kernel allows in a frame at least (UDP_MAX_SEGMENTS,
	// linux/udp.h).
	maxDatagrams = 64

	// portsLen is the length in bytes of both ports.
	portsLen = 4
)

// continuesTCP compares TCP headers, but for the ports.
func (c *Coalescer) continuesTCP(tcp, first []byte) bool {
	return binary.BigEndian.Uint32(tcp[tcpSeqAt:]) == c.next &&
		bytes.Equal(tcp[tcpAckAt:tcpFlagsAt], first[tcpAckAt:tcpFlagsAt]) &&
		tcp[tcpFlagsAt]&^tcpPSH == first[tcpFlagsAt]&^tcpPSH &&
		bytes.Equal(tcp[tcpWindowAt:tcpChecksumAt], first[tcpWindowAt:tcpChecksumAt]) &&
		bytes.Equal(tcp[tcpChecksumAt+2:], first[tcpChecksumAt+2:])
}

// sameIP compares the IP headers. The identification of IPv4 must go on by one, as it does
// when the kernel cuts the frame; where DF says that it means nothing (RFC 6864), it may also
// stay.
func (c *Coalescer) sameIP(pkt, first []byte) bool {
	if c.v6 {
		return bytes.Equal(pkt[:4], first[:4]) && bytes.Equal(pkt[6:inet.IPv6Len], first[6:inet.IPv6Len])
	}
	const df = 0x40
	id := binary.BigEndian.Uint16(pkt[4:])
	return bytes.Equal(pkt[:2], first[:2]) && bytes.Equal(pkt[6:10], first[6:10]) && bytes.Equal(pkt[12:inet.IPv4Len], first[12:inet.IPv4Len]) &&
		(id == c.lastID+1 || id == c.lastID && pkt[6]&df != 0)
}

// sound verifies the checksums of pkt, and of the first packet if that was put off until now.
func (c *Coalescer) sound(pkt []byte, h *inet.Header) bool {
	if !c.verified {
		if !checksumsVerify(c.frame[HeaderLen:], h) { // of the same flow: the same addresses
			c.closed = true // leaves as it came, for the kernel to judge
			return false
		}
		c.verified = true
	}
	return checksumsVerify(pkt, h)
}

func checksumsVerify(pkt []byte, h *inet.Header) bool {
	if h.Version == 4 && inet.Fold(inet.Sum(pkt[:h.Len], 0)) != 0 {
		return false
	}
	upper := pkt[h.Len:]
	return inet.Fold(inet.Sum(upper, inet.PseudoSum(h.Src, h.Dst, h.Protocol, len(upper)))) == 0
}

// start begins a frame with pkt.
func (c *Coalescer) start(pkt []byte, h *inet.Header, fixed int) {
	c.frame = append(c.frame[:HeaderLen], pkt...)
	c.n, c.count = len(pkt), 1
	c.protocol, c.v6 = h.Protocol, h.Version == 6
	c.at, c.fixed, c.mss = h.Len, fixed, len(pkt)-fixed
	c.lastID = binary.BigEndian.Uint16(pkt[4:])
	c.verified, c.closed = false, false
	if h.Protocol == inet.ProtoTCP {
		c.next = binary.BigEndian.Uint32(pkt[h.Len+tcpSeqAt:]) + uint32(c.mss)
		c.closed = pkt[h.Len+tcpFlagsAt]&tcpPSH != 0
	}
}

// append adds the payload of pkt. One that is shorter than the first, or pushed, is the last.
func (c *Coalescer) append(pkt []byte) {
	payload := pkt[c.fixed:]
	c.frame = append(c.frame, payload...)
	c.n += len(payload)
	c.count++
	c.lastID = binary.BigEndian.Uint16(pkt[4:])
	c.closed = len(payload) < c.mss
	if c.protocol == inet.ProtoTCP {
		c.next += uint32(len(payload))
		push := pkt[c.at+tcpFlagsAt] & tcpPSH
		c.frame[HeaderLen+c.at+tcpFlagsAt] |= push
		c.closed = c.closed || push != 0
	}
}

// Flush writes the frame under way, if there is one.
func (c *Coalescer) Flush() {
	if c.count == 0 {
		return
	}
	count := c.count
	c.count = 0
	if count == 1 {
		c.write(VirtioHeader{}, c.frame, 1)
		return
	}
	c.write(c.finish(), c.frame, count)
}

// finish makes the headers those of the whole, with the sum of the pseudo-header in the
// checksum's place for the kernel to go on from.
func (c *Coalescer) finish() VirtioHeader {
	pkt := c.frame[HeaderLen:]
	inet.SetLength(pkt)
	upper := c.n - c.at
	sum := uint64(c.protocol) + uint64(upper)
	if c.v6 {
		sum = inet.Sum(pkt[8:inet.IPv6Len], sum)
	} else {
		sum = inet.Sum(pkt[12:inet.IPv4Len], sum)
	}
	at := checksumAt(c.protocol)
	binary.BigEndian.PutUint16(pkt[c.at+at:], ^inet.Fold(sum))
	h := VirtioHeader{
		Flags:        NeedsChecksum,
		HeaderLength: uint16(c.fixed), GSOSize: uint16(c.mss),
		ChecksumStart: uint16(c.at), ChecksumOffset: uint16(at),
	}
	switch {
	case c.protocol == inet.ProtoUDP:
		h.GSOType = GSOUDP
		binary.BigEndian.PutUint16(pkt[c.at+udpLengthAt:], uint16(upper))
	case c.v6:
		h.GSOType = GSOTCPv6
	default:
		h.GSOType = GSOTCPv4
	}
	return h
}
