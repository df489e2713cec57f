package verify

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"espalier/esp"
	"espalier/internal/inet"
	"espalier/internal/wire"
	"espalier/ipsec"
	"espalier/verdict"
	"espalier/xfrm"
)

func describe(f Flow) string {
	return fmt.Sprint(f.SA.SPI, " ", f.Src, " ", f.Dst, " ", f.Protocol, " ", f.SrcPort, " ", f.DstPort)
}

// ip is a packet with an upper layer of a protocol.
func ip(src, dst netip.Addr, proto byte, upper []byte) []byte {
	var b []byte
	if src.Is4() {
		b = append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}, src.AsSlice()...)
	} else {
		b = append([]byte{0x60, 0, 0, 0, 0, 0, proto, 64}, src.AsSlice()...)
	}
	b = append(append(b, dst.AsSlice()...), upper...)
	inet.SetLength(b)
	return b
}

// sender makes ESP as the SA of a flow does.
type sender struct {
	t   *testing.T
	out *esp.Outbound
	f   Flow
}

const firstSent = 100

func newSender(t *testing.T, esn bool, change ...func(*xfrm.State)) *sender {
	t.Helper()
	s := state(0x1000, a4, b4, change...)
	s.AEAD.Key = ipsec.RandomKey(36)
	if esn {
		s.Flags |= xfrm.FlagESN
		s.ReplayWindow = 64
	}
	s.Replay = &xfrm.ReplayState{OSeq: firstSent}
	if esn {
		s.Replay.OSeqHi = 1
	}
	sa := ipsec.SA{Src: a4, Dst: b4, SPI: s.SPI, Key: ipsec.NewKey(s.AEAD.Key.ExposeSecretBytes()), ICVBits: 128, ESN: esn, Window: s.ReplayWindow}
	sa.Counters.Sent = uint64(s.Replay.OSeqHi)<<32 | uint64(s.Replay.OSeq)
	out, err := esp.NewOutbound(&sa)
	if err != nil {
		t.Fatal(err)
	}
	return &sender{t, out, Flow{SA: s, Src: a4, Dst: b4, Protocol: inet.ProtoUDP, DstPort: discard}}
}

// first is the last number sent before the probes.
func (s *sender) first() uint64 { return uint64(s.f.SA.Replay.OSeqHi)<<32 | uint64(s.f.SA.Replay.OSeq) }

// probe is the next probe as it leaves by the SA.
func (s *sender) probe(tk token) []byte {
	s.t.Helper()
	udp := make([]byte, 8)
	binary.BigEndian.PutUint16(udp[2:], discard)
	udp = append(udp, tk.payload()...)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	seq, err := s.out.Reserve(1)
	if err != nil {
		s.t.Fatal(err)
	}
	pkt := make([]byte, s.out.Len(len(udp)))
	copy(pkt[esp.HeaderLen+esp.IVLen:], udp)
	s.out.Lay(pkt, len(udp), seq, inet.ProtoUDP)
	if err := s.out.Seal(new(esp.Batch), [][]byte{pkt}, seq); err != nil {
		s.t.Fatal(err)
	}
	return ip(a4, b4, inet.ProtoESP, pkt)
}

func TestTap(t *testing.T) {
	for _, esn := range []bool{false, true} {
		s := newSender(t, esn)
		tk := newToken()
		good := [][]byte{s.probe(tk), s.probe(tk), s.probe(tk)}
		lie := ip(a4, b4, inet.ProtoESP, s.f.controlPacket(s.first()+4))
		clearProbe := ip(a4, b4, inet.ProtoUDP, append(make([]byte, 8), tk.payload()...))
		leak := bytes.Clone(good[0])
		copy(leak[len(leak)-60:], tk[:])
		bent := bytes.Clone(good[1])
		bent[len(bent)-1] ^= 1
		twice := bytes.Clone(good[0])
		binary.BigEndian.PutUint32(twice[24:], uint32(s.first()+9)) // another number, the same IV
		old := bytes.Clone(good[0])
		binary.BigEndian.PutUint32(old[24:], uint32(s.first()))
		foreign := bytes.Clone(good[0])
		binary.BigEndian.PutUint32(foreign[20:], 0x1001)
		back := ip(b4, a4, inet.ProtoESP, good[0][20:])
		for _, c := range []struct {
			name    string
			packets [][]byte
			want    verdict.TapWord
		}{
			{"nothing", nil, verdict.TapWord{}},
			{"all in order", good, verdict.TapWord{ESP: 3, Opened: 3}},
			{"captured at two places", append(good[:3:3], good...), verdict.TapWord{ESP: 3, Opened: 3}},
			{"other traffic", [][]byte{old, foreign, back, {0x45}, ip(a4, b4, inet.ProtoUDP, make([]byte, 20)), good[0]}, verdict.TapWord{ESP: 1, Opened: 1}},
			{"a probe in clear", [][]byte{clearProbe}, verdict.TapWord{Readable: 1}},
			{"a probe in ESP that is none", [][]byte{leak}, verdict.TapWord{ESP: 1, Broken: 1, Readable: 1}},
			{"a bit of the ICV", [][]byte{good[0], bent}, verdict.TapWord{ESP: 2, Opened: 1, Broken: 1}},
			{"a packet without an ICV", [][]byte{lie}, verdict.TapWord{ESP: 1, Broken: 1}},
			{"a nonce twice", [][]byte{good[0], twice}, verdict.TapWord{ESP: 1, Opened: 1, Reused: 1}},
		} {
			tap := newTap(s.f, tk, s.first())
			for _, p := range c.packets {
				tap.packet(bytes.Clone(p), true)
			}
			if got, _ := tap.word(3, s.first()+3); got != c.want {
				t.Errorf("%s, ESN %v: %+v, want %+v", c.name, esn, got, c.want)
			}
		}
	}
}

// A tap has seen enough when as many packets as probes have come, up to the last one.
func TestTapEnough(t *testing.T) {
	s := newSender(t, false)
	tk := newToken()
	tap := newTap(s.f, tk, s.first())
	for i := range 3 {
		if _, done := tap.word(3, s.first()+3); done {
			t.Errorf("done after %d packets", i)
		}
		tap.packet(s.probe(tk), true)
	}
	if _, done := tap.word(3, s.first()+3); !done {
		t.Error("not done after 3 packets")
	}
	if _, done := tap.word(3, s.first()+4); done {
		t.Error("done before the last number has come")
	}
}

// Without the key, and under one that is not the SA's.
func TestTapKeys(t *testing.T) {
	s := newSender(t, false)
	tk := newToken()
	probe := s.probe(tk)
	for _, c := range []struct {
		name string
		key  ipsec.Key
		want verdict.TapWord
	}{
		{"withheld", ipsec.Key{}, verdict.TapWord{ESP: 1}},
		{"another", ipsec.RandomKey(36), verdict.TapWord{ESP: 1, Broken: 1}},
	} {
		s.f.SA.AEAD.Key = c.key
		s.f.SA.AEAD.KeyBits = 288
		tap := newTap(s.f, tk, s.first())
		tap.packet(bytes.Clone(probe), true)
		if got, _ := tap.word(1, 0); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// UDP encapsulation is ESP behind eight more bytes.
func TestTapEncapsulated(t *testing.T) {
	s := newSender(t, false, func(s *xfrm.State) { s.Encap = &xfrm.EncapTmpl{Type: xfrm.EncapESPInUDP, SrcPort: 4500, DstPort: 4500} })
	tk := newToken()
	data := s.probe(tk)[20:]
	udp := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, 4500), 4500)
	udp = append(binary.BigEndian.AppendUint16(udp, uint16(8+len(data))), 0, 0)
	tap := newTap(s.f, tk, s.first())
	tap.packet(ip(a4, b4, inet.ProtoUDP, append(udp, data...)), true)
	tap.packet(ip(a4, b4, inet.ProtoESP, data), true) // not the SA's
	if got, _ := tap.word(1, 0); got != (verdict.TapWord{ESP: 1, Opened: 1}) {
		t.Errorf("%+v", got)
	}
}

// A capture is followed while somebody writes it, also when it ends within a packet at first, and
// is done with when its reader is told so.
func TestCaptureGrows(t *testing.T) {
	s := newSender(t, false)
	tk := newToken()
	var whole bytes.Buffer
	w, err := wire.NewPcapWriter(&whole)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Write(time.Now(), s.probe(tk)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "capture")
	writer, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for name, f := range map[string]*os.File{"file": reader} {
		c, err := newCapture(f)
		if err != nil {
			t.Fatal(err)
		}
		tap := newTap(s.f, tk, s.first())
		ended := make(chan error, 1)
		go func() { ended <- tap.read(c) }()
		for piece := whole.Bytes(); len(piece) > 0; {
			n := min(50, len(piece))
			writer.Write(piece[:n])
			piece = piece[n:]
			time.Sleep(time.Millisecond)
		}
		for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(time.Millisecond) {
			if _, done := tap.word(2, s.first()+2); done {
				break
			}
		}
		c.end()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, done := tap.word(2, s.first()+2); !done || got != (verdict.TapWord{ESP: 2, Opened: 2}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A pipe whose writer has gone is at its end by itself.
func TestCapturePipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := newCapture(r)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("words"))
	w.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != "words" {
		t.Errorf("%q, %v", got, err)
	}
	r2, w2, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w2.Close()
	defer r2.Close()
	if c, err = newCapture(r2); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(2*glance, c.end)
	if got, err := io.ReadAll(c); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}

// The control packet has the form of ESP to the last byte: one that does not look at the ICV takes it.
func TestControlPacket(t *testing.T) {
	for _, c := range []struct {
		name     string
		src, dst netip.Addr
		tunnel   bool
		next     byte
	}{
		{"IPv4, transport", a4, b4, false, inet.ProtoUDP},
		{"IPv6, transport", a6, b6, false, inet.ProtoUDP},
		{"IPv4, tunnel", a4, b4, true, inet.ProtoIPIP},
		{"IPv6, tunnel", a6, b6, true, inet.ProtoIPv6},
	} {
		s := state(0x1000, c.src, c.dst)
		if c.tunnel {
			s.Mode = xfrm.ModeTunnel
		}
		f := Flow{SA: s, Src: c.src, Dst: c.dst}
		b := f.controlPacket(0x1_0000_0007)
		if binary.BigEndian.Uint32(b) != 0x1000 || binary.BigEndian.Uint32(b[4:]) != 7 || binary.BigEndian.Uint64(b[8:]) != 0x1_0000_0007 {
			t.Errorf("%s: begins with %x", c.name, b[:16])
		}
		if !bytes.Equal(b[len(b)-16:], make([]byte, 16)) || b[len(b)-17] != c.next {
			t.Errorf("%s: ends with %x", c.name, b[len(b)-18:])
		}
		padding := int(b[len(b)-18])
		inner := b[16 : len(b)-18-padding]
		for i, p := range b[len(b)-18-padding : len(b)-18] {
			if int(p) != i+1 {
				t.Errorf("%s: padding %x", c.name, p)
			}
		}
		if (len(b)-16-16)%4 != 0 {
			t.Errorf("%s: %d bytes are not a multiple of 4", c.name, len(b))
		}
		udp := inner
		if c.tunnel {
			h, err := inet.Parse(inner)
			if err != nil || h.Src != c.src || h.Dst != c.dst || h.Protocol != inet.ProtoUDP || h.Total != len(inner) {
				t.Errorf("%s: inner packet %+v, %v", c.name, h, err)
				continue
			}
			udp = inner[h.Len:]
		}
		if inet.Fold(inet.Sum(udp, inet.PseudoSum(c.src, c.dst, inet.ProtoUDP, len(udp)))) != 0 || !bytes.HasSuffix(udp, []byte(confession)) {
			t.Errorf("%s: UDP %x", c.name, udp)
		}
	}
}

func TestReceiptControl(t *testing.T) {
	before := Receipt{Packets: 10, Forged: 1, Replayed: 2, Highest: 10, Window: 64}
	const seq = 42
	for _, c := range []struct {
		name      string
		change    func(*Receipt)
		own, last uint64
		want      verdict.Control
	}{
		{"counted as forged", func(r *Receipt) { r.Forged++ }, 0, 10, verdict.ControlRefused},
		{"no trace", func(*Receipt) {}, 0, 10, verdict.ControlRefused},
		{"no trace, others came", func(r *Receipt) { r.Packets, r.Highest = 15, 15 }, 5, 15, verdict.ControlRefused},
		{"taken", func(r *Receipt) { r.Packets, r.Highest = 11, seq }, 0, 10, verdict.ControlTaken},
		{"traffic has overtaken it", func(r *Receipt) { r.Packets, r.Highest = 60, 60 }, 50, 60, verdict.ControlUnclear},
		{"seen before", func(r *Receipt) { r.Replayed++ }, 0, 10, verdict.ControlUnclear},
		{"no window, taken", func(r *Receipt) { r.Window, r.Packets = 0, 11 }, 0, 10, verdict.ControlTaken},
		{"no window, others came", func(r *Receipt) { r.Window, r.Packets = 0, 15 }, 5, 15, verdict.ControlRefused},
	} {
		after := before
		c.change(&after)
		if got := after.control(before, seq, c.own, c.last); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
