package dataplane

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
	"espalier/underlay"
)

// pathForm is one way of carrying packets by an SA.
type pathForm struct {
	mode           ipsec.Mode
	outer6, inner6 bool
	udp            bool
	keyBits, icv   int
}

func drawForm(t *rapid.T) pathForm {
	f := pathForm{
		mode:   rapid.SampledFrom([]ipsec.Mode{ipsec.Transport, ipsec.Tunnel}).Draw(t, "mode"),
		outer6: rapid.Bool().Draw(t, "outer IPv6"), inner6: rapid.Bool().Draw(t, "inner IPv6"), udp: rapid.Bool().Draw(t, "UDP"),
		keyBits: rapid.SampledFrom([]int{128, 192, 256}).Draw(t, "key"), icv: rapid.SampledFrom([]int{64, 96, 128}).Draw(t, "ICV"),
	}
	if f.mode == ipsec.Transport {
		f.inner6 = f.outer6
	}
	return f
}

var (
	hostA6 = netip.MustParseAddr("2001:db8::1")
	hostB6 = netip.MustParseAddr("2001:db8::2")
)

func pair(v6 bool) (a, b netip.Addr) {
	if v6 {
		return hostA6, hostB6
	}
	return hostA, hostB
}

// formDevice is a device with an SA of a form, and the policy that sends everything by it; behind an
// underlay with this MTU.
func formDevice(t rapid.TB, f pathForm, mtu int) (*Device, *association) {
	t.Helper()
	d := pathDevice(t, 0, ipsec.Outbound)
	d.link.mtu.Store(int64(mtu))
	sa := ipsec.SA{SPI: 0x1000, RequestID: 1, Mode: f.mode, Key: ipsec.NewKey(make([]byte, f.keyBits/8+4)), ICVBits: f.icv, Direction: ipsec.Outbound}
	sa.Src, sa.Dst = pair(f.outer6)
	if f.udp {
		sa.Encap = &ipsec.Encap{SrcPort: 4500, DstPort: 4501}
		d.udp.ports = map[udpPort]*udpSocket{{v6: f.outer6, port: 4500}: {}}
	}
	a, err := d.sad.add(sa, d.encapsulationOf(&sa), nil)
	if err != nil {
		t.Fatal(err)
	}
	d.spd.put(d.spd.prepare(&ipsec.Policy{
		Direction: ipsec.Outbound, Action: ipsec.Protect,
		Processing: []ipsec.Processing{{Src: sa.Src, Dst: sa.Dst, RequestID: 1, Mode: f.mode}},
	}, nil), nil)
	return d, a
}

// plain is an IP packet of so many bytes without ports.
func plain(v6 bool, size int, df bool) []byte {
	p := make([]byte, size)
	src, dst := pair(v6)
	if v6 {
		p[0], p[6], p[7] = 0x60, inet.ProtoNone, 64
		copy(p[8:], src.AsSlice())
		copy(p[24:], dst.AsSlice())
	} else {
		p[0], p[8], p[9] = 0x45, 64, inet.ProtoNone
		if df {
			p[6] = dfBit
		}
		copy(p[12:], src.AsSlice())
		copy(p[16:], dst.AsSlice())
	}
	inet.SetLength(p)
	return p
}

// recorder is a Wire that keeps the sizes on the wire, IP header included.
type recorder struct {
	sizes  []int
	whole  [][]byte
	mayCut bool // what went by UDP
}

func (r *recorder) Send(packets [][]byte) (int, error) {
	for _, p := range packets {
		r.sizes = append(r.sizes, len(p))
		r.whole = append(r.whole, slices.Clone(p))
	}
	return len(packets), nil
}

func (r *recorder) SendUDP(m *underlay.Message) error {
	r.mayCut = !m.DontFragment
	for _, p := range m.Payloads {
		n := 20
		if m.Dst.Addr().Is6() {
			n = 40
		}
		r.sizes = append(r.sizes, n+8+len(p))
	}
	return nil
}

// What an ICMP message tells is exact: a packet of that size is sent and no longer than the path takes,
// one with a byte more is refused again. All forms, families, keys and ICVs.
func TestToldMTUFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawForm(t)
		least := minPathMTU6
		if !f.outer6 {
			least = minPathMTU4
		}
		mtu := rapid.IntRange(least, 9100).Draw(t, "path MTU")
		d, a := formDevice(t, f, 9200)
		o, wire := newOutbound(d, nil), new(recorder)
		o.wire = wire
		var answers [][]byte
		o.answer = func(_ tun.VirtioHeader, buf []byte, _ int) {
			answers = append(answers, slices.Clone(buf[tun.HeaderLen:]))
		}
		d.closerLook(a, 0)
		d.lower(a, mtu, netip.Addr{})

		send := func(size int) {
			wire.sizes, answers = nil, nil
			o.handle([]tun.Frame{{Packet: plain(f.inner6, size, true)}})
		}
		send(9199)
		if len(wire.sizes) != 0 || len(answers) != 1 {
			t.Fatalf("too long: %d bytes sent, %d answers", wire.sizes, len(answers))
		}
		told := toldMTU(t, answers[0])
		send(told)
		inFragments := f.inner6 && told == minTUNMTU // IPv6 is not told of less
		if len(answers) != 0 || len(wire.sizes) == 0 || len(wire.sizes) > 1 && !inFragments {
			t.Fatalf("told %d of %d: %d sent, %d answers", told, mtu, wire.sizes, len(answers))
		}
		for _, size := range wire.sizes {
			if size > mtu {
				t.Fatalf("%d bytes over a path of %d", size, mtu)
			}
		}
		send(told + 1)
		if len(wire.sizes) != 0 || len(answers) != 1 || toldMTU(t, answers[0]) != told {
			t.Fatalf("told %d of %d, and one more is sent: %d", told, mtu, wire.sizes)
		}
	})
}

// toldMTU reads an ICMP message as a host does, and judges it.
func toldMTU(t rapid.TB, pkt []byte) int {
	t.Helper()
	h, err := inet.Parse(pkt)
	if err != nil || h.Total != len(pkt) {
		t.Fatalf("message: %v", err)
	}
	msg := pkt[h.Len:]
	if h.Version == 4 {
		if inet.Fold(inet.Sum(pkt[:20], 0)) != 0 || inet.Fold(inet.Sum(msg, 0)) != 0 {
			t.Fatal("checksum")
		}
		if h.Protocol != inet.ProtoICMP || msg[0] != 3 || msg[1] != 4 || len(pkt) > 576 {
			t.Fatalf("%d bytes of %x", len(pkt), msg[:8])
		}
		return int(binary.BigEndian.Uint16(msg[6:]))
	}
	if inet.Fold(inet.Sum(msg, inet.PseudoSum(h.Src, h.Dst, inet.ProtoICMPv6, len(msg)))) != 0 {
		t.Fatal("checksum")
	}
	if h.Protocol != inet.ProtoICMPv6 || msg[0] != 2 || msg[1] != 0 || len(pkt) > 1280 {
		t.Fatalf("%d bytes of %x", len(pkt), msg[:8])
	}
	return int(binary.BigEndian.Uint32(msg[4:]))
}

// What may be cut is sent, whatever its size, in outer packets that the path takes; put together again
// they are one ESP packet, in UDP if that is the form.
func TestCutOutside(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawForm(t)
		least, longest := minPathMTU4, 9000
		if f.outer6 {
			least = minPathMTU6
		}
		if f.inner6 {
			longest = minTUNMTU
		}
		mtu := rapid.IntRange(least, 1500).Draw(t, "path MTU")
		size := rapid.IntRange(60, longest).Draw(t, "size")
		d, a := formDevice(t, f, 9200)
		o, wire := newOutbound(d, nil), new(recorder)
		o.wire = wire
		d.closerLook(a, 0)
		d.lower(a, mtu, netip.Addr{})
		o.handle([]tun.Frame{{Packet: plain(f.inner6, size, false)}})
		var whole inet.Reassembler
		for i, n := range wire.sizes {
			if n > mtu {
				t.Fatalf("%d bytes over a path of %d", n, mtu)
			}
			if len(wire.whole) == 0 || len(wire.sizes) == 1 {
				continue
			}
			h, err := inet.Parse(wire.whole[i])
			if err != nil {
				t.Fatal(err)
			}
			pkt, err := whole.Add(wire.whole[i], &h, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if (pkt != nil) != (i == len(wire.sizes)-1) {
				t.Fatalf("whole after %d of %d", i+1, len(wire.sizes))
			}
			if pkt != nil {
				wantCarried(t, f, a, pkt, size)
			}
		}
		if len(wire.sizes) == 0 || d.drops[OutTooBig].Load() > 0 {
			t.Fatalf("nothing sent; %d too big", d.drops[OutTooBig].Load())
		}
	})
}

// wantCarried wants an outer packet around size bytes of an inner one.
func wantCarried(t rapid.TB, f pathForm, a *association, pkt []byte, size int) {
	t.Helper()
	h, err := inet.Parse(pkt)
	if err != nil {
		t.Fatal(err)
	}
	proto, text := uint8(inet.ProtoESP), pkt[h.Len:h.Total]
	if f.udp {
		proto = inet.ProtoUDP
		if h.SrcPort != 4500 || h.DstPort != 4501 || int(binary.BigEndian.Uint16(text[4:])) != len(text) {
			t.Fatalf("UDP header %x", text[:8])
		}
		if f.outer6 && inet.Fold(inet.Sum(text, inet.PseudoSum(h.Src, h.Dst, inet.ProtoUDP, len(text)))) != 0 {
			t.Fatal("UDP checksum")
		}
		text = text[8:]
	}
	if f.mode == ipsec.Transport {
		size -= h.Len
	}
	if h.Protocol != proto || h.Src != a.sa.Src || h.Dst != a.sa.Dst || binary.BigEndian.Uint32(text) != 0x1000 || len(text) != a.out.Len(size) {
		t.Fatalf("%+v with %d bytes of ESP, want %d", h, len(text), a.out.Len(size))
	}
}

// The TUN's MTU is what every SA carries in packets that the underlay takes, and no less than that: what
// fills it up leaves by the worst of SAs in packets of the underlay's MTU, but for padding.
func TestTUNMTUIsExact(t *testing.T) {
	worst := pathForm{mode: ipsec.Tunnel, outer6: true, udp: true, keyBits: 256, icv: 128}
	for mtu := minTUNMTU + maxOverhead; mtu < minTUNMTU+maxOverhead+200; mtu++ {
		_, a := formDevice(t, worst, mtu)
		inner := inet.Header{Version: 4, Len: inet.IPv4Len}
		longest := longestInner(a, &inner, mtu)
		if n := tunMTU(mtu); n > longest || n <= longest-4 {
			t.Errorf("MTU %d: the TUN has %d, %d fit", mtu, n, longest)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		f := drawForm(t)
		mtu := rapid.IntRange(minTUNMTU+maxOverhead, 9200).Draw(t, "MTU")
		_, a := formDevice(t, f, mtu)
		inner := inet.Header{Version: 4, Len: inet.IPv4Len}
		if f.inner6 {
			inner = inet.Header{Version: 6, Len: inet.IPv6Len}
		}
		if n := longestInner(a, &inner, mtu); n < tunMTU(mtu) {
			t.Fatalf("%d fit, the TUN has %d", n, tunMTU(mtu))
		}
	})
}
