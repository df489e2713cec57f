package dataplane

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"

	"espalier/esp"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/underlay"
)

const (
	// outerTTL of tunnel mode (RFC 4301 §5.1.2.1: constructed, not copied).
	outerTTL = 64
	dfBit    = 0x40 // in byte 6 of an IPv4 header
)

// wrapper makes what stands before ESP in the packets of one frame. In transport mode that is
// the packet's own IP header with options or extension headers, TTL, TOS, DF, ID and flow
// label as they were; in tunnel mode a new one (RFC 4301 §5.1.2, RFC 6040).
type wrapper struct {
	mode       ipsec.Mode
	nextHeader uint8 // what ESP carries
	inner      *inet.Header
	encap      *encapsulation

	local, remote netip.AddrPort

	// headerLen is the room before ESP for the IP header: none with UDP encapsulation, where
	// the socket makes IP and UDP headers.
	headerLen int
	original  []byte // transport mode: IP header of the current segment
	ids       *fragmentIDs
}

// newWrapper plans the headers. header is scratch memory, used in transport mode, of at least
// inner.Len bytes.
func newWrapper(a *association, inner *inet.Header, header []byte, ids *fragmentIDs) wrapper {
	w := wrapper{mode: a.sa.Mode, inner: inner, encap: a.encap.Load(), ids: ids}
	w.local, w.remote = netip.AddrPortFrom(a.sa.Src, 0), netip.AddrPortFrom(a.sa.Dst, 0)
	if w.encap != nil {
		w.local, w.remote = netip.AddrPortFrom(a.sa.Src, w.encap.ports.SrcPort), netip.AddrPortFrom(a.sa.Dst, w.encap.ports.DstPort)
	}
	switch {
	case w.mode == ipsec.Transport:
		w.nextHeader, w.headerLen, w.original = inner.Protocol, inner.Len, header[:inner.Len]
	case inner.Version == 4:
		w.nextHeader = inet.ProtoIPIP
	default:
		w.nextHeader = inet.ProtoIPv6
	}
	switch {
	case w.encap != nil:
		w.headerLen = 0
	case w.mode == ipsec.Tunnel && a.sa.Dst.Is4():
		w.headerLen = inet.IPv4Len
	case w.mode == ipsec.Tunnel:
		w.headerLen = inet.IPv6Len
	}
	return w
}

// innerSize is how much of a segment of the given size ESP carries.
func (w *wrapper) innerSize(segment int) int {
	if w.mode == ipsec.Tunnel {
		return segment
	}
	return segment - w.inner.Len
}

// write puts the IP header of one packet into the room before ESP.
func (w *wrapper) write(pkt []byte) {
	if w.headerLen == 0 {
		return
	}
	ip := pkt[:w.headerLen]
	switch {
	case w.mode == ipsec.Transport:
		copy(ip, w.original)
		ip[w.inner.ProtocolAt] = inet.ProtoESP
	case w.remote.Addr().Is4():
		w.writeTunnel4(ip)
	default:
		w.writeTunnel6(ip)
	}
	inet.SetLength(pkt)
}

func (w *wrapper) writeTunnel4(ip []byte) {
	clear(ip)
	ip[0], ip[1] = 0x45, w.inner.TOS
	ip[8], ip[9] = outerTTL, inet.ProtoESP
	if w.dontFragment() {
		ip[6] = dfBit
	} else {
		binary.BigEndian.PutUint16(ip[4:], w.ids.next16())
	}
	src, dst := w.local.Addr().As4(), w.remote.Addr().As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
}

func (w *wrapper) writeTunnel6(ip []byte) {
	binary.BigEndian.PutUint32(ip, 6<<28|uint32(w.inner.TOS)<<20)
	ip[6], ip[7] = inet.ProtoESP, outerTTL
	src, dst := w.local.Addr().As16(), w.remote.Addr().As16()
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
}

// message describes the sealed packets to a UDP socket. It fails for IPv6 extension headers
// that a socket cannot send in their order.
func (w *wrapper) message(sealed [][]byte) (underlay.Message, bool) {
	m := underlay.Message{Src: w.local, Dst: w.remote, TOS: w.inner.TOS, TTL: outerTTL, DontFragment: w.dontFragment(), Payloads: sealed}
	if w.mode == ipsec.Tunnel {
		return m, true
	}
	m.TTL, m.FlowLabel = w.inner.TTL, w.inner.FlowLabel
	if w.inner.Version == 4 {
		m.Options = w.original[inet.IPv4Len:]
		return m, true
	}
	return m, w.extensions(&m)
}

// extensions hands the extension headers of transport mode over one by one: at most one of
// each kind, in the order RFC 8200 §4.1 recommends.
func (w *wrapper) extensions(m *underlay.Message) bool {
	slots := []struct {
		kind byte
		into *[]byte
	}{{inet.ProtoHopByHop, &m.HopByHop}, {inet.ProtoRouting, &m.Routing}, {inet.ProtoDestOpts, &m.Destination}}
	kind, rest := w.original[6], w.original[inet.IPv6Len:]
	for len(rest) > 0 {
		for len(slots) > 0 && slots[0].kind != kind {
			slots = slots[1:]
		}
		if len(slots) == 0 {
			return false
		}
		n := 8 + 8*int(rest[1])
		*slots[0].into = rest[:n]
		kind, rest, slots = rest[0], rest[n:], slots[1:]
	}
	return true
}

// dontFragment tells whether the outer packet must not be cut: the inner one must not, and was
// not made to fit by the TUN's minimum MTU (RFC 2473 §7.1 has IPv6 packets of up to 1280 bytes
// carried in fragments).
func (w *wrapper) dontFragment() bool {
	if w.inner.Version == 6 {
		return w.mode == ipsec.Tunnel && w.inner.Total > minTUNMTU
	}
	return w.inner.DontFragment
}

// payloadAt is where ESP's payload begins in a packet.
func (w *wrapper) payloadAt() int { return w.headerLen + esp.HeaderLen + esp.IVLen }

// fragmentIDs numbers the outer packets that may be fragmented.
type fragmentIDs struct{ last atomic.Uint32 }

func (f *fragmentIDs) next() uint32 { return f.last.Add(1) }

// next16 is for IPv4, and never 0: for that the kernel would choose another, for each fragment.
func (f *fragmentIDs) next16() uint16 {
	for {
		if id := uint16(f.next()); id != 0 {
			return id
		}
	}
}
