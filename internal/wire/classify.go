package wire

import (
	"encoding/binary"
	"net/netip"

	"espalier/internal/inet"
	"espalier/ipsec"
)

// Kind is what a packet on the wire is, in the eyes of an auditor.
type Kind uint8

const (
	Other     Kind = iota // no IP, or no protected selector speaks of it
	ESP                   // IP protocol 50, or an SA's UDP encapsulation
	Discovery             // ICMPv6 neighbour discovery (types 133–137, hop limit 255)
	Cleartext             // matches a protected selector and is none of the above
	kinds
)

func (k Kind) String() string {
	return [...]string{"other", "ESP", "neighbour discovery", "cleartext"}[k]
}

// Ends are both ends of an SA's UDP encapsulation.
type Ends struct{ Src, Dst netip.AddrPort }

// Classifier judges packets. It remembers the first fragments of UDP encapsulation, and so
// serves one stream of packets at a time.
type Classifier struct {
	Protected []ipsec.Selector
	Encaps    []Ends

	fragments [256]fragmentKey // those of encapsulated packets, the oldest overwritten
	next      int
}

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
}

// Classify judges one IP packet, which may be cut short behind its headers.
func (c *Classifier) Classify(pkt []byte) Kind {
	h, err := inet.Parse(pad(pkt))
	if err != nil {
		return Other
	}
	if h.Protocol == inet.ProtoESP || c.encapsulated(pkt, &h) {
		return ESP
	}
	flow := ipsec.Flow{Src: h.Src, Dst: h.Dst, Protocol: h.Protocol, SrcPort: h.SrcPort, DstPort: h.DstPort, NoPorts: !h.HasPorts && h.IsFragment()}
	if h.Protocol == inet.ProtoICMPv6 && h.HasPorts && h.SrcPort >= 133 && h.SrcPort <= 137 && h.TTL == 255 {
		return Discovery
	}
	for i := range c.Protected {
		if c.Protected[i].Match(&flow) {
			return Cleartext
		}
	}
	return Other
}

// encapsulated recognises an SA's UDP encapsulation: by ports and by the SPI, which is not 0
// (that would be IKE), in a first fragment, and in later ones by their identification.
func (c *Classifier) encapsulated(pkt []byte, h *inet.Header) bool {
	if h.Protocol != inet.ProtoUDP {
		return false
	}
	key := fragmentKey{h.Src, h.Dst, h.ID}
	if h.FragOffset != 0 {
		for _, k := range c.fragments {
			if k == key {
				return true
			}
		}
		return false
	}
	src, dst := netip.AddrPortFrom(h.Src, h.SrcPort), netip.AddrPortFrom(h.Dst, h.DstPort)
	for _, e := range c.Encaps {
		if e.Src != src || e.Dst != dst || !isESPInUDP(pkt[h.Len:]) {
			continue
		}
		if h.MoreFragments {
			c.fragments[c.next] = key
			c.next = (c.next + 1) % len(c.fragments)
		}
		return true
	}
	return false
}

func isESPInUDP(udp []byte) bool {
	const header = 8
	if len(udp) == header+1 {
		return udp[header] == 0xff // NAT keepalive
	}
	return len(udp) >= header+8 && binary.BigEndian.Uint32(udp[header:]) != 0
}

// pad restores the length that a capture with a limit cut off, for the parser's sake.
func pad(pkt []byte) []byte {
	var total int
	switch {
	case len(pkt) >= inet.IPv4Len && pkt[0]>>4 == 4:
		total = int(binary.BigEndian.Uint16(pkt[2:]))
	case len(pkt) >= inet.IPv6Len && pkt[0]>>4 == 6:
		total = inet.IPv6Len + int(binary.BigEndian.Uint16(pkt[4:]))
	}
	if total <= len(pkt) {
		return pkt
	}
	return append(pkt[:len(pkt):len(pkt)], make([]byte, total-len(pkt))...)
}
