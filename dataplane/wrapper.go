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

// wrapper makes what stands before ESP in the packets of one frame, or of several that are alike.
// In transport mode that is the packet's own IP header with options or extension headers, TTL, TOS,
// DF, ID and flow label as they were; in tunnel mode a new one (RFC 4301 §5.1.2, RFC 6040).
type wrapper struct {
	mode         ipsec.Mode
	nextHeader   uint8 // what ESP carries
	dontFragment bool  // see dontFragment
	inner        *inet.Header
	encap        *encapsulation
	src, dst     netip.Addr

	// headerLen is the room before ESP for the IP header: none with UDP encapsulation, where
	// the socket makes IP and UDP headers.
	headerLen int
	original  []byte // transport mode with UDP encapsulation: the IP header that is not sent
	outer     [inet.IPv6Len]byte
	sum       uint16 // of outer, if it is IPv4
	ids       *fragmentIDs
}

// newWrapper plans the headers before packets with the header inner.
func newWrapper(a *association, inner *inet.Header, dontFragment bool, ids *fragmentIDs) wrapper {
	w := wrapper{
		mode: a.mode, dontFragment: dontFragment, inner: inner, encap: a.encap.Load(),
		src: a.sa.Src, dst: a.sa.Dst, headerLen: headerLen(a, inner), ids: ids,
	}
	switch {
	case w.mode == ipsec.Transport:
		w.nextHeader = inner.Protocol
	case inner.Version == 4:
		w.nextHeader = inet.ProtoIPIP
	default:
		w.nextHeader = inet.ProtoIPv6
	}
	switch {
	case w.mode == ipsec.Transport || w.encap != nil:
	case w.dst.Is4():
		w.setOuter4()
	default:
		w.setOuter6()
	}
	return w
}

// headerLen is the room an SA's packets have before ESP.
func headerLen(a *association, inner *inet.Header) int {
	switch {
	case a.encap.Load() != nil:
		return 0
	case a.mode == ipsec.Transport:
		return inner.Len
	case a.sa.Dst.Is4():
		return inet.IPv4Len
	}
	return inet.IPv6Len
}

// likeness is what a tunnel's headers depend on, besides the SA. In transport mode it is the whole of
// the header, and 0.
func likeness(mode ipsec.Mode, inner *inet.Header, dontFragment bool) uint32 {
	if mode == ipsec.Transport {
		return 0
	}
	l := uint32(inner.Version)<<8 | uint32(inner.TOS)
	if dontFragment {
		l |= 1 << 16
	}
	return l
}

func (w *wrapper) setOuter4() {
	ip := w.outer[:inet.IPv4Len]
	ip[0], ip[1] = 0x45, w.inner.TOS
	ip[8], ip[9] = outerTTL, inet.ProtoESP
	if w.dontFragment {
		ip[6] = dfBit
	}
	src, dst := w.src.As4(), w.dst.As4()
	copy(ip[12:], src[:])
	copy(ip[16:], dst[:])
	w.sum = ^inet.Fold(inet.Sum(ip, 0))
}

func (w *wrapper) setOuter6() {
	ip := w.outer[:]
	binary.BigEndian.PutUint32(ip, 6<<28|uint32(w.inner.TOS)<<20)
	ip[6], ip[7] = inet.ProtoESP, outerTTL
	src, dst := w.src.As16(), w.dst.As16()
	copy(ip[8:], src[:])
	copy(ip[24:], dst[:])
}

// write completes the header of one packet; in transport mode it is there already.
func (w *wrapper) write(pkt []byte) {
	switch {
	case w.encap != nil:
	case w.mode == ipsec.Transport:
		pkt[w.inner.ProtocolAt] = inet.ProtoESP
		inet.SetLength(pkt)
	case w.headerLen == inet.IPv4Len:
		*(*[inet.IPv4Len]byte)(pkt) = [inet.IPv4Len]byte(w.outer[:])
		var id uint16
		if !w.dontFragment {
			id = w.ids.next16()
		}
		binary.BigEndian.PutUint16(pkt[2:], uint16(len(pkt)))
		binary.BigEndian.PutUint16(pkt[4:], id)
		binary.BigEndian.PutUint16(pkt[10:], inet.Fold(uint64(w.sum)+uint64(len(pkt))+uint64(id)))
	default:
		copy(pkt, w.outer[:])
		binary.BigEndian.PutUint16(pkt[4:], uint16(len(pkt)-inet.IPv6Len))
	}
}

// message describes the sealed packets to a UDP socket. It fails for IPv6 extension headers
// that a socket cannot send in their order.
func (w *wrapper) message(sealed [][]byte) (underlay.Message, bool) {
	m := underlay.Message{
		Src: netip.AddrPortFrom(w.src, w.encap.ports.SrcPort), Dst: netip.AddrPortFrom(w.dst, w.encap.ports.DstPort),
		TOS: w.inner.TOS, TTL: outerTTL, DontFragment: w.dontFragment, Payloads: sealed,
	}
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

// outside is how many bytes stand before ESP in packets that a socket makes.
func (w *wrapper) outside() int {
	switch {
	case w.mode == ipsec.Transport:
		return len(w.original) + udpLen
	case w.dst.Is4():
		return inet.IPv4Len + udpLen
	}
	return inet.IPv6Len + udpLen
}

// inUDP is the packet that the socket would make of a sealed one, and might be cut. Its checksum is 0
// in IPv4, where it may be (RFC 3948 §2.1).
func (w *wrapper) inUDP(sealed []byte) []byte {
	pkt := make([]byte, w.outside(), w.outside()+len(sealed))
	at, proto := len(pkt)-udpLen, w.inner.ProtocolAt
	switch {
	case w.mode == ipsec.Transport:
		copy(pkt, w.original)
	case w.dst.Is4():
		w.setOuter4()
		proto = 9
		copy(pkt, w.outer[:at])
	default:
		w.setOuter6()
		proto = 6
		copy(pkt, w.outer[:at])
	}
	pkt[proto] = inet.ProtoUDP
	udp := pkt[at:]
	binary.BigEndian.PutUint16(udp, w.encap.ports.SrcPort)
	binary.BigEndian.PutUint16(udp[2:], w.encap.ports.DstPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(udpLen+len(sealed)))
	pkt = append(pkt, sealed...)
	if udp = pkt[at:]; w.dst.Is6() {
		sum := inet.Fold(inet.Sum(udp, inet.PseudoSum(w.src, w.dst, inet.ProtoUDP, len(udp))))
		if sum == 0 {
			sum = 0xffff // RFC 8200 §8.1
		}
		binary.BigEndian.PutUint16(udp[6:], sum)
	}
	inet.SetLength(pkt)
	return pkt
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
