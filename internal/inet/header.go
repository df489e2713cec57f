package inet

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// IP protocol numbers (IANA).
const (
	ProtoHopByHop = 0
	ProtoICMP     = 1
	ProtoIPIP     = 4
	ProtoTCP      = 6
	ProtoUDP      = 17
	ProtoDCCP     = 33
	ProtoIPv6     = 41
	ProtoRouting  = 43
	ProtoFragment = 44
	ProtoESP      = 50
	ProtoAH       = 51
	ProtoICMPv6   = 58
	ProtoNone     = 59
	ProtoDestOpts = 60
	ProtoSCTP     = 132
	ProtoUDPLite  = 136
)

// Lengths of the fixed headers in bytes.
const (
	IPv4Len     = 20
	IPv6Len     = 40
	FragmentLen = 8 // IPv6 fragment header
)

var (
	ErrVersion   = errors.New("neither IPv4 nor IPv6")
	ErrTruncated = errors.New("packet is shorter than its headers say")
	ErrHeader    = errors.New("malformed IP header")
	ErrJumbogram = errors.New("IPv6 jumbogram (RFC 2675)")
)

// Header describes the IP header of one packet. Offsets count from the packet's start.
type Header struct {
	Version   uint8
	Src, Dst  netip.Addr
	TOS, TTL  uint8 // traffic class, hop limit
	FlowLabel uint32

	Len        int   // IP header with options or extension headers: offset of the upper layer
	Total      int   // whole packet as the header says, at most the bytes given
	Protocol   uint8 // upper-layer protocol
	ProtocolAt int   // offset of the byte that names Protocol

	// IPv6: the part every fragment repeats (RFC 8200 §4.5) and the offset of the byte
	// that names what follows it. IPv4: Len and ProtocolAt.
	PerFragment, PerFragmentNextAt int

	ID            uint32
	FragOffset    int // bytes
	MoreFragments bool
	DontFragment  bool // always true for IPv6: routers do not fragment
	FragAt        int  // IPv6: offset of the fragment header, 0 if there is none

	// Ports of TCP, UDP, DCCP, SCTP and UDP-Lite; type and code of ICMP. HasPorts is
	// false for other protocols and where a fragment does not hold them.
	SrcPort, DstPort uint16
	HasPorts         bool
}

// IsFragment reports whether the packet is a part of a larger one.
func (h *Header) IsFragment() bool { return h.MoreFragments || h.FragOffset != 0 }

// Parse reads the headers of pkt up to the upper layer.
func Parse(pkt []byte) (h Header, err error) {
	if err := h.Parse(pkt); err != nil {
		return Header{}, err
	}
	return h, nil
}

// Parse sets h from the headers of pkt, whatever it was before; after an error h means nothing. It
// saves copying a Header, which is large.
func (h *Header) Parse(pkt []byte) error {
	h.FlowLabel, h.FragAt, h.SrcPort, h.DstPort, h.HasPorts = 0, 0, 0, 0, false
	if len(pkt) == 0 {
		return ErrTruncated
	}
	var err error
	switch pkt[0] >> 4 {
	case 4:
		err = h.parse4(pkt)
	case 6:
		err = h.parse6(pkt)
	default:
		return ErrVersion
	}
	if err == nil {
		h.readPorts(pkt)
	}
	return err
}

func (h *Header) parse4(pkt []byte) error {
	if len(pkt) < IPv4Len {
		return ErrTruncated
	}
	h.Version = 4
	h.Len = int(pkt[0]&0xf) * 4
	h.Total = int(binary.BigEndian.Uint16(pkt[2:]))
	if h.Len < IPv4Len || h.Total < h.Len {
		return ErrHeader
	}
	if len(pkt) < h.Total {
		return ErrTruncated
	}
	h.TOS, h.TTL = pkt[1], pkt[8]
	h.ID = uint32(binary.BigEndian.Uint16(pkt[4:]))
	frag := binary.BigEndian.Uint16(pkt[6:])
	h.DontFragment = frag&0x4000 != 0
	h.MoreFragments = frag&0x2000 != 0
	h.FragOffset = int(frag&0x1fff) * 8
	h.Protocol, h.ProtocolAt = pkt[9], 9
	h.PerFragment, h.PerFragmentNextAt = h.Len, h.ProtocolAt
	h.Src = netip.AddrFrom4([4]byte(pkt[12:16]))
	h.Dst = netip.AddrFrom4([4]byte(pkt[16:20]))
	return nil
}

func (h *Header) parse6(pkt []byte) error {
	if len(pkt) < IPv6Len {
		return ErrTruncated
	}
	h.Version = 6
	h.ID, h.FragOffset, h.MoreFragments = 0, 0, false
	first := binary.BigEndian.Uint32(pkt)
	h.TOS, h.TTL, h.FlowLabel = uint8(first>>20), pkt[7], first&0xfffff
	h.DontFragment = true
	h.Src = netip.AddrFrom16([16]byte(pkt[8:24]))
	h.Dst = netip.AddrFrom16([16]byte(pkt[24:40]))
	payload := int(binary.BigEndian.Uint16(pkt[4:]))
	if payload == 0 && pkt[6] == ProtoHopByHop {
		return ErrJumbogram
	}
	h.Total = IPv6Len + payload
	if len(pkt) < h.Total {
		return ErrTruncated
	}
	return h.walk6(pkt[:h.Total])
}

// walk6 follows the extension headers. It ends at the upper layer, or behind the fragment
// header of a fragment that is not the first: what follows there is not a header.
func (h *Header) walk6(pkt []byte) error {
	at, next := IPv6Len, 6
	h.PerFragment, h.PerFragmentNextAt = at, next
	for {
		var n int
		switch pkt[next] {
		case ProtoHopByHop, ProtoRouting, ProtoDestOpts:
			if len(pkt) < at+8 {
				return ErrTruncated
			}
			n = 8 + 8*int(pkt[at+1])
		case ProtoFragment:
			if len(pkt) < at+FragmentLen {
				return ErrTruncated
			}
			if h.FragAt != 0 {
				return ErrHeader
			}
			n = FragmentLen
			h.FragAt = at
			frag := binary.BigEndian.Uint16(pkt[at+2:])
			h.FragOffset, h.MoreFragments = int(frag&^7), frag&1 != 0
			h.ID = binary.BigEndian.Uint32(pkt[at+4:])
		default:
			h.Len, h.Protocol, h.ProtocolAt = at, pkt[next], next
			return nil
		}
		if len(pkt) < at+n {
			return ErrTruncated
		}
		kind := pkt[next]
		next, at = at, at+n
		if kind == ProtoRouting || kind == ProtoHopByHop {
			h.PerFragment, h.PerFragmentNextAt = at, next
		}
		if h.FragOffset != 0 {
			h.Len, h.Protocol, h.ProtocolAt = at, pkt[next], next
			return nil
		}
	}
}

func (h *Header) readPorts(pkt []byte) {
	if h.FragOffset != 0 {
		return
	}
	upper := pkt[h.Len:h.Total]
	switch h.Protocol {
	case ProtoTCP, ProtoUDP, ProtoDCCP, ProtoSCTP, ProtoUDPLite:
		if len(upper) >= 4 {
			h.SrcPort, h.DstPort = binary.BigEndian.Uint16(upper), binary.BigEndian.Uint16(upper[2:])
			h.HasPorts = true
		}
	case ProtoICMP, ProtoICMPv6:
		if len(upper) >= 2 {
			h.SrcPort, h.DstPort = uint16(upper[0]), uint16(upper[1])
			h.HasPorts = true
		}
	}
}

// UsesPorts reports whether packets of protocol proto begin with ports or an ICMP type
// and code, which a selector may look at.
func UsesPorts(proto uint8) bool {
	switch proto {
	case ProtoTCP, ProtoUDP, ProtoDCCP, ProtoSCTP, ProtoUDPLite, ProtoICMP, ProtoICMPv6:
		return true
	}
	return false
}
