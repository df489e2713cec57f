package underlay

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"espalier/internal/inet"
)

var (
	quoteSrc4, quoteDst4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.2")
	quoteSrc6, quoteDst6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8:1::2")
)

// quote is the beginning of a packet of 1500 bytes.
func quote(v6 bool, proto byte, extra []byte, text ...byte) []byte {
	if v6 {
		p := make([]byte, inet.IPv6Len)
		p[0], p[6], p[7] = 0x60, proto, 61
		binary.BigEndian.PutUint16(p[4:], 1460)
		copy(p[8:], quoteSrc6.AsSlice())
		copy(p[24:], quoteDst6.AsSlice())
		if extra != nil {
			p[6] = inet.ProtoHopByHop
		}
		return append(append(p, extra...), text...)
	}
	p := make([]byte, inet.IPv4Len)
	p[0], p[6], p[8], p[9] = 0x45+byte(len(extra)/4), 0x40, 61, proto
	copy(p[12:], quoteSrc4.AsSlice())
	copy(p[16:], quoteDst4.AsSlice())
	p = append(p, extra...)
	binary.BigEndian.PutUint16(p[2:], 1500)
	return append(p, text...)
}

// tooBig4 is an IPv4 packet with a message.
func tooBig4(kind, code byte, mtu uint16, quoted []byte) []byte {
	msg := append([]byte{kind, code, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, quoted...)
	binary.BigEndian.PutUint16(msg[2:], inet.Fold(inet.Sum(msg, 0)))
	p := make([]byte, inet.IPv4Len)
	p[0], p[8], p[9] = 0x45, 64, inet.ProtoICMP
	p = append(p, msg...)
	inet.SetLength(p)
	return p
}

func tooBig6(kind byte, mtu uint32, quoted []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{kind, 0, 0, 0}, mtu), quoted...)
}

func TestParseTooBig(t *testing.T) {
	router := netip.MustParseAddr("203.0.113.9")
	text := []byte{0, 0, 16, 0, 0, 0, 0, 7}
	options, hop := []byte{1, 1, 1, 1}, []byte{inet.ProtoESP, 0, 1, 4, 0, 0, 0, 0}
	edit := func(b []byte, at int, x byte) []byte {
		b = bytes.Clone(b)
		b[at] ^= x
		return b
	}
	later := quote(false, inet.ProtoESP, nil, text...)
	later[7] = 9
	later6 := quote(true, inet.ProtoFragment, nil, append([]byte{inet.ProtoESP, 0, 0, 8, 0, 0, 0, 1}, text...)...)
	first6 := quote(true, inet.ProtoFragment, nil, append([]byte{inet.ProtoESP, 0, 0, 1, 0, 0, 0, 1}, text...)...)
	v4 := tooBig4(3, 4, 1400, quote(false, inet.ProtoESP, nil, text...))
	for _, c := range []struct {
		name  string
		v6    bool
		bytes []byte
		ok    bool
		mtu   int
		proto uint8
	}{
		{"IPv4", false, v4, true, 1400, inet.ProtoESP},
		{"options in the packet", false, tooBig4(3, 4, 1400, quote(false, inet.ProtoESP, options, text...)), true, 1400, inet.ProtoESP},
		{"UDP", false, tooBig4(3, 4, 576, quote(false, inet.ProtoUDP, nil, text...)), true, 576, inet.ProtoUDP},
		{"no MTU", false, tooBig4(3, 4, 0, quote(false, inet.ProtoESP, nil, text...)), true, 0, inet.ProtoESP},
		{"port unreachable", false, tooBig4(3, 3, 1400, quote(false, inet.ProtoESP, nil, text...)), false, 0, 0},
		{"time exceeded", false, tooBig4(11, 4, 1400, quote(false, inet.ProtoESP, nil, text...)), false, 0, 0},
		{"checksum", false, edit(v4, 22, 1), false, 0, 0},
		{"changed on the way", false, edit(v4, len(v4)-1, 1), false, 0, 0},
		{"a later fragment", false, tooBig4(3, 4, 1400, later), false, 0, 0},
		{"IPv6 quoted", false, tooBig4(3, 4, 1400, quote(true, inet.ProtoESP, nil, text...)), false, 0, 0},
		{"a cut header", false, tooBig4(3, 4, 1400, quote(false, inet.ProtoESP, nil)[:19]), false, 0, 0},
		{"nothing quoted", false, tooBig4(3, 4, 1400, nil), false, 0, 0},
		{"IPv6", true, tooBig6(2, 1400, quote(true, inet.ProtoESP, nil, text...)), true, 1400, inet.ProtoESP},
		{"extension header", true, tooBig6(2, 1400, quote(true, inet.ProtoESP, hop, text...)), true, 1400, inet.ProtoESP},
		{"first fragment", true, tooBig6(2, 1400, first6), true, 1400, inet.ProtoESP},
		{"a later fragment, IPv6", true, tooBig6(2, 1400, later6), false, 0, 0},
		{"a large MTU", true, tooBig6(2, 1<<32-1, quote(true, inet.ProtoESP, nil, text...)), true, 1 << 16, inet.ProtoESP},
		{"unreachable", true, tooBig6(1, 1400, quote(true, inet.ProtoESP, nil, text...)), false, 0, 0},
		{"IPv4 quoted", true, tooBig6(2, 1400, append(quote(false, inet.ProtoESP, nil, text...), make([]byte, 20)...)), false, 0, 0},
		{"cut", true, tooBig6(2, 1400, nil)[:7], false, 0, 0},
	} {
		parse, src, dst := parseTooBig4, quoteSrc4, quoteDst4
		if c.v6 {
			parse, src, dst = parseTooBig6, quoteSrc6, quoteDst6
		}
		m, ok := parse(router, c.bytes)
		if ok != c.ok {
			t.Errorf("%s: %v", c.name, ok)
			continue
		}
		if ok && (m.MTU != c.mtu || m.From != router || m.Src != src || m.Dst != dst || m.Protocol != c.proto || !bytes.Equal(m.Payload, text)) {
			t.Errorf("%s: %+v", c.name, m)
		}
	}
}

// Whatever comes, what is found lies in it.
func FuzzParseTooBig(f *testing.F) {
	text := []byte{0, 0, 16, 0, 0, 0, 0, 7}
	f.Add(tooBig4(3, 4, 1400, quote(false, inet.ProtoESP, nil, text...)), false)
	f.Add(tooBig6(2, 1400, quote(true, inet.ProtoESP, []byte{inet.ProtoESP, 0, 1, 4, 0, 0, 0, 0}, text...)), true)
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		parse := parseTooBig4
		if v6 {
			parse = parseTooBig6
		}
		whole := bytes.Clone(b)
		m, ok := parse(netip.Addr{}, b)
		if !ok {
			return
		}
		if len(m.Payload) > 0 && !bytes.Contains(whole, m.Payload) || m.Src.Is4() == v6 || m.MTU < 0 || m.MTU > 1<<16 {
			t.Errorf("%+v of %x", m, whole)
		}
	})
}
