package wire

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"espalier/ipsec"
)

var (
	a4, b4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	a6, b6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
)

// packet is an IP packet with hop limit 255, built by hand.
func packet(src, dst netip.Addr, proto byte, upper ...byte) []byte {
	var p []byte
	if src.Is4() {
		p = make([]byte, 20)
		p[0], p[8], p[9] = 0x45, 255, proto
		binary.BigEndian.PutUint16(p[2:], uint16(20+len(upper)))
	} else {
		p = make([]byte, 8)
		p[0], p[6], p[7] = 0x60, proto, 255
		binary.BigEndian.PutUint16(p[4:], uint16(len(upper)))
		p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
		return append(p, upper...)
	}
	copy(p[12:], src.AsSlice())
	copy(p[16:], dst.AsSlice())
	return append(p, upper...)
}

func udp(sport, dport uint16, payload ...byte) []byte {
	u := make([]byte, 8)
	binary.BigEndian.PutUint16(u, sport)
	binary.BigEndian.PutUint16(u[2:], dport)
	return append(u, payload...)
}

func fragment(p []byte, id, offset uint16, more bool) []byte {
	binary.BigEndian.PutUint16(p[4:], id)
	v := offset / 8
	if more {
		v |= 0x2000
	}
	binary.BigEndian.PutUint16(p[6:], v)
	return p
}

func TestClassify(t *testing.T) {
	host := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	c := Classifier{
		Protected: []ipsec.Selector{{Src: host(a4), Dst: host(b4)}, {Src: host(a6), Dst: host(b6)}},
		Encaps:    []Ends{{Src: netip.AddrPortFrom(a4, 4500), Dst: netip.AddrPortFrom(b4, 4500)}},
	}
	esp := []byte{0, 0, 0x10, 0, 0, 0, 0, 1}
	ike := []byte{0, 0, 0, 0, 1, 2, 3, 4}
	limit := func(p []byte, hops byte) []byte { p[7] = hops; return p }
	for _, step := range []struct { // in order: fragments are remembered
		name string
		pkt  []byte
		want Kind
	}{
		{"TCP", packet(a4, b4, 6, udp(1, 2)...), Cleartext},
		{"no ports", packet(a4, b4, 6), Cleartext},
		{"IPv6", packet(a6, b6, 17, udp(1, 2)...), Cleartext},
		{"other way, not protected", packet(b4, a4, 6, udp(1, 2)...), Other},
		{"ESP", packet(a4, b4, 50, esp...), ESP},
		{"ESP behind a destination header", packet(a6, b6, 60, append([]byte{50, 0, 1, 4, 0, 0, 0, 0}, esp...)...), ESP},
		{"ESP in UDP", packet(a4, b4, 17, udp(4500, 4500, esp...)...), ESP},
		{"keepalive", packet(a4, b4, 17, udp(4500, 4500, 0xff)...), ESP},
		{"IKE on the port", packet(a4, b4, 17, udp(4500, 4500, ike...)...), Cleartext},
		{"too short for ESP", packet(a4, b4, 17, udp(4500, 4500, 1, 2, 3)...), Cleartext},
		{"another port", packet(a4, b4, 17, udp(4500, 4501, esp...)...), Cleartext},
		{"no SA for IPv6", packet(a6, b6, 17, udp(4500, 4500, esp...)...), Cleartext},
		{"later fragment of nothing known", fragment(packet(a4, b4, 17, esp...), 7, 1480, false), Cleartext},
		{"first fragment of ESP in UDP", fragment(packet(a4, b4, 17, udp(4500, 4500, esp...)...), 7, 0, true), ESP},
		{"later fragment of it", fragment(packet(a4, b4, 17, esp...), 7, 1480, false), ESP},
		{"later fragment of another", fragment(packet(a4, b4, 17, esp...), 8, 1480, false), Cleartext},
		{"first fragment in clear", fragment(packet(a4, b4, 17, udp(1, 2, esp...)...), 9, 0, true), Cleartext},
		{"its later fragment", fragment(packet(a4, b4, 17, esp...), 9, 1480, false), Cleartext},
		{"neighbour solicitation", packet(a6, b6, 58, 135, 0, 0, 0), Discovery},
		{"forged neighbour solicitation", limit(packet(a6, b6, 58, 135, 0, 0, 0), 64), Cleartext},
		{"echo request", packet(a6, b6, 58, 128, 0, 0, 0), Cleartext},
		{"not IP", []byte{0x10, 2, 3}, Other},
		{"nothing", nil, Other},
	} {
		if got := c.Classify(step.pkt); got != step.want {
			t.Errorf("%s: %s, want %s", step.name, got, step.want)
		}
	}
	whole := packet(a4, b4, 6, make([]byte, 1000)...)
	if got := c.Classify(whole[:60]); got != Cleartext {
		t.Errorf("cut short by the capture: %s", got)
	}
}
