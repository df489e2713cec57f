package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
	"espalier/underlay"
)

// segment is an upper-layer packet whose checksum covers src and dst.
func segment(src, dst netip.Addr, proto uint8, data []byte) []byte {
	length, at := map[uint8]int{inet.ProtoTCP: tcpLen, inet.ProtoUDP: udpLen, inet.ProtoICMPv6: 8}[proto],
		map[uint8]int{inet.ProtoTCP: 16, inet.ProtoUDP: 6, inet.ProtoICMPv6: 2}[proto]
	b := append(make([]byte, length), data...)
	b[0], b[2] = 9, 1
	switch proto {
	case inet.ProtoTCP:
		b[12] = 5 << 4
	case inet.ProtoUDP:
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	case inet.ProtoICMPv6:
		b[0], b[2] = 128, 0
	}
	sum := inet.Fold(inet.Sum(b, inet.PseudoSum(src, dst, proto, len(b))))
	if sum == 0 && proto == inet.ProtoUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], sum)
	return b
}

// outerHeader is that of a datagram, as the socket describes it.
func outerHeader(src, dst netip.Addr) (header []byte, protocolAt int) {
	if src.Is4() {
		header = ipHeader(4, 0)
		copy(header[12:], src.AsSlice())
		copy(header[16:], dst.AsSlice())
		return header, 9
	}
	header = ipHeader(6, 0)
	copy(header[8:], src.AsSlice())
	copy(header[24:], dst.AsSlice())
	return header, 6
}

// arrive delivers segments by an SA from peer to host, and returns them as they were delivered.
func arrive(t rapid.TB, udp bool, peer, host netip.Addr, original netip.Addr, mode ipsec.Mode, proto uint8, segments ...[]byte) (got [][]byte, a *association) {
	t.Helper()
	d := newDevice(nil)
	d.locals.replace(nil)
	sa := testSA(0x100)
	sa.Src, sa.Dst, sa.Mode, sa.Direction = peer, host, mode, ipsec.Inbound
	var e *encapsulation
	if udp {
		sa.Encap = &ipsec.Encap{SrcPort: 4500, DstPort: 4500, Original: original}
		e = d.encapsulationOf(&sa)
	}
	a, err := d.sad.add(sa, e, nil)
	if err != nil {
		t.Fatal(err)
	}
	if mode == ipsec.Tunnel {
		p := ipsec.Policy{Direction: ipsec.Forward, Action: ipsec.Protect, Processing: []ipsec.Processing{{Src: peer, Dst: host, RequestID: 7, Mode: mode}}}
		d.spd.put(d.spd.prepare(&p, nil), nil)
	}
	sa = testSA(0x100)
	sa.Src, sa.Dst, sa.Mode, sa.Direction, sa.Window = peer, host, mode, ipsec.Outbound, 0
	header, at := outerHeader(peer, host)
	datagrams := sealAll(t, sa, segments, proto, header)
	in := newInbound(d, udp, func(_ tun.VirtioHeader, buf []byte, _ int) { got = append(got, bytes.Clone(buf[tun.HeaderLen:])) })
	for i := range datagrams { // one by one, so that they are not coalesced
		datagrams[i].ProtocolAt = at
		datagrams[i].Local, datagrams[i].Remote = netip.AddrPortFrom(host, 4500), netip.AddrPortFrom(peer, 4500)
		in.handle([]underlay.Datagram{datagrams[i]})
		in.tun.Flush()
	}
	if len(got) != len(segments) {
		t.Fatalf("%d of %d packets were delivered: %v", len(got), len(segments), dropped(d))
	}
	return got, a
}

// sound reports whether the checksum of a delivered packet verifies.
func sound(t rapid.TB, pkt []byte) bool {
	t.Helper()
	h, err := inet.Parse(pkt)
	if err != nil {
		t.Fatal(err)
	}
	b := pkt[h.Len:]
	return inet.Fold(inet.Sum(b, inet.PseudoSum(h.Src, h.Dst, h.Protocol, len(b)))) == 0
}

// Whatever address a NAT has changed, with the original known or not, checksums are right again; and
// those that were right are the same.
func TestChecksumsBehindNAT(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		addr := func(name string) netip.Addr {
			n := 4
			if v6 {
				n = 16
			}
			b := rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, name)
			b[0] = 0x20
			a, _ := netip.AddrFromSlice(b)
			return a
		}
		protos := []uint8{inet.ProtoTCP, inet.ProtoUDP}
		if v6 {
			protos = append(protos, inet.ProtoICMPv6)
		}
		proto := rapid.SampledFrom(protos).Draw(t, "protocol")
		before, after, host := addr("before"), addr("after"), addr("host")
		dst := host // as the sender has it
		switch rapid.IntRange(0, 3).Draw(t, "NAT") {
		case 0:
			after = before
		case 1:
			dst = addr("another NAT")
		}
		var original netip.Addr
		if rapid.Bool().Draw(t, "original known") {
			original = before
		}
		var segments [][]byte
		for range 3 {
			segments = append(segments, segment(before, dst, proto, rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "data")))
		}
		got, a := arrive(t, true, after, host, original, ipsec.Transport, proto, segments...)
		for i, pkt := range got {
			if !sound(t, pkt) {
				t.Errorf("packet %d: its checksum does not verify", i)
			}
			if before == after && dst == host && !bytes.Equal(pkt[len(pkt)-len(segments[i]):], segments[i]) {
				t.Errorf("packet %d was changed", i)
			}
		}
		if a.sums.translated.Load() && dst == host && (original.IsValid() || before == after) {
			t.Error("checksums are looked at that are right, or could be repaired")
		}
	})
}

func TestChecksumsThatAreLeftAlone(t *testing.T) {
	before, after, host := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("192.0.2.2")
	tcp := segment(before, host, inet.ProtoTCP, []byte("data"))
	inner, _ := outerHeader(before, host)
	inner[9] = inet.ProtoTCP
	inner = append(inner, segment(after, host, inet.ProtoTCP, []byte("data"))...)
	inet.SetLength(inner)
	none := segment(before, host, inet.ProtoUDP, []byte("data"))
	none[6], none[7] = 0, 0
	for _, c := range []struct {
		name    string
		udp     bool
		mode    ipsec.Mode
		proto   uint8
		segment []byte
	}{
		{"without UDP encapsulation", false, ipsec.Transport, inet.ProtoTCP, tcp},
		{"in a tunnel", true, ipsec.Tunnel, inet.ProtoIPIP, inner},
		{"UDP without a checksum", true, ipsec.Transport, inet.ProtoUDP, none},
		{"TCP without a whole header", true, ipsec.Transport, inet.ProtoTCP, tcp[:tcpLen-1]},
		{"ICMP", true, ipsec.Transport, inet.ProtoICMP, []byte{8, 0, 1, 1, 1, 1, 1, 1}},
	} {
		got, _ := arrive(t, c.udp, after, host, netip.Addr{}, c.mode, c.proto, c.segment)
		if rest := got[0][len(got[0])-len(c.segment):]; !bytes.Equal(rest, c.segment) {
			t.Errorf("%s: %x was changed to %x", c.name, c.segment, rest)
		}
	}
}

// One packet a second tells that there is no NAT; nobody looks at the others.
func TestChecksumsThatAreRightCostNothing(t *testing.T) {
	peer, host := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("192.0.2.2")
	right, wrong := segment(peer, host, inet.ProtoTCP, []byte("data")), segment(host, host, inet.ProtoTCP, []byte("data"))
	got, a := arrive(t, true, peer, host, netip.Addr{}, ipsec.Transport, inet.ProtoTCP, right, wrong)
	if sound(t, got[1]) || a.sums.translated.Load() {
		t.Error("a packet was looked at in the same second in which another was right")
	}
	got, a = arrive(t, true, peer, host, netip.Addr{}, ipsec.Transport, inet.ProtoTCP, wrong, right, wrong)
	if !sound(t, got[0]) || !sound(t, got[2]) || !a.sums.translated.Load() {
		t.Error("behind a NAT a packet was not repaired")
	}
}
