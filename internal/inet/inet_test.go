package inet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// packet4 and packet6 build packets by hand, field by field from the RFCs.
func packet4(proto uint8, options, upper []byte) []byte {
	p := make([]byte, IPv4Len, IPv4Len+len(options)+len(upper))
	p[0] = 0x40 | byte((IPv4Len+len(options))/4)
	p[1] = 0xb8
	binary.BigEndian.PutUint16(p[4:], 0x1234)
	p[8], p[9] = 61, proto
	copy(p[12:], []byte{192, 0, 2, 1})
	copy(p[16:], []byte{192, 0, 2, 2})
	p = append(append(p, options...), upper...)
	SetLength(p)
	return p
}

func packet6(next uint8, rest []byte) []byte {
	p := make([]byte, IPv6Len, IPv6Len+len(rest))
	binary.BigEndian.PutUint32(p, 6<<28|0xb8<<20|0xabcde)
	p[6], p[7] = next, 61
	src, dst := netip.MustParseAddr("2001:db8::1").As16(), netip.MustParseAddr("2001:db8::2").As16()
	copy(p[8:], src[:])
	copy(p[24:], dst[:])
	p = append(p, rest...)
	SetLength(p)
	return p
}

func TestParse(t *testing.T) {
	udp := []byte{0x11, 0x94, 0x00, 0x35, 0, 8, 0, 0}
	hop := []byte{ProtoRouting, 0, 1, 4, 0, 0, 0, 0}
	routing := []byte{ProtoDestOpts, 0, 0, 0, 0, 0, 0, 0}
	dest := []byte{ProtoUDP, 0, 1, 4, 0, 0, 0, 0}
	frag := func(next byte, off int, more bool) []byte {
		f := make([]byte, 8)
		f[0] = next
		binary.BigEndian.PutUint16(f[2:], uint16(off)|bit(more, 1))
		binary.BigEndian.PutUint32(f[4:], 77)
		return f
	}
	cat := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	for _, c := range []struct {
		name                   string
		pkt                    []byte
		len, protoAt, perFrag  int
		proto                  uint8
		sport, dport           uint16
		ports, fragment, isErr bool
	}{
		{name: "IPv4", pkt: packet4(ProtoUDP, nil, udp), len: 20, protoAt: 9, perFrag: 20, proto: ProtoUDP, sport: 0x1194, dport: 53, ports: true},
		{name: "IPv4 options", pkt: packet4(ProtoUDP, []byte{1, 1, 1, 1}, udp), len: 24, protoAt: 9, perFrag: 24, proto: ProtoUDP, sport: 0x1194, dport: 53, ports: true},
		{name: "IPv4 empty", pkt: packet4(ProtoTCP, nil, nil), len: 20, protoAt: 9, perFrag: 20, proto: ProtoTCP},
		{name: "ICMP", pkt: packet4(ProtoICMP, nil, []byte{3, 4, 0, 0}), len: 20, protoAt: 9, perFrag: 20, proto: ProtoICMP, sport: 3, dport: 4, ports: true},
		{name: "IPv6", pkt: packet6(ProtoUDP, udp), len: 40, protoAt: 6, perFrag: 40, proto: ProtoUDP, sport: 0x1194, dport: 53, ports: true},
		{name: "IPv6 headers", pkt: packet6(ProtoHopByHop, cat(hop, routing, dest, udp)), len: 64, protoAt: 56, perFrag: 56, proto: ProtoUDP, sport: 0x1194, dport: 53, ports: true},
		{name: "first fragment", pkt: packet6(ProtoFragment, cat(frag(ProtoUDP, 0, true), udp)), len: 48, protoAt: 40, perFrag: 40, proto: ProtoUDP, sport: 0x1194, dport: 53, ports: true, fragment: true},
		{name: "later fragment", pkt: packet6(ProtoFragment, cat(frag(ProtoUDP, 8, false), udp)), len: 48, protoAt: 40, perFrag: 40, proto: ProtoUDP, fragment: true},
		{name: "later fragment naming an extension header", pkt: packet6(ProtoFragment, cat(frag(ProtoDestOpts, 8, false), udp)), len: 48, protoAt: 40, perFrag: 40, proto: ProtoDestOpts, fragment: true},
		{name: "two fragment headers", pkt: packet6(ProtoFragment, cat(frag(ProtoFragment, 0, true), frag(ProtoUDP, 0, true))), isErr: true},
		{name: "extension header cut", pkt: packet6(ProtoHopByHop, []byte{ProtoUDP, 1, 0, 0, 0, 0, 0, 0}), isErr: true},
		{name: "jumbogram", pkt: packet6(ProtoHopByHop, nil), isErr: true},
		{name: "IPv4 header cut", pkt: packet4(ProtoUDP, nil, nil)[:19], isErr: true},
		{name: "empty", pkt: nil, isErr: true},
		{name: "version", pkt: []byte{0x50}, isErr: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, err := Parse(c.pkt)
			if (err != nil) != c.isErr {
				t.Fatalf("Parse: %v", err)
			}
			if err != nil {
				return
			}
			if h.Len != c.len || h.ProtocolAt != c.protoAt || h.PerFragment != c.perFrag || h.Protocol != c.proto ||
				h.SrcPort != c.sport || h.DstPort != c.dport || h.HasPorts != c.ports || h.IsFragment() != c.fragment {
				t.Errorf("%+v", h)
			}
			if h.TOS != 0xb8 || h.TTL != 61 || h.Total != len(c.pkt) {
				t.Errorf("%+v", h)
			}
			if h.Version == 6 && h.FlowLabel != 0xabcde {
				t.Errorf("flow label %x", h.FlowLabel)
			}
		})
	}
}

// The sum word by word, as RFC 1071 §4.1 writes it.
func slowChecksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		sum += w
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func TestChecksum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "b")
		cut := rapid.IntRange(0, len(b)/2).Draw(t, "cut") * 2
		if got, want := Fold(Sum(b[cut:], Sum(b[:cut], 0))), slowChecksum(b); got != want {
			t.Fatalf("got %04x, want %04x", got, want)
		}
	})
}

func TestFragmentReassemble(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		upper := rapid.SliceOfN(rapid.Byte(), 1, 4000).Draw(t, "upper")
		var pkt []byte
		if rapid.Bool().Draw(t, "v6") {
			pkt = packet6(ProtoHopByHop, append([]byte{ProtoUDP, 0, 1, 4, 0, 0, 0, 0}, upper...))
		} else {
			pkt = packet4(ProtoUDP, []byte{0x94, 4, 0, 0}, upper)
		}
		h, err := Parse(pkt)
		if err != nil {
			t.Fatal(err)
		}
		mtu := rapid.IntRange(100, 1500).Draw(t, "mtu")
		parts := Fragment(nil, pkt, &h, mtu, 99)
		var r Reassembler
		order := rapid.Permutation(parts).Draw(t, "order")
		for i, part := range order {
			if len(part) > mtu {
				t.Fatalf("fragment of %d bytes for mtu %d", len(part), mtu)
			}
			ph, err := Parse(part)
			if err != nil {
				t.Fatal(err)
			}
			whole, err := r.Add(part, &ph, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if last := i == len(order)-1; last != (whole != nil) {
				t.Fatalf("part %d of %d: whole is %v", i, len(order), whole != nil)
			}
			if whole != nil && !bytes.Equal(whole, pkt) {
				t.Fatalf("got  %x\nwant %x", whole, pkt)
			}
		}
		if len(r.datagrams) != 0 {
			t.Fatal("datagram kept")
		}
	})
}

func TestReassemblerRefuses(t *testing.T) {
	frag := func(off int, more bool, n int) []byte {
		p := packet4(ProtoUDP, nil, make([]byte, n))
		binary.BigEndian.PutUint16(p[6:], uint16(off/8)|bit(more, 0x2000))
		SetIPv4Checksum(p)
		return p
	}
	for name, c := range map[string]struct {
		parts [][]byte
		want  error
	}{
		"overlap":          {[][]byte{frag(0, true, 16), frag(8, true, 16)}, ErrOverlap},
		"same twice":       {[][]byte{frag(0, true, 16), frag(0, true, 16)}, ErrOverlap},
		"beyond the last":  {[][]byte{frag(16, false, 8), frag(24, true, 8)}, ErrOverlap},
		"last is not last": {[][]byte{frag(24, true, 8), frag(0, false, 8)}, ErrOverlap},
		"odd length":       {[][]byte{frag(0, true, 15)}, ErrFragmentLen},
		"too long":         {[][]byte{frag(65528, false, 100)}, ErrTooLong},
	} {
		t.Run(name, func(t *testing.T) {
			var r Reassembler
			var err error
			for _, p := range c.parts {
				h, perr := Parse(p)
				if perr != nil {
					t.Fatal(perr)
				}
				_, err = r.Add(p, &h, time.Now())
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if len(r.datagrams) != 0 {
				t.Error("datagram kept")
			}
		})
	}
}

func TestReassemblerIsBounded(t *testing.T) {
	var r Reassembler
	now := time.Now()
	for id := range 1000 {
		p := packet4(ProtoUDP, nil, make([]byte, 8))
		binary.BigEndian.PutUint16(p[4:], uint16(id))
		binary.BigEndian.PutUint16(p[6:], 0x2000)
		SetIPv4Checksum(p)
		h, _ := Parse(p)
		r.Add(p, &h, now.Add(time.Duration(id)*time.Millisecond))
		if len(r.datagrams) > maxDatagrams {
			t.Fatalf("%d datagrams", len(r.datagrams))
		}
	}
	if r.Evicted != 1000-maxDatagrams {
		t.Errorf("evicted %d", r.Evicted)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packet4(ProtoUDP, []byte{1, 1, 1, 1}, make([]byte, 8)))
	f.Add(packet6(ProtoHopByHop, append([]byte{ProtoFragment, 0, 1, 4, 0, 0, 0, 0}, make([]byte, 16)...)))
	f.Fuzz(func(t *testing.T, pkt []byte) {
		h, err := Parse(pkt)
		if err != nil {
			return
		}
		if h.Len > h.Total || h.Total > len(pkt) || h.ProtocolAt >= h.Len || h.PerFragment > h.Len {
			t.Fatalf("%+v", h)
		}
		var r Reassembler
		if h.IsFragment() {
			if whole, err := r.Add(pkt, &h, time.Now()); err == nil && whole != nil {
				if _, err := Parse(whole); err != nil && !errors.Is(err, ErrTruncated) && !errors.Is(err, ErrHeader) && !errors.Is(err, ErrJumbogram) {
					t.Fatal(err)
				}
			}
			return
		}
		for _, part := range Fragment(nil, pkt, &h, 1280, 1) {
			if len(part) > 1280 {
				t.Fatal("fragment too long")
			}
		}
	})
}
