package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"espalier/esp"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
	"espalier/underlay"
)

// memory is a Wire that keeps what it gets.
type memory struct{ packets [][]byte }

func (m *memory) Send(packets [][]byte) (int, error) {
	for _, p := range packets {
		m.packets = append(m.packets, bytes.Clone(p))
	}
	return len(packets), nil
}

func (m *memory) SendUDP(msg *underlay.Message) error {
	_, err := m.Send(msg.Payloads)
	return err
}

// nowhere is a Wire that keeps nothing.
type nowhere struct{}

func (nowhere) Send(packets [][]byte) (int, error) { return len(packets), nil }
func (nowhere) SendUDP(*underlay.Message) error    { return nil }

// pathDevice is a device that has opened nothing, with n tunnels: each protects the traffic to one
// host by an SA of its own.
func pathDevice(t rapid.TB, n int, dir ipsec.Direction) *Device {
	t.Helper()
	d := newDevice(slog.New(slog.DiscardHandler))
	d.link.mtu.Store(9000)
	d.locals.replace(nil)
	for i := range n {
		sa := pathSA(i)
		sa.Direction = dir
		if _, err := d.sad.add(sa, nil, nil); err != nil {
			t.Fatal(err)
		}
		p := ipsec.Policy{
			Direction: dir, Action: ipsec.Protect,
			Selector:   ipsec.Selector{Dst: netip.PrefixFrom(pathHost(i), 32)},
			Processing: []ipsec.Processing{{Src: hostA, Dst: hostB, RequestID: uint32(i + 1), Mode: ipsec.Tunnel}},
		}
		if dir == ipsec.Inbound {
			p.Direction = ipsec.Forward
		}
		d.spd.put(d.spd.prepare(&p, nil), nil)
	}
	return d
}

func pathSA(i int) ipsec.SA {
	key := make([]byte, 20)
	binary.BigEndian.PutUint32(key, uint32(i))
	return ipsec.SA{
		Src: hostA, Dst: hostB, SPI: ipsec.SPI(0x1000 + i), RequestID: uint32(i + 1), Mode: ipsec.Tunnel,
		Key: ipsec.NewKey(key), ICVBits: 128, Window: 64, Direction: ipsec.Outbound,
	}
}

// pathHost is the host that the i-th tunnel leads to.
func pathHost(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// udpPacket is an IPv4 packet of so many bytes.
func udpPacket(dst netip.Addr, port uint16, size int) []byte {
	p := make([]byte, size)
	p[0], p[6], p[8], p[9] = 0x45, dfBit, 64, inet.ProtoUDP
	src, to := hostA.As4(), dst.As4()
	copy(p[12:], src[:])
	copy(p[16:], to[:])
	binary.BigEndian.PutUint16(p[20:], port)
	binary.BigEndian.PutUint16(p[22:], 7)
	binary.BigEndian.PutUint16(p[24:], uint16(size-20))
	inet.SetLength(p)
	return p
}

// udpFrames are n frames of size bytes, or of what sizes says if that is not nil.
func udpFrames(n, size int, to func(i int) netip.Addr, sizes func(i int) int) []tun.Frame {
	frames := make([]tun.Frame, n)
	for i := range frames {
		if sizes != nil {
			size = sizes(i)
		}
		frames[i].Packet = udpPacket(to(i), uint16(1000+i), size)
	}
	return frames
}

const pathBatch = 32

func BenchmarkOutboundPath(b *testing.B) {
	for _, tunnels := range []int{10, 1000} {
		d := pathDevice(b, tunnels, ipsec.Outbound)
		for _, c := range []struct {
			name string
			to   func(int) netip.Addr
		}{
			{"one SA", func(int) netip.Addr { return pathHost(7) }},
			{"all SAs", func(i int) netip.Addr { return pathHost(i * 7 % tunnels) }},
		} {
			for _, size := range []int{64, 1400} {
				b.Run(fmt.Sprintf("%d tunnels/%s/%d", tunnels, c.name, size), func(b *testing.B) {
					path := d.OutboundPath(nowhere{})
					frames := udpFrames(pathBatch, size, c.to, nil)
					b.SetBytes(int64(size * pathBatch))
					for b.Loop() {
						path(frames)
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*pathBatch), "ns/packet")
				})
			}
		}
	}
}

func BenchmarkInboundPath(b *testing.B) {
	d := pathDevice(b, 10, ipsec.Inbound)
	path := d.InboundPath(func(tun.VirtioHeader, []byte, int) {})
	sa := pathSA(7)
	out, err := esp.NewOutbound(&sa)
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{64, 1400} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			inner := udpPacket(pathHost(7), 1000, size)
			header := ipHeader(4, 0)
			datagrams := make([]underlay.Datagram, pathBatch)
			pkts := make([][]byte, pathBatch)
			for i := range datagrams {
				pkts[i] = make([]byte, out.Len(size))
				datagrams[i] = underlay.Datagram{Local: netip.AddrPortFrom(hostB, 0), Remote: netip.AddrPortFrom(hostA, 0), Header: header, ProtocolAt: 9, Payload: pkts[i]}
			}
			var batch esp.Batch
			b.SetBytes(int64(size * pathBatch))
			for b.Loop() { // sealing is part of the measurement
				first, err := out.Reserve(pathBatch)
				if err != nil {
					b.Fatal(err)
				}
				for i := range pkts {
					copy(pkts[i][esp.HeaderLen+esp.IVLen:], inner)
					out.Lay(pkts[i], size, first+uint64(i), inet.ProtoIPIP)
				}
				if err := out.Seal(&batch, pkts, first); err != nil {
					b.Fatal(err)
				}
				path(datagrams)
			}
			if a := d.sad.inbound(sa.ID()); a.packets.Load() < uint64(b.N*pathBatch) {
				b.Fatalf("%d packets came through", a.packets.Load())
			}
		})
	}
}
