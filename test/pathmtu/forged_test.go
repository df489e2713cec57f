package pathmtu

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"espalier/test/lab"
	"espalier/test/packets"
)

// message is what a router says of a packet that was too big.
type message struct {
	name     string
	mtu      int
	src, dst netip.Addr // of the packet quoted
	spi, seq uint32
	ports    [2]uint16
	short    bool // no more is quoted than 8 bytes behind the IP header
	badSum   bool
	reason   string // why it is not believed; "" if it is
}

// packet is the message as a router sends it to a.
func (m *message) packet(f lab.Pair, router, a netip.Addr) []byte {
	inside := binary.BigEndian.AppendUint32(nil, m.spi)
	inside = binary.BigEndian.AppendUint32(inside, m.seq)
	quoted := packets.IP{Src: m.src, Dst: m.dst, Proto: packets.ESP, DF: true}
	if f.UDP {
		quoted.Proto = packets.UDPProto
		inside = packets.UDP(netip.AddrPortFrom(m.src, m.ports[0]), netip.AddrPortFrom(m.dst, m.ports[1]), append(inside, make([]byte, 20)...))
	}
	if m.short {
		inside = inside[:8]
	}
	text := quoted.Packet(inside)
	if m.src.Is4() {
		binary.BigEndian.PutUint16(text[2:], 1500) // as it was
	} else {
		binary.BigEndian.PutUint16(text[4:], 1460)
	}
	msg := make([]byte, 8)
	proto := byte(1)
	if f.V6 {
		proto = 58
		msg[0] = 2
		binary.BigEndian.PutUint32(msg[4:], uint32(m.mtu))
	} else {
		msg[0], msg[1] = 3, 4
		binary.BigEndian.PutUint16(msg[6:], uint16(m.mtu))
	}
	msg = append(msg, text...)
	summed := msg
	if f.V6 {
		pseudo := append(router.AsSlice(), a.AsSlice()...)
		pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(msg)))
		summed = append(append(pseudo, 0, 0, 0, proto), msg...)
	}
	sum := checksum(summed)
	if m.badSum {
		sum++
	}
	binary.BigEndian.PutUint16(msg[2:], sum)
	return packets.IP{Src: router, Dst: a, Proto: proto}.Packet(msg)
}

func checksum(b []byte) uint16 {
	var s uint32
	for i, x := range b {
		s += uint32(x) << (8 * (1 - i%2))
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// A message is believed only if it quotes what an SA has sent lately, and tells what a path may have.
func TestForgedMessages(t *testing.T) {
	for _, f := range []lab.Pair{{}, {V6: true}, {Tunnel: true, UDP: true}, {V6: true, UDP: true}} {
		t.Run(name(f), func(t *testing.T) {
			t.Parallel()
			p := newPath(t, "--pmtu-probe", "0")
			p.Program(f)
			a, b := f.Ends()
			const sent = 5
			if !p.A.Ping(b, sent) {
				t.Fatalf("no echo: drops A %v, B %v", p.A.Drops(), p.B.Drops())
			}
			router, least := netip.MustParseAddr("10.1.0.1"), 576
			if f.V6 {
				router, least = netip.MustParseAddr("fd01::1"), 1280
			}
			const unknown, refused = "in-too-big-unknown", "in-too-big-refused"
			genuine := message{mtu: 1400, src: a, dst: b, spi: 0x1000, seq: sent - 2, ports: [2]uint16{4500, 4500}}
			change := func(name, reason string, f func(*message)) message {
				m := genuine
				m.name, m.reason = name, reason
				f(&m)
				return m
			}
			all := []message{
				change("SPI", unknown, func(m *message) { m.spi++ }),
				change("SPI of the other direction", unknown, func(m *message) { m.spi++; m.src, m.dst = b, a }),
				change("source", unknown, func(m *message) { m.src = m.dst }),
				change("destination", unknown, func(m *message) { m.dst = m.dst.Next() }),
				change("number not sent yet", refused, func(m *message) { m.seq = sent + 1000 }),
				change("number 0", refused, func(m *message) { m.seq = 0 }),
				change("number long ago", refused, func(m *message) { m.seq = 1 << 31 }),
				change("too small", refused, func(m *message) { m.mtu = least - 1 }),
				change("0", refused, func(m *message) { m.mtu = 0 }),
				change("checksum", "", func(m *message) { m.badSum = true }),
			}
			if f.UDP {
				all = append(all,
					change("another program's port", "", func(m *message) { m.ports[0]++ }),
					change("destination port", unknown, func(m *message) { m.ports[1]++ }),
					change("port of a short one", unknown, func(m *message) { m.ports[1]++; m.short = true }))
			}
			link := p.toA(t)
			for _, m := range all {
				before := p.A.Drops()
				if err := link.Send(m.packet(f, router, a)); err != nil {
					t.Fatal(err)
				}
				if m.reason == "" {
					continue // it is nobody's; that nothing follows from it, the log tells
				}
				for start := time.Now(); p.A.Drops()[m.reason] != before[m.reason]+1; time.Sleep(10 * time.Millisecond) {
					if time.Since(start) > patience {
						t.Fatalf("%s: not counted: %v, before %v", m.name, p.A.Drops(), before)
					}
				}
			}
			if strings.Contains(p.A.Log(), "path MTU") {
				t.Error("one of them was believed")
			}
			believed := []message{genuine}
			if f.UDP {
				believed = append(believed, change("short", "", func(m *message) { m.mtu, m.short = 1360, true }))
			}
			for _, m := range believed {
				p.awaitLog(t, p.A, func() { link.Send(m.packet(f, router, a)) }, "router "+router.String(), fmt.Sprintf("mtu=%d", m.mtu))
			}
		})
	}
}

// toA is the router's end of A's cable in the hands of the test.
func (p *path) toA(t *testing.T) *packets.Link {
	t.Helper()
	var link *packets.Link
	var mac net.HardwareAddr
	err := p.A.Do(func() error {
		dev, err := net.InterfaceByName(p.Device)
		if err == nil {
			mac = dev.HardwareAddr
		}
		return err
	})
	if err == nil {
		err = p.router.Do(func() (err error) {
			link, err = packets.OpenLink("near", mac)
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { link.Close() })
	return link
}
