package underlay

import (
	"bytes"
	"errors"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
	"espalier/internal/inet"
)

const testPort = 4500

// udpMessage is a message from a to b with every field of the header set.
func udpMessage(p *pair, v6 bool, payloads [][]byte) Message {
	m := Message{
		Src:      netip.AddrPortFrom(p.src(v6), 0),
		Dst:      netip.AddrPortFrom(p.dst(v6), testPort),
		TOS:      testTOS,
		TTL:      testTTL,
		Payloads: payloads,
	}
	if v6 {
		m.FlowLabel = testFlow
	}
	return m
}

// modes runs a test with segmentation, and with sockets that do without.
func modes(t *testing.T, f func(t *testing.T, p *pair, v6 bool, send, receive *UDP)) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		for name, cfg := range map[string]Config{"segments": {}, "plain": {plain: true}} {
			t.Run(name, func(t *testing.T) {
				send, receive := listenUDP(t, p.a, cfg, v6, testPort), listenUDP(t, p.b, cfg, v6, testPort)
				defer send.Close()
				defer receive.Close()
				if got := send.sender.socket.plain.Load(); got != cfg.plain {
					t.Fatalf("plain is %v, want %v", got, cfg.plain)
				}
				f(t, p, v6, send, receive)
			})
		}
	})
}

func TestUDPCarriesTheHeader(t *testing.T) {
	modes(t, func(t *testing.T, p *pair, v6 bool, send, receive *UDP) {
		for _, options := range []bool{false, true} {
			m := udpMessage(p, v6, [][]byte{payload(0, 500), payload(1, 500), payload(2, 77)})
			want := espPacket(p, v6, nil, 0, 0) // its header but for what is not told
			switch {
			case options && v6:
				m.HopByHop, m.Destination = hopByHop, destination6
				want = espPacket(p, v6, noOperations, 0, 0)
			case options:
				m.Options = noOperations
				want = espPacket(p, v6, noOperations, 0, 0)
			}
			at := 9
			if v6 {
				h, err := inet.Parse(want)
				if err != nil {
					t.Fatal(err)
				}
				at = h.ProtocolAt
				clear(want[4:6])
			} else {
				clear(want[2:8])
				clear(want[10:12])
			}
			want[at] = inet.ProtoUDP
			if err := send.Send(m); err != nil {
				t.Fatal(err)
			}
			for i, d := range collect(t, receive, 3) {
				if !bytes.Equal(d.Payload, m.Payloads[i]) {
					t.Errorf("payload %d: %d bytes differ from the %d sent", i, len(d.Payload), len(m.Payloads[i]))
				}
				if d.Remote != netip.AddrPortFrom(p.src(v6), testPort) || d.Local != netip.AddrPortFrom(p.dst(v6), testPort) {
					t.Errorf("from %v to %v", d.Remote, d.Local)
				}
				if !bytes.Equal(d.Header, want) || d.ProtocolAt != at {
					t.Errorf("options %v: header, protocol at %d:\n% x\nwant, protocol at %d:\n% x", options, d.ProtocolAt, d.Header, at, want)
				}
			}
		}
	})
}

func TestUDPDefaults(t *testing.T) {
	modes(t, func(t *testing.T, p *pair, v6 bool, send, receive *UDP) {
		if err := send.Send(Message{Dst: netip.AddrPortFrom(p.dst(v6), testPort), Payloads: [][]byte{{7}}}); err != nil {
			t.Fatal(err)
		}
		d := collect(t, receive, 1)[0]
		ttl, label := d.Header[8], byte(0)
		if v6 {
			ttl, label = d.Header[7], d.Header[1]&15|d.Header[2]|d.Header[3]
		}
		if ttl != 64 || label != 0 || d.Remote != netip.AddrPortFrom(p.src(v6), testPort) {
			t.Errorf("TTL %d, flow label bits %#x, from %v", ttl, label, d.Remote)
		}
	})
}

// TestUDPSizes sends every mix of lengths that segmentation must cut into sends.
func TestUDPSizes(t *testing.T) {
	equal := func(n, size int) (b [][]byte) {
		for i := range n {
			b = append(b, payload(i, size))
		}
		return b
	}
	for name, payloads := range map[string][][]byte{
		"one":              equal(1, 1400),
		"64 of 1400":       equal(64, 1400),
		"200 of 1400":      equal(200, 1400),
		"150 of 60":        equal(150, 60),
		"shorter last":     append(equal(10, 1200), payload(99, 5)),
		"falling lengths":  {payload(0, 900), payload(1, 800), payload(2, 700), payload(3, 600)},
		"rising lengths":   {payload(0, 100), payload(1, 200), payload(2, 300), payload(3, 300)},
		"keepalives among": {payload(0, 300), payload(1, 300), {0xff}, payload(3, 300), {0xff}, {0xff}, payload(6, 300)},
		"above the MTU":    equal(3, 3000),
		"largest":          {payload(0, 65000)},
	} {
		t.Run(name, func(t *testing.T) {
			modes(t, func(t *testing.T, p *pair, v6 bool, send, receive *UDP) {
				if err := send.Send(udpMessage(p, v6, payloads)); err != nil {
					t.Fatal(err)
				}
				for i, d := range collect(t, receive, len(payloads)) {
					if !bytes.Equal(d.Payload, payloads[i]) {
						t.Fatalf("datagram %d: %d bytes differ from the %d sent", i, len(d.Payload), len(payloads[i]))
					}
				}
			})
		})
	}
}

// TestSegmentsTravelTogether shows that UDP_SEGMENT and UDP_GRO are in use at all.
func TestSegmentsTravelTogether(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		send, receive := listenUDP(t, p.a, Config{}, v6, testPort), listenUDP(t, p.b, Config{}, v6, testPort)
		var payloads [][]byte
		for i := range 46 {
			payloads = append(payloads, payload(i, 1400))
		}
		if err := send.Send(udpMessage(p, v6, payloads)); err != nil {
			t.Fatal(err)
		}
		guard := time.AfterFunc(10*time.Second, func() { receive.Close() })
		defer guard.Stop()
		if n, err := receive.Receive(make([]Datagram, 64)); n != len(payloads) || err != nil {
			t.Fatalf("received %d datagrams at once, want %d: %v", n, len(payloads), err)
		}
		if got := receive.receiver.count; got != 1 {
			t.Errorf("the kernel handed over %d messages, want 1", got)
		}
	})
}

func TestUDPDontFragment(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		send, receive := listenUDP(t, p.a, Config{}, v6, testPort), listenUDP(t, p.b, Config{}, v6, testPort)
		m := udpMessage(p, v6, [][]byte{payload(0, 100), payload(1, 100), payload(2, 3000), payload(3, 3000), payload(4, 100)})
		for range 2 {
			m.DontFragment = true
			err := send.Send(m)
			var failed *SendError
			if !errors.As(err, &failed) || len(failed.Failed) != 2 ||
				failed.Failed[0] != (Failure{2, unix.EMSGSIZE}) || failed.Failed[1] != (Failure{3, unix.EMSGSIZE}) {
				t.Fatalf("error %v", err)
			}
			for i, d := range collect(t, receive, 3) {
				if want := m.Payloads[[]int{0, 1, 4}[i]]; !bytes.Equal(d.Payload, want) {
					t.Errorf("datagram %d has %d bytes, want %d", i, len(d.Payload), len(want))
				}
			}
			m.DontFragment = false
			if err := send.Send(m); err != nil {
				t.Fatal(err)
			}
			collect(t, receive, 5)
		}
		if send.sender.socket.plain.Load() {
			t.Error("a long payload ended segmentation for good")
		}
	})
}

// TestKernelRefusesSegments answers in the kernel's place: EIO ends segmentation for good,
// EINVAL for this message only, and with both every payload arrives.
func TestKernelRefusesSegments(t *testing.T) {
	for _, tt := range []struct {
		errno syscall.Errno
		plain bool
	}{{unix.EIO, true}, {unix.EINVAL, false}, {unix.EMSGSIZE, false}} {
		p := newPair(t)
		send, receive := listenUDP(t, p.a, Config{}, false, testPort), listenUDP(t, p.b, Config{}, false, testPort)
		tx, refused := send.sender.transmit, 0
		tx.kernel = func(f *fd.File, msgs []mmsghdr) (int, syscall.Errno) {
			if msgs[0].Iovlen > 1 {
				refused++
				return 0, tt.errno
			}
			return sendMessages(f, msgs)
		}
		m := udpMessage(p, false, nil)
		for i := range 100 {
			m.Payloads = append(m.Payloads, payload(i, 1000))
		}
		for range 2 {
			if err := send.Send(m); err != nil {
				t.Fatal(err)
			}
			for i, d := range collect(t, receive, len(m.Payloads)) {
				if !bytes.Equal(d.Payload, m.Payloads[i]) {
					t.Fatalf("%v: datagram %d is not the one sent", tt.errno, i)
				}
			}
		}
		want := 4 // two sends for 100 payloads, twice
		if tt.plain {
			want = 1
		}
		if got := send.sender.socket.plain.Load(); got != tt.plain || refused != want {
			t.Errorf("%v: given up %v, tried %d times; want %v, %d", tt.errno, got, refused, tt.plain, want)
		}
	}
}

// TestFullBuffer makes the first try find the socket's buffer full, so that the sender waits for
// room.
func TestFullBuffer(t *testing.T) {
	p := newPair(t)
	send, receive := listenUDP(t, p.a, Config{}, true, testPort), listenUDP(t, p.b, Config{}, true, testPort)
	tx, tries := send.sender.transmit, 0
	tx.kernel = func(f *fd.File, msgs []mmsghdr) (int, syscall.Errno) {
		if tries++; tries == 1 {
			return 0, unix.EAGAIN
		}
		return sendMessages(f, msgs)
	}
	if err := send.Send(udpMessage(p, true, [][]byte{{1}, {2}})); err != nil {
		t.Fatal(err)
	}
	collect(t, receive, 2)
	if tries != 2 {
		t.Errorf("%d tries, want 2", tries)
	}
}

// TestDFBit looks at the wire: the raw socket's view of UDP.
func TestDFBit(t *testing.T) {
	p := newPair(t)
	send := listenUDP(t, p.a, Config{}, false, testPort)
	listenUDP(t, p.b, Config{}, false, testPort)
	var fd int
	in(t, p.b, func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	})
	defer unix.Close(fd)
	for _, df := range []bool{false, true, false} {
		m := udpMessage(p, false, [][]byte{{1, 2, 3}})
		m.DontFragment = df
		if err := send.Send(m); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1500)
		if _, err := unix.Read(fd, b); err != nil {
			t.Fatal(err)
		}
		if got := b[6]&0x40 != 0; got != df {
			t.Errorf("DF is %v, want %v", got, df)
		}
	}
}

func TestUDPRefusals(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		u := listenUDP(t, p.a, Config{}, v6, 0)
		if u.Port() == 0 {
			t.Error("no port chosen")
		}
		to := func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, testPort) }
		for name, m := range map[string]Message{
			"other family":      {Dst: to(p.dst(!v6))},
			"source of another": {Src: to(p.src(!v6)), Dst: to(p.dst(v6))},
			"no destination":    {},
			"bad options":       {Dst: to(p.dst(v6)), Options: make([]byte, 41), HopByHop: make([]byte, 9)},
			"truncated header":  {Dst: to(p.dst(v6)), Options: make([]byte, 3), Routing: []byte{0, 4, 0, 0, 0, 0, 0, 0}},
		} {
			m.Payloads = [][]byte{{1}}
			if err := u.Send(m); err == nil {
				t.Errorf("%s: sent", name)
			} else if failed := (*SendError)(nil); errors.As(err, &failed) {
				t.Errorf("%s: %v blames a payload", name, err)
			}
		}
		m := Message{Src: to(p.dst(v6)), Dst: to(p.dst(v6)), Payloads: [][]byte{{1}, {2}}}
		var failed *SendError
		if err := u.Send(m); !errors.As(err, &failed) || len(failed.Failed) != 2 {
			t.Errorf("source address of another host: %v", err)
		}
		if err := u.Send(Message{Dst: to(p.dst(v6))}); err != nil {
			t.Errorf("no payloads: %v", err)
		}
	})
}

func TestSendersSideBySide(t *testing.T) {
	p := newPair(t)
	send, receive := listenUDP(t, p.a, Config{}, true, testPort), listenUDP(t, p.b, Config{}, true, testPort)
	const senders, rounds, each = 3, 20, 5
	var wg sync.WaitGroup
	for k := range senders {
		wg.Go(func() {
			s := send.Sender()
			for range rounds {
				m := udpMessage(p, true, nil)
				m.DontFragment = k == 0
				for range each {
					m.Payloads = append(m.Payloads, payload(k, 400))
				}
				if err := s.Send(m); err != nil {
					t.Error(err)
				}
			}
		})
	}
	counts := map[byte]int{}
	for _, d := range collect(t, receive, senders*rounds*each) {
		counts[d.Payload[0]]++
	}
	wg.Wait()
	for k := range senders {
		if counts[byte(k*31)] != rounds*each {
			t.Errorf("sender %d: %d payloads arrived", k, counts[byte(k*31)])
		}
	}
}
