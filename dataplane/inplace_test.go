package dataplane

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
	"espalier/underlay"
)

// receivingDevice has inbound SAs 0x100, 0x101, … of transport mode.
func receivingDevice(t rapid.TB, sas int, udp bool, peer, host netip.Addr) *Device {
	t.Helper()
	d := newDevice(nil)
	d.locals.replace(nil)
	for i := range sas {
		sa := testSA(ipsec.SPI(0x100 + i))
		sa.Src, sa.Dst, sa.Direction = peer, host, ipsec.Inbound
		var e *encapsulation
		if udp {
			sa.Encap = &ipsec.Encap{SrcPort: 4500, DstPort: 4500}
			e = d.encapsulationOf(&sa)
		}
		if _, err := d.sad.add(sa, e, nil); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// lay puts datagrams into one buffer as a GRO packet has them, after some room.
func lay(datagrams []underlay.Datagram, room int) {
	buffer := make([]byte, room)
	for _, dg := range datagrams {
		buffer = append(buffer, dg.Payload...)
	}
	at := room
	for i := range datagrams {
		dg := &datagrams[i]
		end := at + len(dg.Payload)
		dg.Buffer, dg.At, dg.Follows, dg.Payload = buffer, at, i > 0, buffer[at:end:end]
		at = end
	}
}

// layWhole puts a datagram behind its header, as it comes by a packet socket.
func layWhole(dg *underlay.Datagram) {
	n := len(dg.Header)
	buffer := append(bytes.Clone(dg.Header), dg.Payload...)
	dg.Buffer, dg.At, dg.Header, dg.Payload = buffer, n, buffer[:n:n], buffer[n:]
}

// However datagrams lie in memory, what is delivered is the same as of datagrams that lie alone.
func TestInPlace(t *testing.T) {
	inPlace := 0
	rapid.Check(t, func(t *rapid.T) {
		udp, v6 := rapid.Bool().Draw(t, "udp"), rapid.Bool().Draw(t, "v6")
		peer, host := hostA, hostB
		if v6 {
			peer, host = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
		}
		sas := rapid.IntRange(1, 3).Draw(t, "SAs")
		size := rapid.IntRange(1, 200).Draw(t, "size")
		header, at := outerHeader(peer, host)
		queues := make([][]underlay.Datagram, sas)
		for i := range queues {
			sa := testSA(ipsec.SPI(0x100 + i))
			sa.Src, sa.Dst, sa.Direction, sa.Window = peer, host, ipsec.Outbound, 0
			var segments [][]byte
			for j := range 8 {
				segments = append(segments, segment(peer, host, inet.ProtoTCP, bytes.Repeat([]byte{byte(16*i + j)}, size)))
			}
			queues[i] = sealAll(t, sa, segments, inet.ProtoTCP, header)
		}
		var plain, laid []underlay.Datagram
		for range rapid.IntRange(1, 8).Draw(t, "packets") {
			q := &queues[rapid.IntRange(0, sas-1).Draw(t, "SA")]
			if len(*q) == 0 {
				continue
			}
			dg := (*q)[0]
			*q = (*q)[1:]
			dg.ProtocolAt, dg.Local, dg.Remote = at, netip.AddrPortFrom(host, 4500), netip.AddrPortFrom(peer, 4500)
			if rapid.IntRange(0, 3).Draw(t, "spoil") == 0 {
				dg.Payload[len(dg.Payload)-1] ^= 1
			}
			plain = append(plain, dg)
			dg.Payload = bytes.Clone(dg.Payload)
			laid = append(laid, dg)
		}
		if udp {
			lay(laid, rapid.SampledFrom([]int{0, 13, 14, 33, 34, 128}).Draw(t, "room"))
		} else {
			for i := range laid {
				layWhole(&laid[i])
			}
		}
		cut := rapid.IntRange(0, len(plain)).Draw(t, "cut")
		run := func(datagrams []underlay.Datagram) (got []string) {
			d := receivingDevice(t, sas, udp, peer, host)
			in := newInbound(d, udp, func(h tun.VirtioHeader, buf []byte, n int) {
				got = append(got, fmt.Sprintf("%d %+v %x", n, h, buf[tun.HeaderLen:]))
			})
			in.handle(datagrams[:cut])
			in.handle(datagrams[cut:])
			in.tun.Flush()
			if datagrams[0].Buffer != nil && in.arena == nil {
				inPlace++
			}
			return append(got, fmt.Sprint(dropped(d)))
		}
		if len(plain) == 0 {
			return
		}
		want, got := run(plain), run(laid)
		if fmt.Sprint(want) != fmt.Sprint(got) {
			t.Fatalf("apart:\n%q\ntogether:\n%q", want, got)
		}
	})
	if inPlace == 0 {
		t.Error("nothing was ever put together in place")
	}
}
