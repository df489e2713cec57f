package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"espalier/esp"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
	"espalier/underlay"
)

// A batch of frames of several SAs, mixed: every packet of an SA leaves in the order of its numbers,
// and the packets of a flow in the order in which they came.
func TestOutboundBatch(t *testing.T) {
	const tunnels, frames = 5, 64
	d := pathDevice(t, tunnels, ipsec.Outbound)
	wire := new(memory)
	o := newOutbound(d, wire)
	var want [tunnels][][]byte
	for range 3 {
		batch := udpFrames(frames, 0, func(i int) netip.Addr { return pathHost(i * i % tunnels) }, func(i int) int { return 60 + i*37%1400 })
		for i := range batch {
			to := i * i % tunnels
			if i%7 == 3 { // three segments of 100 bytes, and one of 50
				batch[i] = tcpFrame(pathHost(to), 350, 100)
				seg, err := batch[i].Segmenter()
				if err != nil {
					t.Fatal(err)
				}
				for k := range seg.Count() {
					p := make([]byte, seg.Size(k))
					seg.Write(p, k)
					want[to] = append(want[to], p)
				}
				continue
			}
			want[to] = append(want[to], bytes.Clone(batch[i].Packet))
		}
		o.handle(batch)
	}
	var got [tunnels][][]byte
	for i := range tunnels {
		sa := pathSA(i)
		sa.Direction = ipsec.Inbound
		in, err := esp.NewInbound(&sa)
		if err != nil {
			t.Fatal(err)
		}
		last := uint64(0)
		for _, p := range wire.packets {
			h, err := inet.Parse(p)
			if err != nil || h.Protocol != inet.ProtoESP || h.Total != len(p) || h.Dst != hostB || inet.Fold(inet.Sum(p[:h.Len], 0)) != 0 {
				t.Fatalf("header %+v: %v", h, err)
			}
			if binary.BigEndian.Uint32(p[h.Len:]) != uint32(sa.SPI) {
				continue
			}
			received := []esp.Packet{{Data: bytes.Clone(p[h.Len:])}}
			in.Open(new(esp.Batch), received)
			if received[0].Err != nil || received[0].Seq != last+1 {
				t.Fatalf("tunnel %d: number %d after %d: %v", i, received[0].Seq, last, received[0].Err)
			}
			last++
			got[i] = append(got[i], received[0].Payload)
		}
		if !slices.EqualFunc(got[i], want[i], bytes.Equal) {
			t.Errorf("tunnel %d: %d packets left, want these %d in their order", i, len(got[i]), len(want[i]))
		}
		if a := d.sad.inbound(sa.ID()); a.packets.Load() != uint64(len(want[i])) {
			t.Errorf("tunnel %d: %d packets counted, want %d", i, a.packets.Load(), len(want[i]))
		}
	}
}

// tcpFrame is a TCP frame to be cut into segments of mss bytes.
func tcpFrame(dst netip.Addr, payload, mss int) tun.Frame {
	p := udpPacket(dst, 1000, 40+payload)
	p[9] = inet.ProtoTCP
	p[20+12], p[20+13] = 5<<4, 0x10
	inet.SetLength(p)
	for i := range payload {
		p[40+i] = byte(i)
	}
	src, to := hostA.As4(), dst.As4()
	sum := inet.Sum(to[:], inet.Sum(src[:], uint64(inet.ProtoTCP)+uint64(20+payload)))
	binary.BigEndian.PutUint16(p[20+16:], ^inet.Fold(sum))
	return tun.Frame{
		Header: tun.VirtioHeader{Flags: tun.NeedsChecksum, GSOType: tun.GSOTCPv4, GSOSize: uint16(mss), ChecksumStart: 20, ChecksumOffset: 16},
		Packet: p,
	}
}

// One frame of a batch that is refused has no influence on the others.
func TestOutboundBatchWithDrops(t *testing.T) {
	d := pathDevice(t, 2, ipsec.Outbound)
	wire := new(memory)
	frames := udpFrames(6, 100, func(i int) netip.Addr { return pathHost(i % 2) }, nil)
	frames[1].Packet = frames[1].Packet[:30]                                // shorter than it says
	frames[2].Packet = udpPacket(netip.MustParseAddr("172.16.0.1"), 7, 100) // no policy: bypassed
	frames[4].Packet = udpPacket(pathHost(0), 7, 9000-20)                   // too long with ESP
	path := d.OutboundPath(wire)
	path(frames)
	protocols := map[byte]int{}
	for _, p := range wire.packets {
		protocols[p[9]]++
	}
	if protocols[inet.ProtoESP] != 3 || protocols[inet.ProtoUDP] != 1 || d.drops[OutMalformed].Load() != 1 || d.drops[OutTooBig].Load() != 1 {
		t.Errorf("sent %v, malformed %d, too big %d", protocols, d.drops[OutMalformed].Load(), d.drops[OutTooBig].Load())
	}
}

// A batch stops where a limit says so, and no frame further.
func TestOutboundLimits(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits ipsec.Limits
		passed uint64
	}{
		{"none", ipsec.Limits{}, 10},
		{"packets, in the middle of a batch", ipsec.Limits{HardPackets: 6}, 6},
		{"packets, not reached", ipsec.Limits{HardPackets: 10}, 10},
		{"bytes", ipsec.Limits{HardBytes: 250}, 3},
	} {
		d := pathDevice(t, 1, ipsec.Outbound)
		sa := pathSA(0)
		d.sad.inbound(sa.ID()).start(c.limits)
		wire := new(memory)
		newOutbound(d, wire).handle(udpFrames(10, 100, func(int) netip.Addr { return pathHost(0) }, nil))
		if n := uint64(len(wire.packets)); n != c.passed || d.drops[OutExpired].Load() != 10-c.passed {
			t.Errorf("%s: %d passed and %d expired, want %d to pass", c.name, n, d.drops[OutExpired].Load(), c.passed)
		}
	}
}

// A batch of packets of several SAs, mixed and some of them bad: of each SA all good ones are
// delivered in their order.
func TestInboundBatch(t *testing.T) {
	const tunnels, each = 3, 10
	d := pathDevice(t, tunnels, ipsec.Inbound)
	var datagrams []underlay.Datagram
	var want [tunnels][][]byte
	for i := range tunnels {
		datagrams = append(datagrams, tunnelled(t, i, each, 80)...)
	}
	slices.SortStableFunc(datagrams, func(a, b underlay.Datagram) int { // by number, of all tunnels in turn
		return bytes.Compare(a.Payload[4:8], b.Payload[4:8])
	})
	for i := range datagrams {
		to := int(binary.BigEndian.Uint32(datagrams[i].Payload)) - int(pathSA(0).SPI)
		if i%11 == 5 {
			datagrams[i].Payload[40] ^= 1
			continue
		}
		want[to] = append(want[to], udpPacket(pathHost(to), uint16(i/tunnels), 80))
	}
	var got [tunnels][][]byte
	path := d.InboundPath(func(_ tun.VirtioHeader, buf []byte, n int) {
		pkt := bytes.Clone(buf[tun.HeaderLen:])
		to := int(pkt[19])
		got[to] = append(got[to], pkt)
	})
	path(datagrams)
	for i := range tunnels {
		if !slices.EqualFunc(got[i], want[i], bytes.Equal) {
			t.Errorf("tunnel %d: %d packets delivered, want these %d in their order", i, len(got[i]), len(want[i]))
		}
	}
	if bad := d.drops[InIntegrity].Load(); bad != 3 {
		t.Errorf("%d packets without integrity, want 3", bad)
	}
}

// tunnelled is what the peer of the i-th tunnel sends: n UDP datagrams, the k-th from port k.
func tunnelled(t *testing.T, i, n, size int) []underlay.Datagram {
	t.Helper()
	inner := make([][]byte, n)
	for k := range inner {
		inner[k] = udpPacket(pathHost(i), uint16(k), size)
	}
	return sealedBy(t, i, inner)
}

// sealedBy is what the peer of the i-th tunnel sends with these packets inside.
func sealedBy(t *testing.T, i int, inner [][]byte) []underlay.Datagram {
	t.Helper()
	return sealAll(t, pathSA(i), inner, inet.ProtoIPIP, ipHeader(4, 0))
}

func TestPathAllocatesNothing(t *testing.T) {
	d := pathDevice(t, 3, ipsec.Outbound)
	frames := udpFrames(32, 100, func(i int) netip.Addr { return pathHost(i % 3) }, nil)
	out := d.OutboundPath(nowhere{})
	out(frames)
	if n := testing.AllocsPerRun(100, func() { out(frames) }); n != 0 {
		t.Errorf("outbound: %v allocations a batch", n)
	}
	const runs = 20
	d = pathDevice(t, 1, ipsec.Inbound)
	datagrams := tunnelled(t, 0, 32*(runs+2), 100)
	delivered := 0
	in := d.InboundPath(func(_ tun.VirtioHeader, _ []byte, n int) { delivered += n })
	next := func() {
		in(datagrams[:32])
		datagrams = datagrams[32:]
	}
	next()
	if n := testing.AllocsPerRun(runs, next); n != 0 {
		t.Errorf("inbound: %v allocations a batch", n)
	}
	if delivered != 32*(runs+2) {
		t.Errorf("%d packets delivered", delivered)
	}
}
