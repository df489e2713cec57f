package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
)

// answersTo are the ICMP messages for a frame that is too big for an SA's path of 1000 bytes (1280 IPv6).
func answersTo(t testing.TB, f pathForm, frame tun.Frame) (answers [][]byte, d *Device) {
	t.Helper()
	d, a := formDevice(t, f, 9200)
	d.locals.replace(map[netip.Addr]struct{}{netip.MustParseAddr("192.0.2.255"): {}})
	o := newOutbound(d, new(recorder))
	o.answer = func(_ tun.VirtioHeader, buf []byte, _ int) {
		answers = append(answers, slices.Clone(buf[tun.HeaderLen:]))
	}
	d.closerLook(a, 0)
	d.lower(a, 1280, netip.Addr{})
	o.handle([]tun.Frame{frame})
	return answers, d
}

func addressed(pkt []byte, src, dst string) []byte {
	from, to := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if from.Is4() {
		copy(pkt[12:], from.AsSlice())
		copy(pkt[16:], to.AsSlice())
	} else {
		copy(pkt[8:], from.AsSlice())
		copy(pkt[24:], to.AsSlice())
	}
	inet.SetLength(pkt)
	return pkt
}

// with sets the protocol and the first byte behind a plain header.
func with(pkt []byte, proto, first byte) []byte {
	if pkt[0]>>4 == 4 {
		pkt[9], pkt[20] = proto, first
	} else {
		pkt[6], pkt[40] = proto, first
	}
	inet.SetLength(pkt)
	return pkt
}

// fragment makes an IPv4 packet a fragment.
func fragment(pkt []byte, offset uint16, more bool) []byte {
	v := uint16(dfBit)<<8 | offset/8
	if more {
		v |= 0x2000
	}
	binary.BigEndian.PutUint16(pkt[6:], v)
	inet.SetLength(pkt)
	return pkt
}

// Nobody is answered who must not be (RFC 1122 §3.2.2, RFC 4443 §2.4 e).
func TestWhoIsAnswered(t *testing.T) {
	const size = 1400
	df, v6 := func() []byte { return plain(false, size, true) }, func() []byte { return plain(true, size, false) }
	for _, c := range []struct {
		name     string
		pkt      []byte
		answered bool
	}{
		{"IPv4", df(), true},
		{"IPv6", v6(), true},
		{"UDP", udpPacket(hostB, 7, size), true},
		{"first fragment", fragment(df(), 0, true), true},
		{"later fragment", fragment(df(), 1480, true), false},
		{"last fragment", fragment(df(), 1480, false), false},
		{"echo request", with(df(), inet.ProtoICMP, 8), true},
		{"echo reply", with(df(), inet.ProtoICMP, 0), true},
		{"unreachable", with(df(), inet.ProtoICMP, 3), false},
		{"time exceeded", with(df(), inet.ProtoICMP, 11), false},
		{"parameter problem", with(df(), inet.ProtoICMP, 12), false},
		{"redirect", with(df(), inet.ProtoICMP, 5), false},
		{"ICMPv6 echo request", with(v6(), inet.ProtoICMPv6, 128), true},
		{"ICMPv6 unreachable", with(v6(), inet.ProtoICMPv6, 1), false},
		{"ICMPv6 error of tomorrow", with(v6(), inet.ProtoICMPv6, 100), false},
		{"to a multicast group", addressed(df(), "192.0.2.1", "239.1.2.3"), false},
		{"to a multicast group, IPv6", addressed(v6(), "2001:db8::1", "ff0e::7"), false},
		{"to a broadcast address", addressed(df(), "192.0.2.1", "192.0.2.255"), false},
		{"to all", addressed(df(), "192.0.2.1", "255.255.255.255"), false},
		{"from nobody", addressed(df(), "0.0.0.0", "192.0.2.2"), false},
		{"from nobody, IPv6", addressed(v6(), "::", "2001:db8::2"), false},
		{"from a multicast group", addressed(df(), "224.0.0.5", "192.0.2.2"), false},
		{"from the host itself", addressed(df(), "127.0.0.1", "192.0.2.2"), false},
	} {
		form := pathForm{mode: ipsec.Tunnel, keyBits: 128, icv: 128}
		original := bytes.Clone(c.pkt)
		answers, d := answersTo(t, form, tun.Frame{Packet: c.pkt})
		if len(answers) > 0 != c.answered || d.drops[OutTooBig].Load() != 1 {
			t.Errorf("%s: %d answers, %d drops", c.name, len(answers), d.drops[OutTooBig].Load())
		}
		if len(answers) == 0 {
			continue
		}
		toldMTU(t, answers[0])
		h, _ := inet.Parse(answers[0])
		was, _ := inet.Parse(original)
		quote := answers[0][h.Len+icmpErrorLen:]
		if most := map[uint8]int{4: 576, 6: 1280}[h.Version]; len(answers[0]) != most || !bytes.HasPrefix(original, quote) {
			t.Errorf("%s: %d bytes, of which %d quote the packet", c.name, len(answers[0]), len(quote))
		}
		if h.Src != was.Dst || h.Dst != was.Src {
			t.Errorf("%s: from %s to %s", c.name, h.Src, h.Dst)
		}
	}
}

// A frame of many segments is answered once, about the first of them, and all are counted.
func TestFrameOfSegmentsIsAnsweredOnce(t *testing.T) {
	const mss, segments = 1400, 20
	pkt := plain(false, 20+20+mss*segments-7, true)
	pkt[9], pkt[20+12] = inet.ProtoTCP, 5<<4
	binary.BigEndian.PutUint32(pkt[20+4:], 77)
	binary.BigEndian.PutUint16(pkt[20+16:], ^inet.Fold(inet.PseudoSum(hostA, hostB, inet.ProtoTCP, len(pkt)-20)))
	inet.SetLength(pkt)
	frame := tun.Frame{Packet: pkt, Header: tun.VirtioHeader{
		Flags: tun.NeedsChecksum, GSOType: tun.GSOTCPv4, GSOSize: mss, ChecksumStart: 20, ChecksumOffset: 16,
	}}
	answers, d := answersTo(t, pathForm{mode: ipsec.Transport, keyBits: 128, icv: 128}, frame)
	if len(answers) != 1 || d.drops[OutTooBig].Load() != segments {
		t.Fatalf("%d answers, %d drops", len(answers), d.drops[OutTooBig].Load())
	}
	quote := answers[0][20+icmpErrorLen:]
	if n := binary.BigEndian.Uint16(quote[2:]); n != 40+mss || binary.BigEndian.Uint32(quote[24:]) != 77 {
		t.Errorf("the segment quoted has %d bytes: %x", n, quote[:40])
	}
}

// Segments of up to 1280 bytes over IPv6 are cut outside, like other packets, however long their frame is.
func TestShortSegmentsMayBeCut(t *testing.T) {
	const mss, segments = 1220, 10
	for _, size := range []int{mss, mss + 1} {
		pkt := plain(true, 40+20+size*segments, false)
		pkt[6], pkt[40+12] = inet.ProtoTCP, 5<<4
		binary.BigEndian.PutUint16(pkt[40+16:], ^inet.Fold(inet.PseudoSum(hostA6, hostB6, inet.ProtoTCP, len(pkt)-40)))
		answers, d := answersTo(t, pathForm{mode: ipsec.Tunnel, outer6: true, keyBits: 128, icv: 128}, tun.Frame{Packet: pkt, Header: tun.VirtioHeader{
			Flags: tun.NeedsChecksum, GSOType: tun.GSOTCPv6, GSOSize: uint16(size), ChecksumStart: 40, ChecksumOffset: 16,
		}})
		if mayBeCut := size == mss; mayBeCut != (len(answers) == 0) || mayBeCut != (d.drops[OutTooBig].Load() == 0) {
			t.Errorf("segments of %d: %d answers, %d drops", size, len(answers), d.drops[OutTooBig].Load())
		}
	}
}

// What was put together from fragments may be cut again, whatever it says.
func TestReassembledMayBeCut(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		d, a := formDevice(t, pathForm{mode: ipsec.Transport, outer6: v6, inner6: v6, keyBits: 128, icv: 128}, 1500)
		wire := new(recorder)
		o := newOutbound(d, wire)
		o.answer = func(tun.VirtioHeader, []byte, int) { t.Error("answered") }
		d.closerLook(a, 0)
		d.lower(a, 1300, netip.Addr{})
		whole := plain(v6, 4000, false)
		h, err := inet.Parse(whole)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range inet.Fragment(nil, whole, &h, 1400, 7) {
			if !v6 {
				p[6] |= dfBit
				inet.SetLength(p)
			}
			o.handle([]tun.Frame{{Packet: p}})
		}
		if len(wire.sizes) != 4 || slices.Max(wire.sizes) > 1300 || d.drops[OutTooBig].Load() > 0 {
			t.Errorf("IPv6 %v: %d sent, %d too big", v6, wire.sizes, d.drops[OutTooBig].Load())
		}
	}
}

func TestBucket(t *testing.T) {
	b, now := bucket{burst: 3, every: time.Second}, time.Unix(1000, 0)
	take := func(after time.Duration, want ...bool) {
		t.Helper()
		now = now.Add(after)
		for i, w := range want {
			if b.take(now) != w {
				t.Errorf("number %d after %s: %v", i, after, !w)
			}
		}
	}
	take(0, true, true, true, false)
	take(500*time.Millisecond, false)
	take(600*time.Millisecond, true, false)
	take(time.Hour, true, true, true, false)
	take(900*time.Millisecond, true, false) // some of the hour's last second is left
}

// Messages are no more than the bucket gives, however many packets are too big.
func TestAnswersAreLimited(t *testing.T) {
	d, a := formDevice(t, pathForm{mode: ipsec.Tunnel, keyBits: 128, icv: 128}, 1500)
	d.paths.answers = bucket{burst: 5, every: time.Hour}
	o, n := newOutbound(d, new(recorder)), 0
	o.answer = func(tun.VirtioHeader, []byte, int) { n++ }
	d.closerLook(a, 0)
	for range 20 {
		o.handle([]tun.Frame{{Packet: plain(false, 1490, true)}})
	}
	if n != 5 || d.drops[OutTooBig].Load() != 20 {
		t.Errorf("%d answers, %d drops", n, d.drops[OutTooBig].Load())
	}
}

// Whatever a packet holds, what answers it is well formed, quotes it, and tells what it is to tell.
func FuzzTooBig(f *testing.F) {
	f.Add(plain(false, 1400, true), uint16(1300))
	f.Add(plain(true, 1400, false), uint16(1300))
	f.Add(udpPacket(hostB, 7, 1400), uint16(576))
	d := pathDevice(f, 0, ipsec.Outbound)
	f.Fuzz(func(t *testing.T, pkt []byte, mtu uint16) {
		h, err := inet.Parse(pkt)
		if err != nil || !d.mayAnswer(&h, pkt) {
			return
		}
		answer := tooBig(pkt, &h, int(mtu))[tun.HeaderLen:]
		want, at := int(mtu), inet.IPv4Len
		if h.Version == 6 {
			want, at = max(want, minTUNMTU), inet.IPv6Len
		}
		if n := toldMTU(t, answer); n != want || !bytes.HasPrefix(pkt, answer[at+icmpErrorLen:]) {
			t.Errorf("told %d, want %d", n, want)
		}
	})
}
