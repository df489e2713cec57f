package pair

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"espalier/test/lab"
	"espalier/test/packets"
)

const patience = 5 * time.Second

var (
	padN        = []byte{1, 4, 0, 0, 0, 0}                                // an option of IPv6 that says nothing
	experiment  = []byte{0x1e, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12} // RFC 4727: whoever does not know it skips it
	routerAlert = []byte{0x94, 4, 0, 0}                                   // RFC 2113
	noOperation = []byte{1, 1, 1, 0}                                      // and the end of options
	both        = append(append([]byte{}, routerAlert...), noOperation...)
)

// TestHeaderIsKept: transport mode leaves the packet's own header alone, on the wire and at
// the other end. UDP encapsulation over IPv4 has one exception: a UDP socket tells its reader
// neither identification nor DF, so packets come out as RFC 6864 calls atomic: DF, and the
// identification 0. On the wire DF is as it was.
func TestHeaderIsKept(t *testing.T) {
	l := newPair(t)
	in, out, wire := l.A.TUN(), l.B.TUN(), l.Wire(l.B)
	for _, p := range []lab.Pair{{}, {UDP: true}, {V6: true}, {V6: true, UDP: true}} {
		wipe(l)
		l.Program(p)
		a, b := p.Ends()
		// Not 0: the kernel numbers a packet without DF whose identification is 0.
		ip := packets.IP{Src: a, Dst: b, Proto: packets.UDPProto, ID: 0x1717}
		for i, h := range headers(ip) {
			t.Run(fmt.Sprintf("v6=%v udp=%v/%d", p.V6, p.UDP, i), func(t *testing.T) {
				datagram := packets.UDP(netip.AddrPortFrom(a, 7000), netip.AddrPortFrom(b, 7777), fmt.Appendf(nil, "header %d", i))
				if err := in.Send(h.Packet(datagram)); err != nil {
					t.Fatal(err)
				}
				checkOuter(t, nextFrom(t, wire, a), h, p.UDP)
				got, err := out.Next(patience)
				if err != nil {
					t.Fatal(err, l.A.Drops(), l.B.Drops())
				}
				if p.UDP && !p.V6 {
					h.ID, h.DF = 0, true
				}
				if want := h.Packet(datagram); !bytes.Equal(got, want) {
					t.Errorf("came out as\n%x, want\n%x", got, want)
				}
			})
		}
	}
	stop(t, l)
}

// nextFrom is the next packet from src on the wire; there is also neighbour discovery.
func nextFrom(t *testing.T, wire *packets.Link, src netip.Addr) []byte {
	t.Helper()
	for {
		pkt, err := wire.Next(patience)
		if err != nil {
			t.Fatal("on the wire: ", err)
		}
		const icmp6 = 58
		if from := src.AsSlice(); src.Is4() && bytes.Equal(pkt[12:16], from) || src.Is6() && bytes.Equal(pkt[8:24], from) && pkt[6] != icmp6 {
			return pkt
		}
	}
}

// headers are variations of ip.
func headers(ip packets.IP) []packets.IP {
	all := []packets.IP{ip}
	vary := func(f func(*packets.IP)) {
		v := ip
		f(&v)
		all = append(all, v)
	}
	for _, tos := range []byte{1, 2, 3, 0xb8, 0xff} {
		vary(func(h *packets.IP) { h.TOS = tos })
	}
	for _, ttl := range []byte{1, 2, 128, 255} {
		vary(func(h *packets.IP) { h.TTL = ttl })
	}
	if ip.Src.Is4() {
		vary(func(h *packets.IP) { h.ID = 0x4242 })
		vary(func(h *packets.IP) { h.ID, h.DF = 0x4242, true })
		vary(func(h *packets.IP) { h.ID, h.DF = 0, true })
		for _, o := range [][]byte{routerAlert, noOperation, both} {
			vary(func(h *packets.IP) { h.Options, h.ID = o, 0x17 })
		}
		return all
	}
	for _, label := range []uint32{1, 0x12345, 0xfffff} {
		vary(func(h *packets.IP) { h.FlowLabel, h.TOS = label, 0x28 })
	}
	hop, dest := packets.Ext{Kind: packets.HopByHop, Data: padN}, packets.Ext{Kind: packets.DestOpts, Data: experiment}
	for _, ext := range [][]packets.Ext{{hop}, {dest}, {hop, dest}} {
		vary(func(h *packets.IP) { h.Ext, h.FlowLabel = ext, 0x777 })
	}
	return all
}

// checkOuter compares the header on the wire, whose protocol, length, checksum and, where it
// was 0, identification are its own.
func checkOuter(t *testing.T, outer []byte, h packets.IP, udp bool) {
	t.Helper()
	h.Proto = packets.ESP
	if udp {
		h.Proto = packets.UDPProto
	}
	want := h.Packet(nil)
	got := bytes.Clone(outer[:min(len(want), len(outer))])
	if h.Src.Is4() {
		copy(want[2:4], got[2:4])
		copy(want[10:12], got[10:12])
		if h.ID == 0 || udp {
			copy(want[4:6], got[4:6])
		}
	} else {
		copy(want[4:6], got[4:6])
	}
	if !bytes.Equal(got, want) {
		t.Errorf("outer header\n%x, want\n%x", got, want)
	}
}
