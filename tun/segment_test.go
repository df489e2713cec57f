package tun

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"espalier/internal/inet"
)

// sum16 is the Internet checksum's sum as RFC 1071 writes it down, slow and plain, so
// that the tests do not check a checksum with the code that made it.
func sum16(parts ...[]byte) uint16 {
	var sum uint32
	for _, p := range parts {
		for i, b := range p {
			if i%2 == 0 {
				sum += uint32(b) << 8
			} else {
				sum += uint32(b)
			}
			sum = sum&0xffff + sum>>16
		}
	}
	return uint16(sum)
}

// pseudo is the pseudo-header of a packet's upper layer (RFC 9293, RFC 8200 section 8.1).
func pseudo(p []byte, proto uint8, upperLen int) []byte {
	var b []byte
	if p[0]>>4 == 4 {
		b = append(b, p[12:20]...)
		b = append(b, 0, proto)
		return binary.BigEndian.AppendUint16(b, uint16(upperLen))
	}
	b = append(b, p[8:40]...)
	b = binary.BigEndian.AppendUint32(b, uint32(upperLen))
	return append(b, 0, 0, 0, proto)
}

// stream describes a TCP frame to be built.
type stream struct {
	v6        bool
	udp       bool   // datagrams, in spite of the name: without options, flags and sequence number
	ipOptions []byte // IPv4 options, or IPv6 extension headers, the first one hop-by-hop options
	tcpOption []byte
	flags     uint8
	id        uint16
	seq       uint32
	payload   []byte
	mss       uint16
}

const testDestOptions = 60

// protocol is TCP or UDP.
func (s stream) protocol() uint8 {
	if s.udp {
		return inet.ProtoUDP
	}
	return inet.ProtoTCP
}

// upper is the header above IP, without a checksum.
func (s stream) upper() []byte {
	h := make([]byte, 20, 60)
	binary.BigEndian.PutUint16(h[0:], 40000)
	binary.BigEndian.PutUint16(h[2:], 5201)
	if s.udp {
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(s.payload)))
		return h[:8]
	}
	binary.BigEndian.PutUint32(h[4:], s.seq)
	binary.BigEndian.PutUint32(h[8:], 0x01020304)
	h[12] = uint8(20+len(s.tcpOption)) / 4 << 4
	h[13] = s.flags
	binary.BigEndian.PutUint16(h[14:], 0x1234)
	return append(h, s.tcpOption...)
}

// frame builds the frame as the kernel would: one IP packet, its upper checksum partial.
func (s stream) frame() Frame {
	upper := s.upper()
	upperLen := len(upper) + len(s.payload)

	var p []byte
	h := VirtioHeader{Flags: NeedsChecksum, GSOSize: s.mss, ChecksumOffset: uint16(sumIn(s.protocol()))}
	if s.v6 {
		h.GSOType = GSOTCPv6
		p = make([]byte, 40)
		binary.BigEndian.PutUint32(p, 0x6b412345)
		binary.BigEndian.PutUint16(p[4:], uint16(len(s.ipOptions)+upperLen))
		p[6], p[7] = s.protocol(), 61
		copy(p[8:], "\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01")
		copy(p[24:], "\xfd\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02")
		if len(s.ipOptions) > 0 {
			p[6] = 0
		}
		p = append(p, s.ipOptions...)
	} else {
		h.GSOType = GSOTCPv4
		p = make([]byte, 20)
		p[0] = 0x40 | uint8(20+len(s.ipOptions))/4
		p[1] = 0x2e
		binary.BigEndian.PutUint16(p[2:], uint16(20+len(s.ipOptions)+upperLen))
		binary.BigEndian.PutUint16(p[4:], s.id)
		p[6] = 0x40
		p[8], p[9] = 63, s.protocol()
		copy(p[12:], []byte{192, 168, 1, 64, 192, 168, 1, 65})
		p = append(p, s.ipOptions...)
		binary.BigEndian.PutUint16(p[10:], ^sum16(p))
	}
	if s.udp {
		h.GSOType = GSOUDP
	} else if s.flags&0x80 != 0 {
		h.GSOType |= GSOECN
	}
	h.ChecksumStart = uint16(len(p))
	binary.BigEndian.PutUint16(upper[h.ChecksumOffset:], sum16(pseudo(p, s.protocol(), upperLen)))
	return Frame{Header: h, Packet: append(append(p, upper...), s.payload...)}
}

// sumIn is where a protocol has its checksum (RFC 9293, RFC 768).
func sumIn(protocol uint8) int {
	if protocol == inet.ProtoUDP {
		return 6
	}
	return 16
}

func drawStream(t *rapid.T) stream {
	s := stream{
		v6:        rapid.Bool().Draw(t, "v6"),
		flags:     rapid.SampledFrom([]uint8{0x10, 0x18, 0x19, 0x99, 0x90, 0x58}).Draw(t, "flags"),
		id:        rapid.Uint16().Draw(t, "id"),
		seq:       rapid.Uint32().Draw(t, "seq"),
		mss:       rapid.Uint16Range(1, 9000).Draw(t, "mss"),
		tcpOption: bytes.Repeat([]byte{1}, 4*rapid.IntRange(0, 10).Draw(t, "tcp option words")),
	}
	if rapid.Bool().Draw(t, "UDP") {
		s.udp, s.tcpOption, s.flags, s.seq = true, nil, 0, 0
	}
	n := rapid.IntRange(0, 200*int(s.mss)).Draw(t, "payload length")
	s.payload = make([]byte, min(n, 65000))
	x := rapid.Uint32().Draw(t, "payload seed")
	for i := range s.payload {
		x = x*1664525 + 1013904223
		s.payload[i] = byte(x >> 24)
	}
	if rapid.Bool().Draw(t, "IP options") {
		if s.v6 {
			s.ipOptions = []byte{testDestOptions, 0, 1, 4, 0, 0, 0, 0, inet.ProtoTCP, 1, 1, 12, 15: 0, 23: 0}
			s.ipOptions[8] = s.protocol()
		} else {
			s.ipOptions = bytes.Repeat([]byte{1}, 4*rapid.IntRange(1, 10).Draw(t, "IP option words"))
		}
	}
	return s
}

// checkPacket verifies one packet's lengths and checksums from scratch and returns its
// TCP or UDP part.
func checkPacket(t interface{ Fatalf(string, ...any) }, p []byte, protocol uint8, at int) []byte {
	upper := p[at:]
	if p[0]>>4 == 4 {
		if got := int(binary.BigEndian.Uint16(p[2:])); got != len(p) {
			t.Fatalf("IPv4 total length %d, packet has %d", got, len(p))
		}
		if s := sum16(p[:int(p[0]&15)*4]); s != 0xffff {
			t.Fatalf("IPv4 header checksum does not verify: %#x", s)
		}
	} else if got := int(binary.BigEndian.Uint16(p[4:])); got != len(p)-40 {
		t.Fatalf("IPv6 payload length %d, packet has %d", got, len(p)-40)
	}
	if s := sum16(pseudo(p, protocol, len(upper)), upper); s != 0xffff {
		t.Fatalf("checksum of protocol %d does not verify: %#x", protocol, s)
	}
	return upper
}

func TestSegmentsCarryTheStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawStream(t)
		f := in.frame()
		before := bytes.Clone(f.Packet)
		s, err := f.Segmenter()
		if err != nil {
			t.Fatalf("Segmenter: %v", err)
		}
		at := int(f.Header.ChecksumStart)
		upperLen := len(in.upper())
		if want := max(1, (len(in.payload)+int(in.mss)-1)/int(in.mss)); s.Count() != want {
			t.Fatalf("%d packets, want %d", s.Count(), want)
		}
		var got []byte
		for i := range s.Count() {
			p := bytes.Repeat([]byte{0xee}, s.Size(i)+1)
			if n := s.Write(p, i); n != s.Size(i) || p[n] != 0xee {
				t.Fatalf("packet %d: wrote %d bytes, Size %d", i, n, s.Size(i))
			}
			p = p[:len(p)-1]
			header, upper := make([]byte, at), make([]byte, len(p)-at)
			s.WriteSplit(header, upper, i)
			if !bytes.Equal(p, append(header, upper...)) {
				t.Fatalf("packet %d: WriteSplit differs from Write", i)
			}
			upper = checkPacket(t, p, in.protocol(), at)
			if !in.v6 {
				if id := binary.BigEndian.Uint16(p[4:]); id != in.id+uint16(i) {
					t.Fatalf("packet %d: ID %d, want %d", i, id, in.id+uint16(i))
				}
			}
			sameButFor(t, before[:at], p[:at], in.v6)
			payload := upper[upperLen:]
			got = append(got, payload...)
			if in.udp {
				if n := int(binary.BigEndian.Uint16(upper[4:])); n != 8+len(payload) || !bytes.Equal(upper[:4], before[at:at+4]) {
					t.Fatalf("packet %d: UDP header % x, payload of %d bytes", i, upper[:8], len(payload))
				}
				continue
			}
			tcp, sent := upper, len(got)-len(payload)
			if seq := binary.BigEndian.Uint32(tcp[4:]); seq != in.seq+uint32(sent) {
				t.Fatalf("packet %d: sequence number %d, want %d", i, seq, in.seq+uint32(sent))
			}
			want := in.flags
			if i > 0 {
				want &^= 0x80
			}
			if i < s.Count()-1 {
				want &^= 0x09
			}
			if tcp[13] != want {
				t.Fatalf("packet %d of %d: flags %#x, want %#x", i, s.Count(), tcp[13], want)
			}
			if !bytes.Equal(tcp[20:upperLen], in.tcpOption) || !bytes.Equal(tcp[:4], before[at:at+4]) ||
				!bytes.Equal(tcp[8:13], before[at+8:at+13]) || !bytes.Equal(tcp[14:16], before[at+14:at+16]) {
				t.Fatalf("packet %d: TCP header changed beyond sequence, flags and checksum", i)
			}
		}
		if !bytes.Equal(got, in.payload) {
			t.Fatalf("payloads do not add up to the stream: %d bytes, want %d", len(got), len(in.payload))
		}
		if !bytes.Equal(before, f.Packet) {
			t.Fatalf("the frame was changed")
		}
	})
}

// sameButFor checks that an IP header differs in length, ID and checksum only.
func sameButFor(t *rapid.T, want, got []byte, v6 bool) {
	want, got = bytes.Clone(want), bytes.Clone(got)
	for _, h := range [][]byte{want, got} {
		if v6 {
			clear(h[4:6])
		} else {
			clear(h[2:6])
			clear(h[10:12])
		}
	}
	if !bytes.Equal(want, got) {
		t.Fatalf("IP header changed:\n% x\n% x", want, got)
	}
}

func TestVerifiedFrameIsSplit(t *testing.T) {
	f := stream{payload: bytes.Repeat([]byte("ab"), 2000), mss: 1000, flags: 0x18}.frame()
	f.Header.Flags = DataValid
	copy(f.Packet[f.Header.ChecksumStart+16:], []byte{0xde, 0xad}) // not partial: no seed to use
	s, err := f.Segmenter()
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.Count() {
		p := make([]byte, s.Size(i))
		s.Write(p, i)
		checkPacket(t, p, inet.ProtoTCP, 20)
	}
}

// udpPacket is an IPv4 packet with a UDP checksum left partial.
func udpPacket(payload []byte) Frame {
	p := make([]byte, 28, 28+len(payload))
	p[0], p[8], p[9] = 0x45, 64, inet.ProtoUDP
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(payload)))
	copy(p[12:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(p[10:], ^sum16(p[:20]))
	binary.BigEndian.PutUint16(p[20:], 53)
	binary.BigEndian.PutUint16(p[22:], 53)
	binary.BigEndian.PutUint16(p[24:], uint16(8+len(payload)))
	binary.BigEndian.PutUint16(p[26:], sum16(pseudo(p, inet.ProtoUDP, 8+len(payload))))
	return Frame{
		Header: VirtioHeader{Flags: NeedsChecksum, ChecksumStart: 20, ChecksumOffset: 6},
		Packet: append(p, payload...),
	}
}

func TestWholePacketChecksum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := udpPacket(rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(t, "payload"))
		s, err := f.Segmenter()
		if err != nil {
			t.Fatalf("Segmenter: %v", err)
		}
		p := make([]byte, s.Size(0))
		s.Write(p, 0)
		if sum := sum16(pseudo(p, inet.ProtoUDP, len(p)-20), p[20:]); s.Count() != 1 || sum != 0xffff {
			t.Fatalf("%d packets, UDP checksum sums to %#x", s.Count(), sum)
		}
		if binary.BigEndian.Uint16(p[26:]) == 0 {
			t.Fatalf("UDP checksum 0 means none")
		}
		clear(p[26:28])
		clear(f.Packet[26:28])
		if !bytes.Equal(p, f.Packet) {
			t.Fatalf("packet changed beyond its checksum")
		}
	})
}

func TestUDPChecksumIsNeverZero(t *testing.T) {
	f := udpPacket([]byte{0, 0})
	binary.BigEndian.PutUint16(f.Packet[28:], ^sum16(f.Packet[20:])) // makes the sum 0xffff
	s, err := f.Segmenter()
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, s.Size(0))
	s.Write(p, 0)
	if got := binary.BigEndian.Uint16(p[26:]); got != 0xffff {
		t.Fatalf("checksum %#x, want 0xffff", got)
	}
}

func TestUntouchedPacket(t *testing.T) {
	f := udpPacket([]byte("hello"))
	f.Header = VirtioHeader{}
	want := bytes.Clone(f.Packet)
	f.Packet = append(f.Packet, "padding behind the IP length"...)
	s, err := f.Segmenter()
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, s.Size(0))
	if s.Write(p, 0); !bytes.Equal(p, want) {
		t.Fatalf("got % x\nwant % x", p, want)
	}
}

func TestBadFrames(t *testing.T) {
	good := stream{payload: make([]byte, 5000), mss: 1000, flags: 0x10}
	good6 := good
	good6.v6 = true
	for _, tt := range []struct {
		name   string
		in     stream
		damage func(*Frame)
		want   error // nil: any error
	}{
		{"segment size 0", good, func(f *Frame) { f.Header.GSOSize = 0 }, ErrGSOSize},
		{"UFO", good, func(f *Frame) { f.Header.GSOType = 3 }, ErrGSOType},
		{"UDP type", good, func(f *Frame) { f.Header.GSOType = GSOUDP }, ErrGSOType},
		{"unknown type", good, func(f *Frame) { f.Header.GSOType = 0x42 }, ErrGSOType},
		{"ECN alone", good, func(f *Frame) { f.Header.GSOType = GSOECN }, ErrGSOType},
		{"type of the other family", good, func(f *Frame) { f.Header.GSOType = GSOTCPv6 }, ErrGSOType},
		{"not TCP", good, func(f *Frame) { f.Packet[9] = inet.ProtoUDP }, ErrGSOType},
		{"fragment", good, func(f *Frame) { f.Packet[6] = 0x20 }, ErrGSOFragment},
		{"checksum start in the IP header", good, func(f *Frame) { f.Header.ChecksumStart = 10 }, ErrChecksumRange},
		{"checksum start beyond the packet", good, func(f *Frame) { f.Header.ChecksumStart = 60000 }, ErrChecksumRange},
		{"checksum offset of UDP", good, func(f *Frame) { f.Header.ChecksumOffset = 6 }, ErrChecksumRange},
		{"nobody vouches", good, func(f *Frame) { f.Header.Flags = 0 }, ErrGSOChecksum},
		{"whole, checksum start in the IP header", good, func(f *Frame) { f.Header.GSOType, f.Header.ChecksumStart = 0, 10 }, ErrChecksumRange},
		{"whole, checksum start beyond", good, func(f *Frame) { f.Header.GSOType, f.Header.ChecksumStart = 0, 0xffff }, ErrChecksumRange},
		{"whole, checksum field half beyond", good, func(f *Frame) { f.Header.GSOType, f.Header.ChecksumOffset = 0, 5019 }, ErrChecksumRange},
		{"TCP header cut", good, func(f *Frame) {
			f.Packet = f.Packet[:39]
			f.Packet[2], f.Packet[3] = 0, 39
		}, ErrUpperHeader},
		{"TCP data offset beyond", good, func(f *Frame) {
			f.Packet = f.Packet[:40]
			f.Packet[2], f.Packet[3] = 0, 40
			f.Packet[32] = 0xf0
		}, ErrUpperHeader},
		{"TCP data offset too small", good, func(f *Frame) { f.Packet[32] = 0x40 }, ErrUpperHeader},
		{"IPv6 jumbogram", good6, func(f *Frame) { f.Packet[4], f.Packet[5] = 0, 0 }, ErrJumbogram},
		{"IPv4 big TCP", good, func(f *Frame) { f.Packet[2], f.Packet[3] = 0, 0 }, ErrJumbogram},
		{"empty", good, func(f *Frame) { f.Packet = nil }, nil},
		{"neither family", good, func(f *Frame) { f.Packet[0] = 0x75 }, nil},
		{"shorter than its length", good, func(f *Frame) { f.Packet = f.Packet[:100] }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := tt.in.frame()
			tt.damage(&f)
			_, err := f.Segmenter()
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Fatalf("got error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestSegmentingAllocatesNothing(t *testing.T) {
	f := stream{v6: true, payload: make([]byte, 60000), mss: 1400, flags: 0x18}.frame()
	dst := make([]byte, 2000)
	if n := testing.AllocsPerRun(20, func() {
		s, err := f.Segmenter()
		if err != nil {
			t.Fatal(err)
		}
		for i := range s.Count() {
			s.Write(dst, i)
		}
	}); n != 0 {
		t.Fatalf("%v allocations a frame", n)
	}
}

func FuzzSegment(f *testing.F) {
	add := func(fr Frame) {
		b := make([]byte, HeaderLen)
		fr.Header.encode(b)
		f.Add(append(b, fr.Packet...))
	}
	add(stream{payload: make([]byte, 3000), mss: 1000, flags: 0x99}.frame())
	add(stream{v6: true, payload: make([]byte, 300), mss: 100, flags: 0x18}.frame())
	add(stream{v6: true, ipOptions: []byte{6, 0, 1, 4, 0, 0, 0, 0}, payload: make([]byte, 300), mss: 100}.frame())
	add(udpPacket([]byte("fuzz")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderLen || len(b) > BufferLen {
			return
		}
		fr := Frame{Packet: b[HeaderLen:]}
		fr.Header.decode(b)
		s, err := fr.Segmenter()
		if err != nil {
			return
		}
		payload := 0
		for i := range s.Count() {
			p := make([]byte, s.Size(i))
			s.Write(p, i)
			payload += len(p) - s.fixed
			h, err := inet.Parse(p)
			if err != nil || h.Total != len(p) || h.Len != s.Header().Len {
				t.Fatalf("packet %d of %d does not parse: %+v, %v", i, s.Count(), h, err)
			}
		}
		if want := s.Header().Total - s.fixed; payload != want {
			t.Fatalf("packets carry %d bytes of payload, frame %d", payload, want)
		}
	})
}
