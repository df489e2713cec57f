package tun

import (
	"encoding/binary"
	"errors"

	"espalier/internal/inet"
)

// Reasons for which a frame cannot be laid out as packets. Errors of a malformed IP
// header come from package inet.
var (
	ErrJumbogram     = errors.New("jumbogram (RFC 2675): lower the device's gso_max_size to 65536")
	ErrChecksumRange = errors.New("partial checksum outside of the upper layer")
	ErrGSOType       = errors.New("segmentation type unknown, or not of this packet's protocol")
	ErrGSOSize       = errors.New("segment size 0")
	ErrGSOFragment   = errors.New("segments inside of an IP fragment")
	ErrGSOChecksum   = errors.New("segments with a checksum that is neither partial nor verified")
	ErrUpperHeader   = errors.New("TCP or UDP header truncated")
)

const (
	ipv6HeaderLen = 40

	tcpHeaderLen  = 20
	tcpSeqAt      = 4
	tcpOffsetAt   = 12
	tcpFlagsAt    = 13
	tcpChecksumAt = 16

	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80

	udpHeaderLen  = 8
	udpLengthAt   = 4
	udpChecksumAt = 6
)

// Segmenter lays a frame out as IP packets ready for the wire. It is a value over the
// frame's buffer, which it does not change and which must stay as it is while the
// packets are written.
type Segmenter struct {
	header inet.Header
	packet []byte // the frame's packet without anything behind its IP length
	split  bool   // TCP or UDP segments: every packet gets headers of its own
	fixed  int    // bytes repeated in every packet: IP and, when split, TCP or UDP header
	mss    int    // payload bytes of every packet but the last
	count  int

	// The checksum is summed over the upper layer from sumFrom on and stored at sumAt;
	// both count from the start of the upper layer, and sumAt is -1 if nothing is left
	// to do. When split, seed and seedLast are what the field holds while summing: the
	// pseudo-header's sum for the length of a full packet and of the last one.
	sumFrom, sumAt int
	seed, seedLast uint16
}

// Segmenter checks the frame and prepares its layout: see [Segmenter.Load].
func (f *Frame) Segmenter() (s Segmenter, err error) {
	err = s.Load(f)
	return s, err
}

// Load checks a frame and prepares its layout, whatever s was before. The error is one of this
// package's or package inet's; nothing is allocated.
func (s *Segmenter) Load(f *Frame) error {
	if jumbo(f.Packet) {
		return ErrJumbogram
	}
	if err := s.header.Parse(f.Packet); err != nil {
		return err
	}
	s.packet, s.split = f.Packet[:s.header.Total], false
	if f.Header.GSOType != GSONone {
		return s.prepareSplit(&f.Header)
	}
	return s.prepareWhole(&f.Header)
}

// jumbo reports whether the packet's length does not fit its length field, which is 0 then.
func jumbo(p []byte) bool {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		return binary.BigEndian.Uint16(p[2:]) == 0
	case len(p) > ipv6HeaderLen && p[0]>>4 == 6:
		return binary.BigEndian.Uint16(p[4:]) == 0
	}
	return false
}

// prepareWhole plans one packet, complete but perhaps for a checksum. The sum may start
// behind the upper layer's header: in an encapsulated packet.
func (s *Segmenter) prepareWhole(h *VirtioHeader) error {
	s.fixed, s.mss, s.count, s.sumAt = s.header.Len, len(s.packet)-s.header.Len, 1, -1
	if h.Flags&NeedsChecksum == 0 {
		return nil
	}
	s.sumFrom = int(h.ChecksumStart) - s.header.Len
	s.sumAt = s.sumFrom + int(h.ChecksumOffset)
	if s.sumFrom < 0 || s.sumAt+2 > len(s.packet)-s.header.Len {
		return ErrChecksumRange
	}
	return nil
}

// prepareSplit plans the segments of a TCP or UDP frame.
func (s *Segmenter) prepareSplit(h *VirtioHeader) error {
	p, at := s.packet, s.header.Len
	switch {
	case !fits(h.GSOType, s.header.Version, s.header.Protocol):
		return ErrGSOType
	case h.GSOSize == 0:
		return ErrGSOSize
	case s.header.FragOffset != 0 || s.header.MoreFragments:
		return ErrGSOFragment
	}
	upperLen, ok := upperHeaderLen(s.header.Protocol, p[at:])
	if !ok {
		return ErrUpperHeader
	}

	s.split, s.sumFrom = true, 0
	s.fixed = at + upperLen
	s.mss = int(h.GSOSize)
	s.sumAt = checksumAt(s.header.Protocol)
	payload := len(p) - s.fixed
	s.count = max(1, (payload+s.mss-1)/s.mss)
	last := payload - (s.count-1)*s.mss

	// A partial checksum already holds the pseudo-header's sum, with the final
	// destination of a routing header where there is one; only the length differs.
	var seed uint16
	switch {
	case h.Flags&NeedsChecksum != 0:
		if int(h.ChecksumStart) != at || int(h.ChecksumOffset) != s.sumAt {
			return ErrChecksumRange
		}
		seed = binary.BigEndian.Uint16(p[at+s.sumAt:])
	case h.Flags&DataValid != 0:
		seed = ^inet.Fold(inet.PseudoSum(s.header.Src, s.header.Dst, s.header.Protocol, len(p)-at))
	default:
		return ErrGSOChecksum
	}
	whole := uint16(len(p) - at)
	s.seed = replaceInSum(seed, whole, uint16(upperLen+s.mss))
	s.seedLast = replaceInSum(seed, whole, uint16(upperLen+last))
	return nil
}

// fits reports whether a segmentation type is one of packets of this IP version and protocol.
func fits(gsoType, version, protocol uint8) bool {
	switch gsoType {
	case GSOUDP:
		return protocol == inet.ProtoUDP
	case GSOTCPv4, GSOTCPv4 | GSOECN:
		return protocol == inet.ProtoTCP && version == 4
	case GSOTCPv6, GSOTCPv6 | GSOECN:
		return protocol == inet.ProtoTCP && version == 6
	}
	return false
}

// upperHeaderLen is the length in bytes of a TCP or UDP header, and whether it is all there.
func upperHeaderLen(protocol uint8, upper []byte) (n int, ok bool) {
	n = udpHeaderLen
	if protocol == inet.ProtoTCP {
		if len(upper) < tcpHeaderLen {
			return 0, false
		}
		n = int(upper[tcpOffsetAt]>>4) * 4
		ok = n >= tcpHeaderLen
	} else {
		ok = protocol == inet.ProtoUDP
	}
	return n, ok && n <= len(upper)
}

// checksumAt is where a TCP or UDP header has its checksum.
func checksumAt(protocol uint8) int {
	if protocol == inet.ProtoTCP {
		return tcpChecksumAt
	}
	return udpChecksumAt
}

// replaceInSum takes one 16-bit word out of a ones'-complement sum and puts another in
// (RFC 1624).
func replaceInSum(sum, from, to uint16) uint16 {
	x := uint32(sum) + uint32(^from) + uint32(to)
	x = x&0xffff + x>>16
	return uint16(x&0xffff + x>>16)
}

// Count is the number of packets, at least 1.
func (s *Segmenter) Count() int { return s.count }

// Header is the frame's IP header, parsed. Of its fields only Total (and, for IPv4, ID)
// differ in the packets of a frame that is split.
func (s *Segmenter) Header() *inet.Header { return &s.header }

// Size is the length in bytes of packet i, from 0 to Count()-1.
func (s *Segmenter) Size(i int) int {
	from, to := s.payload(i)
	return s.fixed + to - from
}

// payload says where in the frame the payload of packet i lies.
func (s *Segmenter) payload(i int) (from, to int) {
	from = s.fixed + i*s.mss
	return from, min(from+s.mss, len(s.packet))
}

// Write puts packet i into dst, which must hold Size(i) bytes and not overlap the frame,
// and returns Size(i).
func (s *Segmenter) Write(dst []byte, i int) int {
	if !s.split {
		n := copy(dst, s.packet)
		if s.sumAt >= 0 {
			s.complete(dst[s.header.Len:n])
		}
		return n
	}
	n := s.Size(i)
	s.WriteSplit(dst[:s.header.Len], dst[s.header.Len:n], i)
	return n
}

// WriteSplit is Write with the IP header, options and extension headers included, going
// to header, which must hold Header().Len bytes, and everything above it to upper, which
// must hold the other Size(i)-Header().Len.
func (s *Segmenter) WriteSplit(header, upper []byte, i int) {
	at := s.header.Len
	from, to := s.payload(i)
	header = header[:at]
	upper = upper[:s.fixed-at+to-from]
	copy(header, s.packet[:at])
	copy(upper[copy(upper, s.packet[at:s.fixed]):], s.packet[from:to])
	if s.split {
		s.setIP(header, at+len(upper), i)
		if s.header.Protocol == inet.ProtoTCP {
			s.setTCP(upper, i)
		} else {
			binary.BigEndian.PutUint16(upper[udpLengthAt:], uint16(len(upper)))
		}
		seed := s.seed
		if i == s.count-1 {
			seed = s.seedLast
		}
		binary.BigEndian.PutUint16(upper[s.sumAt:], seed)
	}
	if s.sumAt >= 0 {
		s.complete(upper)
	}
}

// setIP gives packet i its length and, for IPv4, its identification and checksum.
func (s *Segmenter) setIP(header []byte, size, i int) {
	if s.header.Version == 6 {
		binary.BigEndian.PutUint16(header[4:], uint16(size-ipv6HeaderLen))
		return
	}
	binary.BigEndian.PutUint16(header[2:], uint16(size))
	binary.BigEndian.PutUint16(header[4:], binary.BigEndian.Uint16(header[4:])+uint16(i))
	inet.SetIPv4Checksum(header)
}

// setTCP gives segment i its sequence number and flags: FIN and PSH close the last one;
// CWR answers one congestion mark, so it is sent once (RFC 3168, section 6.1.2).
func (s *Segmenter) setTCP(tcp []byte, i int) {
	seq := binary.BigEndian.Uint32(tcp[tcpSeqAt:])
	binary.BigEndian.PutUint32(tcp[tcpSeqAt:], seq+uint32(i*s.mss))
	if i > 0 {
		tcp[tcpFlagsAt] &^= tcpCWR
	}
	if i < s.count-1 {
		tcp[tcpFlagsAt] &^= tcpFIN | tcpPSH
	}
}

// complete turns the pseudo-header's sum in the checksum field into the checksum. A UDP
// checksum that comes out as 0 is sent as 0xffff, since 0 means that there is none (RFC
// 768). Its field, and no other protocol's but DCCP's, is at offset 6; there both values
// are the same number.
func (s *Segmenter) complete(upper []byte) {
	sum := inet.Fold(inet.Sum(upper[s.sumFrom:], 0))
	if sum == 0 && s.sumAt-s.sumFrom == 6 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(upper[s.sumAt:], sum)
}
