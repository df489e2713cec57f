package underlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/internal/inet"
	"espalier/internal/netns"
)

func listenTap(t testing.TB, ns *netns.NS, cfg Config) (tap *Tap) {
	t.Helper()
	device := wireIndex(t, ns)
	in(t, ns, func() error {
		taps, err := ListenTap(cfg, device, 1500)
		if err == nil {
			tap = taps[0]
		}
		return err
	})
	t.Cleanup(func() { tap.Close() })
	return tap
}

// tapped receives up to n datagrams, copied, and then waits whether more come.
func tapped(t testing.TB, tap *Tap, n int) []Datagram {
	t.Helper()
	var got []Datagram
	batch := make([]Datagram, 7)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		k, err := tap.TryReceive(batch)
		if errors.Is(err, unix.EAGAIN) {
			if len(got) >= n {
				return got
			}
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range batch[:k] {
			d.Header, d.Payload = bytes.Clone(d.Header), bytes.Clone(d.Payload)
			got = append(got, d)
		}
	}
	t.Fatalf("received %d of %d datagrams, %d malformed", len(got), n, tap.Malformed())
	return nil
}

func send(t testing.TB, s *Sender, pkts ...[]byte) {
	t.Helper()
	if n, err := s.Send(pkts); n != len(pkts) || err != nil {
		t.Fatal(n, err)
	}
}

func TestTapCarriesThePacket(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		tap, s := listenTap(t, p.b, Config{}), newSender(t, p.a, Config{})
		options := noOperations
		if v6 {
			options = nil // a packet with extension headers is left to the raw socket
		}
		for _, options := range [][]byte{nil, options} {
			pkt := espPacket(p, v6, options, 1000, 3)
			send(t, s, pkt)
			d := tapped(t, tap, 1)[0]
			h, err := inet.Parse(pkt)
			if err != nil {
				t.Fatal(err)
			}
			if d.Remote != netip.AddrPortFrom(p.src(v6), 0) || d.Local != netip.AddrPortFrom(p.dst(v6), 0) {
				t.Errorf("from %v to %v", d.Remote, d.Local)
			}
			if !bytes.Equal(d.Header, pkt[:h.Len]) || d.ProtocolAt != h.ProtocolAt || !bytes.Equal(d.Payload, pkt[h.Len:]) {
				t.Errorf("header, protocol at %d:\n% x\nwant, protocol at %d:\n% x", d.ProtocolAt, d.Header, h.ProtocolAt, pkt[:h.Len])
			}
		}
	})
}

// Short frames are padded on Ethernet.
func TestTapCutsPadding(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		tap := listenTap(t, p.b, Config{})
		pkt := espPacket(p, v6, nil, 12, 3)
		injectFrame(t, p, v6, append(bytes.Clone(pkt), make([]byte, 14)...), nil)
		d := tapped(t, tap, 1)[0]
		if got := append(d.Header, d.Payload...); !bytes.Equal(got, pkt) {
			t.Errorf("% x, want % x", got, pkt)
		}
	})
}

func TestTapKeepsTheOrderAndWraps(t *testing.T) {
	p := newPair(t)
	tap, s := listenTap(t, p.b, Config{Buffer: 1}), newSender(t, p.a, Config{})
	slots := len(tap.ring) / tap.slot
	for from := 0; from < 3*slots; from += 50 {
		var pkts [][]byte
		for i := range 50 {
			pkts = append(pkts, espPacket(p, false, nil, 100, from+i))
		}
		send(t, s, pkts...)
		for i, d := range tapped(t, tap, 50) {
			if !bytes.Equal(d.Payload, payload(from+i, 100)) {
				t.Fatalf("packet %d: % x", from+i, d.Payload[:8])
			}
		}
	}
	if tap.Lost() != 0 {
		t.Errorf("%d lost", tap.Lost())
	}
}

func TestTapCountsWhatItLoses(t *testing.T) {
	p := newPair(t)
	tap, s := listenTap(t, p.b, Config{Buffer: 1}), newSender(t, p.a, Config{})
	slots := len(tap.ring) / tap.slot
	for range slots + 30 {
		send(t, s, espPacket(p, false, nil, 100, 1))
	}
	if n := len(tapped(t, tap, slots)); n != slots || tap.Lost() != 30 || tap.Lost() != 30 {
		t.Errorf("%d received, %d lost, want %d and 30", n, tap.Lost(), slots)
	}
	send(t, s, espPacket(p, false, nil, 100, 2))
	tapped(t, tap, 1)
}

func TestTapLeavesTheRest(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		tap, s := listenTap(t, p.b, Config{}), newSender(t, p.a, Config{})
		long := espPacket(p, v6, noOperations, 4000, 5)
		if !v6 {
			long[6] = 0
		}
		send(t, s, fragment(long, v6)...)
		if v6 {
			send(t, s, espPacket(p, v6, noOperations, 100, 1)) // extension headers
		}
		udp := espPacket(p, v6, nil, 100, 2)
		udp[map[bool]int{false: 9, true: 6}[v6]] = inet.ProtoUDP
		send(t, s, udp)
		esp := espPacket(p, v6, nil, 100, 6)
		injectFrame(t, p, v6, esp, []byte{0x02, 9, 9, 9, 9, 9})                // another host's
		injectFrame(t, p, v6, esp, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}) // everybody's
		send(t, s, esp)
		if got := tapped(t, tap, 1); len(got) != 1 || !bytes.Equal(got[0].Payload, payload(6, 100)) || tap.Malformed() != 0 {
			t.Errorf("received %d datagrams, %d malformed; want the last alone", len(got), tap.Malformed())
		}
	})
}

// What this host sends is none of the tap's.
func TestTapIgnoresOutgoing(t *testing.T) {
	p := newPair(t)
	tap, s, back := listenTap(t, p.b, Config{}), newSender(t, p.b, Config{}), newSender(t, p.a, Config{})
	out := espPacket(p, false, nil, 100, 1)
	copy(out[12:20], append(bytes.Clone(out[16:20]), out[12:16]...))
	send(t, s, out)
	send(t, back, espPacket(p, false, nil, 100, 2))
	if got := tapped(t, tap, 1); len(got) != 1 || !bytes.Equal(got[0].Payload, payload(2, 100)) {
		t.Errorf("received %d datagrams", len(got))
	}
}

func TestTapRefuses(t *testing.T) {
	p := newPair(t)
	tap := listenTap(t, p.b, Config{})
	whole := espPacket(p, false, nil, 100, 1)
	checksum := bytes.Clone(whole)
	checksum[10]++
	six := espPacket(p, true, nil, 100, 1)
	for name, pkt := range map[string][]byte{
		"checksum": checksum, "cut": whole[:60], "IPv6 cut": six[:80],
	} {
		before := tap.Malformed()
		injectFrame(t, p, pkt[0]>>4 == 6, pkt, nil)
		for deadline := time.Now().Add(20 * time.Second); tap.Malformed() == before && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if n, err := tap.TryReceive(make([]Datagram, 4)); n != 0 || !errors.Is(err, unix.EAGAIN) {
				t.Errorf("%s: received %d, %v", name, n, err)
			}
		}
		if tap.Malformed() != before+1 {
			t.Errorf("%s: %d malformed, want %d", name, tap.Malformed(), before+1)
		}
	}
}

// Taps divide the SAs among them.
func TestTapsShare(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		var taps []*Tap
		device, s := wireIndex(t, p.b), newSender(t, p.a, Config{})
		in(t, p.b, func() (err error) { taps, err = ListenTap(Config{Share: 3}, device, 1500); return })
		for spi := range uint32(30) {
			pkt := espPacket(p, v6, nil, 100, 1)
			binary.BigEndian.PutUint32(pkt[len(pkt)-100:], spi)
			send(t, s, pkt)
		}
		for i, tap := range taps {
			defer tap.Close()
			got := tapped(t, tap, 10)
			for k, d := range got {
				if spi := binary.BigEndian.Uint32(d.Payload); len(got) != 10 || int(spi) != 3*k+i {
					t.Errorf("tap %d: packet %d of %d has SPI %d", i, k, len(got), spi)
				}
			}
		}
	})
}

// A frame that is longer than the device's MTU was is counted, and the next one is read.
func TestTapCountsTooLong(t *testing.T) {
	p := newPair(t)
	tap, s := listenTap(t, p.b, Config{}), newSender(t, p.a, Config{})
	for _, ns := range []*netns.NS{p.a, p.b} {
		in(t, ns, func() error {
			l, err := netlink.LinkByName("wire0")
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(l, 9000)
		})
	}
	send(t, s, espPacket(p, false, nil, 4000, 1), espPacket(p, false, nil, 1400, 2))
	if got := tapped(t, tap, 1); len(got) != 1 || len(got[0].Payload) != 1400 || tap.Lost() != 1 {
		t.Errorf("received %d datagrams, %d lost", len(got), tap.Lost())
	}
}

// A device that is down has no error that wakes the reader for ever, and up again it is heard.
func TestTapOutlivesLinkDown(t *testing.T) {
	p := newPair(t)
	tap, s := listenTap(t, p.b, Config{}), newSender(t, p.a, Config{})
	set := func(up func(netlink.Link) error) {
		in(t, p.b, func() error {
			l, err := netlink.LinkByName("wire0")
			if err != nil {
				return err
			}
			return up(l)
		})
	}
	set(netlink.LinkSetDown)
	if n, err := tap.TryReceive(make([]Datagram, 1)); n != 0 || !errors.Is(err, unix.EAGAIN) {
		t.Fatal(n, err)
	}
	tap.File().Control(func(number int) error {
		polls := []unix.PollFd{{Fd: int32(number), Events: unix.POLLIN}}
		if n, err := unix.Poll(polls, 0); n != 0 || err != nil {
			t.Errorf("poll: %d, events %#x, %v", n, polls[0].Revents, err)
		}
		return nil
	})
	set(netlink.LinkSetUp)
	p.introduce(t, p.b, p.a, p.srcs)
	send(t, s, espPacket(p, false, nil, 100, 1))
	tapped(t, tap, 1)
}

func TestTapClose(t *testing.T) {
	p := newPair(t)
	idle, busy, s := listenTap(t, p.b, Config{}), listenTap(t, p.b, Config{}), newSender(t, p.a, Config{})
	send(t, s, espPacket(p, false, nil, 100, 1))
	batch := make([]Datagram, 1)
	if n, err := busy.TryReceive(batch); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	for _, tap := range []*Tap{idle, busy} {
		if err := tap.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(batch[0].Payload, payload(1, 100)) {
		t.Error("the memory went while it was in use")
	}
	for _, tap := range []*Tap{idle, busy} {
		for range 2 {
			if n, err := tap.TryReceive(batch); n != 0 || !errors.Is(err, os.ErrClosed) {
				t.Errorf("TryReceive after Close: %d, %v", n, err)
			}
		}
		if tap.state.Load() != ringClosed {
			t.Error("the ring is still mapped")
		}
	}
}

// injectFrame sends an IP packet from a to b as it is, to the link-layer address of b if none is given.
func injectFrame(t testing.TB, p *pair, v6 bool, pkt, to []byte) {
	t.Helper()
	if to == nil {
		in(t, p.b, func() error {
			l, err := netlink.LinkByName("wire0")
			if err == nil {
				to = l.Attrs().HardwareAddr
			}
			return err
		})
	}
	device := wireIndex(t, p.a)
	in(t, p.a, func() error {
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		protocol := map[bool]uint16{false: 0x0008, true: 0xdd86}[v6]
		sa := &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: device, Halen: 6}
		copy(sa.Addr[:], to)
		return unix.Sendto(s, pkt, 0, sa)
	})
}
