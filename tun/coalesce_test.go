package tun

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"

	"espalier/internal/inet"
)

// written is what a Coalescer hands over.
type written struct {
	header  VirtioHeader
	packet  []byte
	packets int
}

// coalesce runs packets through a Coalescer. Each packet's buffer is overwritten afterwards:
// nothing may be kept of it.
func coalesce(t interface{ Fatal(...any) }, packets [][]byte) []written {
	var out []written
	c := NewCoalescer(true, func(h VirtioHeader, buf []byte, n int) {
		out = append(out, written{h, bytes.Clone(buf[HeaderLen:]), n})
	})
	for _, p := range packets {
		h, err := inet.Parse(p)
		if err != nil {
			t.Fatal(err)
		}
		buf := append(make([]byte, HeaderLen), p...)
		c.Add(buf, &h)
		clear(buf)
	}
	c.Flush()
	c.Flush() // has nothing left to write
	return out
}

// cut is what crosses the stack in the end: frames cut by the Segmenter, the rest as it is.
func cut(t interface{ Fatal(...any) }, frames []written) [][]byte {
	var out [][]byte
	for _, w := range frames {
		if w.header == (VirtioHeader{}) {
			out = append(out, w.packet)
			continue
		}
		f := Frame{Header: w.header, Packet: w.packet}
		s, err := f.Segmenter()
		if err != nil {
			t.Fatal(err)
		}
		if s.Count() != w.packets {
			t.Fatal("frame of", w.packets, "packets is cut into", s.Count())
		}
		for i := range s.Count() {
			p := make([]byte, s.Size(i))
			s.Write(p, i)
			out = append(out, p)
		}
	}
	return out
}

// segments are the packets of a stream, as they come off the wire.
func segments(t interface{ Fatal(...any) }, s stream) [][]byte {
	f := s.frame()
	seg, err := f.Segmenter()
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for i := range seg.Count() {
		p := make([]byte, seg.Size(i))
		seg.Write(p, i)
		out = append(out, p)
	}
	return out
}

func TestStreamBecomesOneFrame(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		s := stream{v6: v6, flags: tcpACK | tcpPSH, seq: 1<<32 - 5000, id: 65530, payload: bytes.Repeat([]byte("espalier"), 5000), mss: 1400,
			tcpOption: []byte{1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8}}
		packets := segments(t, s)
		frames := coalesce(t, packets)
		if len(frames) != 1 || frames[0].packets != len(packets) {
			t.Fatalf("v6 %v: %d packets became %d frames", v6, len(packets), len(frames))
		}
		want := s.frame()
		want.Header.HeaderLength = frames[0].header.HeaderLength // a hint
		if frames[0].header != want.Header || !bytes.Equal(frames[0].packet, want.Packet) {
			t.Errorf("v6 %v: the frame is not the one the packets were cut from", v6)
		}
	}
}

func TestDatagramsBecomeOneFrame(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		s := stream{udp: true, v6: v6, id: 65530, payload: bytes.Repeat([]byte("espalier"), 5000), mss: 1400}
		packets := segments(t, s)
		frames := coalesce(t, packets)
		want := s.frame()
		want.Header.HeaderLength = frames[0].header.HeaderLength // a hint
		if len(frames) != 1 || frames[0].packets != len(packets) || frames[0].header != want.Header || !bytes.Equal(frames[0].packet, want.Packet) {
			t.Errorf("v6 %v: %d packets became %d frames, the first %+v", v6, len(packets), len(frames), frames[0].header)
		}

		many := segments(t, stream{udp: true, v6: v6, payload: make([]byte, 100*200), mss: 100})
		for i, w := range coalesce(t, many) {
			if want := min(64, 200-64*i); w.packets != want {
				t.Errorf("v6 %v: frame %d of %d datagrams, want %d", v6, i, w.packets, want)
			}
		}
	}
}

// Each of these, alone, keeps two datagrams apart.
func TestDatagramsNeverJoined(t *testing.T) {
	for name, change := range map[string]func(first, second []byte){
		"source port":      func(_, p []byte) { p[20+1] ^= 1 },
		"destination port": func(_, p []byte) { p[20+3] ^= 1 },
		"protocol":         func(_, p []byte) { p[9] = 136 }, // UDP-Lite
		"length":           func(_, p []byte) { p[20+5]-- },
		"no checksum":      func(_, p []byte) { copy(p[20+6:], []byte{0, 0}) },
		"wrong checksum":   func(_, p []byte) { p[20+7] ^= 1 },
		"wrong before":     func(p, _ []byte) { p[30] ^= 1 },
		"TTL":              func(_, p []byte) { p[8]-- },
	} {
		packets := segments(t, stream{udp: true, payload: make([]byte, 200), mss: 100})
		if n := len(coalesce(t, packets)); n != 1 {
			t.Fatalf("control: %d frames", n)
		}
		change(packets[0], packets[1])
		inet.SetIPv4Checksum(packets[1])
		if name == "source port" || name == "destination port" || name == "length" { // sound otherwise
			upper := packets[1][20:]
			copy(upper[6:], []byte{0, 0})
			binary.BigEndian.PutUint16(upper[6:], ^sum16(pseudo(packets[1], inet.ProtoUDP, len(upper)), upper))
		}
		if n := len(coalesce(t, packets)); n != 2 {
			t.Errorf("%s: joined", name)
		}
	}
	packets := segments(t, stream{udp: true, payload: make([]byte, 200), mss: 100})
	frames := 0
	c := NewCoalescer(false, func(VirtioHeader, []byte, int) { frames++ })
	for _, p := range packets {
		h, err := inet.Parse(p)
		if err != nil {
			t.Fatal(err)
		}
		c.Add(append(make([]byte, HeaderLen), p...), &h)
	}
	if c.Flush(); frames != 2 {
		t.Error("joined for a kernel that does not take them")
	}
}

// Whatever comes, what the kernel gets is what came: the same packets, in the same order.
func TestCoalescingChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var packets [][]byte
		seq := rapid.Uint32().Draw(t, "seq")
		for range rapid.IntRange(1, 4).Draw(t, "bursts") {
			s := drawStream(t)
			s.seq = seq
			burst := segments(t, s)
			if rapid.Bool().Draw(t, "goes on") {
				seq += uint32(len(s.payload))
			}
			for _, p := range burst {
				switch rapid.IntRange(0, 9).Draw(t, "fate") {
				case 0: // lost
				case 1: // twice
					packets = append(packets, p, p)
				case 2: // changed anywhere, its checksums mended or not
					packets = append(packets, mutate(t, p))
				default:
					packets = append(packets, p)
				}
			}
		}
		frames := coalesce(t, packets)
		got := cut(t, frames)
		if len(got) != len(packets) {
			t.Fatalf("%d packets became %d", len(packets), len(got))
		}
		for i := range packets {
			if !bytes.Equal(sameID(got[i], packets[i]), packets[i]) {
				t.Fatalf("packet %d:\ncame %x\nleft %x", i, packets[i], got[i])
			}
		}
		// What is vouched for has been verified: the packets it came from were sound.
		at := 0
		for _, w := range frames {
			for _, p := range packets[at : at+w.packets] {
				if w.header.Flags&NeedsChecksum != 0 && !soundBySlowSum(p) {
					t.Fatalf("an unverified checksum was blessed: %x", p)
				}
			}
			at += w.packets
		}
	})
}

// sameID gives got the identification of came if DF says that it means nothing.
func sameID(got, came []byte) []byte {
	if got[0]>>4 != 4 || came[0]>>4 != 4 || came[6]&0x40 == 0 || len(got) != len(came) {
		return got
	}
	got = bytes.Clone(got)
	copy(got[4:6], came[4:6])
	copy(got[10:12], came[10:12])
	return got
}

func soundBySlowSum(p []byte) bool {
	h, err := inet.Parse(p)
	if err != nil {
		return false
	}
	if h.Version == 4 && sum16(p[:h.Len]) != 0xffff {
		return false
	}
	return sum16(pseudo(p, h.Protocol, len(p)-h.Len), p[h.Len:]) == 0xffff
}

// mutate changes one byte of a packet, and mends the checksums in half of the cases: then it is
// a sound packet that differs in one thing.
func mutate(t *rapid.T, p []byte) []byte {
	p = bytes.Clone(p)
	h, err := inet.Parse(p)
	if err != nil {
		t.Fatal(err)
	}
	at := rapid.IntRange(0, len(p)-1).Draw(t, "at")
	if rapid.Bool().Draw(t, "in the headers") {
		at = rapid.IntRange(0, min(h.Len+19, len(p)-1)).Draw(t, "at")
	}
	was := p[at]
	p[at] ^= byte(1 << rapid.IntRange(0, 7).Draw(t, "bit"))
	now, err := inet.Parse(p)
	if err != nil || now.Total != len(p) || now.Len != h.Len || now.Protocol != h.Protocol {
		p[at] = was
		return p
	}
	if rapid.Bool().Draw(t, "mend") {
		if now.Version == 4 {
			inet.SetIPv4Checksum(p)
		}
		upper := p[now.Len:]
		sum := upper[sumIn(h.Protocol):][:2]
		clear(sum)
		binary.BigEndian.PutUint16(sum, ^sum16(pseudo(p, h.Protocol, len(upper)), upper))
	}
	return p
}

// Each of these, alone, keeps two packets apart.
func TestNeverJoined(t *testing.T) {
	base := func(v6 bool) [][]byte {
		return segments(t, stream{v6: v6, flags: tcpACK, payload: make([]byte, 200), mss: 100, id: 7, tcpOption: []byte{1, 1, 1, 1}})
	}
	type change struct {
		at, v6at int // -1: not in this family
		bit      byte
	}
	tcp := func(off int, bit byte) change { return change{20 + off, 40 + off, bit} }
	for name, c := range map[string]change{
		"TOS": {1, 1, 0x20}, "ECN": {1, 1, 0x10}, "TTL": {8, 7, 1}, "DF": {6, -1, 0x40}, "flow label": {-1, 3, 1},
		"identification": {4, -1, 1}, "source": {15, 23, 1}, "destination": {19, 39, 1},
		"source port": tcp(1, 1), "destination port": tcp(3, 1), "sequence number": tcp(7, 1), "acknowledgement": tcp(11, 1),
		"window": tcp(15, 1), "urgent pointer": tcp(19, 1), "option": tcp(21, 1), "reserved": tcp(12, 1),
		"FIN": tcp(13, 1), "SYN": tcp(13, 2), "RST": tcp(13, 4), "no ACK": tcp(13, 16), "URG": tcp(13, 32), "ECE": tcp(13, 64), "CWR": tcp(13, 128),
	} {
		for _, v6 := range []bool{false, true} {
			at := c.at
			if v6 {
				at = c.v6at
			}
			if at < 0 {
				continue
			}
			packets := base(v6)
			if n := len(coalesce(t, packets)); n != 1 {
				t.Fatalf("control: %d frames", n)
			}
			p := packets[1]
			p[at] ^= c.bit
			h, err := inet.Parse(p)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !v6 {
				inet.SetIPv4Checksum(p)
			}
			copy(p[h.Len+16:], []byte{0, 0})
			binary.BigEndian.PutUint16(p[h.Len+16:], ^sum16(pseudo(p, inet.ProtoTCP, len(p)-h.Len), p[h.Len:]))
			if n := len(coalesce(t, packets)); n != 2 {
				t.Errorf("%s, v6 %v: joined", name, v6)
			}
		}
	}
}

func TestCoalescingAllocatesNothing(t *testing.T) {
	packets := segments(t, stream{flags: tcpACK, payload: make([]byte, 60000), mss: 1400})
	var bufs [][]byte
	var headers []inet.Header
	for _, p := range packets {
		h, err := inet.Parse(p)
		if err != nil {
			t.Fatal(err)
		}
		bufs, headers = append(bufs, append(make([]byte, HeaderLen), p...)), append(headers, h)
	}
	c := NewCoalescer(true, func(VirtioHeader, []byte, int) {})
	if n := testing.AllocsPerRun(100, func() {
		for i := range bufs {
			c.Add(bufs[i], &headers[i])
		}
		c.Flush()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
