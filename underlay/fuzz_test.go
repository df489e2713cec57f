package underlay

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"espalier/internal/inet"
)

// control6 are the control messages of a datagram with extension headers.
func control6(ext ...extension) []byte {
	w := controlWriter{buf: make([]byte, control6Len)}
	info := w.add(unix.SOL_IPV6, unix.IPV6_PKTINFO, pktinfo6Len)
	info[0], info[15], info[16] = 0xfd, 2, 3
	w.addInt(unix.SOL_IPV6, unix.IPV6_HOPLIMIT, testTTL)
	w.addInt(unix.SOL_IPV6, unix.IPV6_TCLASS, testTOS)
	binary.BigEndian.PutUint32(w.add(unix.SOL_IPV6, ipv6FlowInfo, 4), testTOS<<20|testFlow)
	for _, e := range ext {
		kind := map[uint8]int32{0: unix.IPV6_HOPOPTS, 43: unix.IPV6_RTHDR, 60: unix.IPV6_DSTOPTS}[e.proto]
		copy(w.add(unix.SOL_IPV6, kind, len(e.bytes)), e.bytes)
	}
	binary.NativeEndian.PutUint32(w.add(unix.SOL_UDP, unix.UDP_GRO, 4), 1400)
	return w.bytes()
}

func control4(options []byte) []byte {
	w := controlWriter{buf: make([]byte, control4Len)}
	info := w.add(unix.SOL_IP, unix.IP_PKTINFO, pktinfo4Len)
	info[0], info[8], info[11] = 3, 10, 2
	w.addInt(unix.SOL_IP, unix.IP_TTL, testTTL)
	w.add(unix.SOL_IP, unix.IP_TOS, 1)[0] = testTOS
	if options != nil {
		copy(w.add(unix.SOL_IP, unix.IP_RECVOPTS, len(options)), options)
	}
	return w.bytes()
}

// TestRebuiltHeaderParses puts a rebuilt header in front of a payload, as transport mode
// does, and reads it back with the parser of all other packets.
func TestRebuiltHeaderParses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ext []extension
		for range rapid.IntRange(0, maxExtensions).Draw(t, "extension headers") {
			words := rapid.IntRange(0, 255).Draw(t, "8-byte words")
			b := make([]byte, 8+8*words)
			b[0], b[1] = rapid.Byte().Draw(t, "next header"), uint8(words)
			ext = append(ext, extension{rapid.SampledFrom([]uint8{0, 43, 60}).Draw(t, "kind"), b})
		}
		var a ancillary
		if err := a.parse(control6(ext...)); err != nil {
			t.Fatalf("parse: %v", err)
		}
		remote := netip.MustParseAddr("fd00::1")
		room := make([]byte, 0, header6Len)
		header, at := a.header(room, remote, inet.ProtoESP)
		if &header[0] != &room[:1][0] {
			t.Fatalf("a header of %d bytes left its room", len(header))
		}
		pkt := append(header[:len(header):len(header)], "payload"...)
		binary.BigEndian.PutUint16(pkt[4:], uint16(len(pkt)-40))
		h, err := inet.Parse(pkt)
		if err != nil {
			t.Fatalf("rebuilt header does not parse: %v: % x", err, header)
		}
		want := inet.Header{Version: 6, Src: remote, Dst: a.local, Len: len(header), Total: len(pkt), Protocol: inet.ProtoESP, ProtocolAt: at}
		if h.Src != want.Src || h.Dst != want.Dst || h.Len != want.Len || h.Protocol != want.Protocol || h.ProtocolAt != want.ProtocolAt {
			t.Fatalf("got %+v, want %+v", h, want)
		}
		if h.TOS != testTOS || h.TTL != testTTL || h.FlowLabel != testFlow || a.segment != 1400 || a.index != 3 {
			t.Fatalf("fields differ: %+v of %+v", h, a)
		}
	})
}

func TestControlRefusals(t *testing.T) {
	good := control4(noOperations)
	long := make([]byte, 44)
	for name, control := range map[string][]byte{
		"length beyond the buffer": good[:20],
		"length below the header":  append([]byte{8, 0, 0, 0, 0, 0, 0, 0}, good[8:]...),
		"options too long":         control4(long),
		"options not in words":     control4(long[:7]),
		"extension header cut":     control6(extension{0, []byte{0, 1, 0, 0, 0, 0, 0, 0}}),
		"too many extension headers": control6(extension{60, hopByHop}, extension{60, hopByHop}, extension{60, hopByHop},
			extension{60, hopByHop}, extension{60, hopByHop}),
	} {
		var a ancillary
		if err := a.parse(control); err == nil {
			t.Errorf("%s: taken as %+v", name, a)
		}
	}
	var a ancillary
	if err := a.parse(good); err != nil || a.tos != testTOS || a.ttl != testTTL || string(a.options) != string(noOperations) {
		t.Errorf("good messages: %+v, %v", a, err)
	}
}

func FuzzAncillary(f *testing.F) {
	f.Add(control4(nil))
	f.Add(control4(noOperations))
	f.Add(control6(extension{0, hopByHop}, extension{60, destination6}))
	f.Fuzz(func(t *testing.T, control []byte) {
		var a ancillary
		if len(control) > control6Len || a.parse(control) != nil || !a.local.IsValid() {
			return
		}
		remote, size := netip.MustParseAddr("fd00::1"), header6Len
		if a.local.Is4() {
			remote, size = netip.MustParseAddr("10.0.0.1"), header4Len
		}
		room := make([]byte, 0, size)
		header, at := a.header(room, remote, inet.ProtoESP)
		if &header[0] != &room[:1][0] || at >= len(header) || header[at] != inet.ProtoESP {
			t.Fatalf("header of %d bytes, protocol at %d: % x", len(header), at, header)
		}
	})
}

// FuzzHeader rebuilds headers and reads them back.
func FuzzHeader(f *testing.F) {
	f.Add(true, uint8(1), uint8(2), uint32(3), []byte("\x00\x01234567\x00\x0089abcd"), []byte{})
	f.Add(false, uint8(0xb9), uint8(64), uint32(0), []byte{}, noOperations)
	f.Fuzz(func(t *testing.T, v6 bool, tos, ttl uint8, label uint32, ext, options []byte) {
		a := ancillary{tos: tos, ttl: ttl}
		remote := netip.MustParseAddr("10.0.0.1")
		if v6 {
			remote = netip.MustParseAddr("fd00::1")
			a.local = netip.MustParseAddr("fd00::2")
			a.flowLabel = label & 0xfffff
			for len(ext) >= 8 { // cut into extension headers by their own lengths
				n := 8 + 8*int(ext[1])
				if n > len(ext) || a.addExtension(inet.ProtoDestOpts, ext[:n]) != nil {
					break
				}
				ext = ext[n:]
			}
		} else {
			a.local = netip.MustParseAddr("10.0.0.2")
			a.options = options[:min(len(options), 40)/4*4]
		}
		header, at := a.header(nil, remote, inet.ProtoESP)
		pkt := append(header[:len(header):len(header)], "payload"...)
		if v6 {
			binary.BigEndian.PutUint16(pkt[4:], uint16(len(pkt)-40))
		} else {
			binary.BigEndian.PutUint16(pkt[2:], uint16(len(pkt)))
		}
		h, err := inet.Parse(pkt)
		if err != nil || h.Len != len(header) || h.ProtocolAt != at || h.Protocol != inet.ProtoESP ||
			h.TOS != tos || h.TTL != ttl || h.FlowLabel != a.flowLabel || h.Src != remote || h.Dst != a.local {
			t.Fatalf("read back as %+v, %v", h, err)
		}
	})
}
