package dataplane

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"espalier/ipsec"
	"espalier/underlay"
)

// encapsulatedSA is one with UDP encapsulation between ports 4500, on a device that opens no sockets.
func encapsulatedSA(t *testing.T, d *Device, change func(*ipsec.SA)) *association {
	t.Helper()
	sa := testSA(0x100)
	sa.Encap = &ipsec.Encap{SrcPort: 4500, DstPort: 4500}
	change(&sa)
	if err := d.checkSA(&sa); err != nil {
		t.Fatal(err)
	}
	a, err := d.sad.add(sa, d.encapsulationOf(&sa), nil)
	if err != nil {
		t.Fatal(err)
	}
	d.begin(a)
	return a
}

// asides are what a device sends that is not ESP.
type asides struct {
	mu  sync.Mutex
	got []string
}

func (s *asides) send(local, remote netip.AddrPort, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, fmt.Sprintf("%s > %s: %x", local, remote, payload))
	return nil
}

func (s *asides) take() []string {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	got := s.got
	s.got = nil
	return got
}

func TestKeepalives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := keptDevice(t)
		sent := new(asides)
		d.aside = sent.send
		want := func(when string, n int, one string) {
			t.Helper()
			if got := sent.take(); !slices.Equal(got, slices.Repeat([]string{one}, n)) {
				t.Errorf("%s: %q, want %d times %s", when, got, n, one)
			}
		}
		outbound := func(sa *ipsec.SA) {
			sa.Direction, sa.Window = ipsec.Outbound, 0
		}
		const one = "192.0.2.1:4500 > 192.0.2.2:4500: ff"
		encapsulatedSA(t, d, func(sa *ipsec.SA) { outbound(sa); sa.SPI = 0x200 }) // which has no interval
		a := encapsulatedSA(t, d, func(sa *ipsec.SA) { outbound(sa); sa.NATKeepalive = 20 * time.Second })

		want("at once", 1, one)
		time.Sleep(19 * time.Second)
		want("before the interval has passed", 0, one)
		time.Sleep(101 * time.Second)
		want("two minutes", 6, one)
		d.keeper.ask(&a.errand)
		want("the keeper has looked for another reason", 0, one)
		if a.packets.Load() != 0 || a.out.Sent() != 0 || !unixTime(a.last.Load()).IsZero() {
			t.Error("keepalives are counted")
		}

		for range 10 {
			d.packet(a, 10)
			time.Sleep(10 * time.Second)
		}
		want("a packet every ten seconds", 0, one)
		time.Sleep(11 * time.Second)
		want("silence", 1, one)

		e := *a.encap.Load()
		e.ends.Remote = netip.AddrPortFrom(hostB, 50000)
		a.encap.Store(&e)
		time.Sleep(20 * time.Second)
		want("the peer's port has changed", 1, "192.0.2.1:4500 > 192.0.2.2:50000: ff")

		d.sad.drop(a)
		a.retire()
		time.Sleep(time.Minute)
		want("deleted", 0, one)
	})
}

// moving is an inbound SA and packets for it, sealed in the order of their numbers.
type moving struct {
	d    *Device
	a    *association
	in   *inbound
	next []underlay.Datagram
}

func newMoving(t *testing.T, d *Device, age time.Duration) *moving {
	t.Helper()
	m := &moving{d: d, in: newInbound(d, true, nil)}
	m.a = encapsulatedSA(t, d, func(sa *ipsec.SA) { sa.Direction, sa.MappingAge = ipsec.Inbound, age })
	sa := testSA(0x100)
	sa.Direction, sa.Window = ipsec.Outbound, 0
	m.next = sealed(t, sa, 100)
	return m
}

// come takes the n-th packet that is left, which came from a place.
func (m *moving) come(n int, from string) {
	dg := m.next[n]
	m.next = slices.Delete(m.next, n, n+1)
	dg.Local, dg.Remote = netip.AddrPortFrom(hostB, 4500), netip.MustParseAddrPort(from)
	m.in.handle([]underlay.Datagram{dg})
}

const (
	home      = "192.0.2.1:4500"
	otherPort = "192.0.2.1:1024"
	otherHost = "192.0.2.9:4500"
)

func TestPeerMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		m := newMoving(t, d, 0)
		for _, step := range []struct {
			what string
			n    int // which of the packets left
			from string
			want []string
		}{
			{"where the SA has it", 0, home, nil},
			{"another port", 0, otherPort, []string{"moved to " + otherPort}},
			{"there again", 0, otherPort, nil},
			{"another host", 0, otherHost, []string{"moved to " + otherHost}},
			{"back again", 0, home, nil},
			{"and off again", 2, otherHost, []string{"moved to " + otherHost}},
			{"an older packet from elsewhere", 0, otherPort, nil},
			{"an older packet from where the SA has it", 0, home, nil},
			{"which changes nothing", 0, otherHost, nil},
		} {
			m.come(step.n, step.from)
			if got := l.take(); !slices.Equal(got, step.want) {
				t.Errorf("%s: %q, want %q", step.what, got, step.want)
			}
		}
		for i := range m.next {
			m.next[i].Payload[20] ^= 1
		}
		m.come(0, otherPort)
		l.want(t, "a packet that nobody has authenticated")
		if n := d.drops[InIntegrity].Load(); n != 1 {
			t.Errorf("%d packets without integrity", n)
		}
	})
}

func TestPeerMovesInABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		m := newMoving(t, d, 0)
		batch := m.next[:10]
		for i := range batch {
			batch[i].Local, batch[i].Remote = netip.AddrPortFrom(hostB, 4500), netip.MustParseAddrPort(home)
		}
		batch[7].Remote = netip.MustParseAddrPort(otherHost)
		batch[9].Remote = netip.MustParseAddrPort(otherPort)
		batch[4], batch[9] = batch[9], batch[4]
		m.in.handle(batch)
		l.want(t, "the newest counts, which came in the middle", "moved to "+otherPort)
	})
}

func TestMappingAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, l := keptDevice(t)
		m := newMoving(t, d, 10*time.Second)
		time.Sleep(time.Second / 2) // between two ticks of the keeper's clock
		for second := range 34 {
			m.come(0, otherPort)
			var want []string
			if second%11 == 0 {
				want = []string{"moved to " + otherPort}
			}
			l.want(t, fmt.Sprintf("second %d", second), want...)
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		l.want(t, "silence")
		m.come(0, otherHost)
		l.want(t, "another place", "moved to "+otherHost)
		m.come(0, home)
		m.come(0, otherHost)
		l.want(t, "there and back within the age")

		e := *m.a.encap.Load()
		e.ends.Remote = netip.MustParseAddrPort(otherHost)
		m.a.encap.Store(&e)
		m.a.mapping.forget()
		m.come(0, otherHost)
		l.want(t, "the SA follows")
		m.come(0, home)
		l.want(t, "back from there", "moved to "+home)
	})
}

func TestIKE(t *testing.T) {
	d := newDevice(nil)
	in := newInbound(d, true, nil)
	find := func(payload string) Reason {
		dg := underlay.Datagram{Local: netip.MustParseAddrPort(home), Remote: netip.MustParseAddrPort(otherHost), Payload: []byte(payload)}
		a, reason, ok := in.find(&dg)
		if a != nil || ok {
			t.Fatalf("%q is for %+v", payload, a)
		}
		return reason
	}
	if got := find("\x00\x00\x00\x00IKE"); got != InNotESP {
		t.Errorf("without a handler: %s", got)
	}
	var got []string
	handle := func(m IKEMessage) { got = append(got, fmt.Sprintf("%s < %s: %s", m.Local, m.Remote, m.Payload)) }
	if err := d.HandleIKE(handle); err != nil {
		t.Fatal(err)
	}
	if err := d.HandleIKE(handle); err == nil {
		t.Error("two handlers")
	}
	for _, c := range []struct {
		payload string
		want    Reason
	}{
		{"\x00\x00\x00\x00IKE", reasons}, {"\x00\x00\x00\x00", reasons}, {"\xff", reasons}, {"\x00\x00\x00", InTruncated}, {"\x00\x00\x00\x01IKE?", InNoSA},
	} {
		if reason := find(c.payload); reason != c.want {
			t.Errorf("%q: reason %d, want %d", c.payload, reason, c.want)
		}
	}
	if want := []string{home + " < " + otherHost + ": IKE", home + " < " + otherHost + ": "}; !slices.Equal(got, want) {
		t.Errorf("handled %q, want %q", got, want)
	}

	if err := d.SendIKE(netip.MustParseAddrPort(home), netip.MustParseAddrPort(otherHost), []byte("IKE")); err != errNoSocket {
		t.Errorf("without a socket: %v", err)
	}
	sent := new(asides)
	d.aside = sent.send
	if err := d.SendIKE(netip.MustParseAddrPort(home), netip.MustParseAddrPort(otherHost), []byte("IKE")); err != nil {
		t.Error(err)
	}
	if want := []string{home + " > " + otherHost + ": 00000000494b45"}; !slices.Equal(sent.got, want) {
		t.Errorf("sent %q, want %q", sent.got, want)
	}
}

// What is not ESP leaves by the socket of the encapsulation, from its port.
func TestAsideLeavesByTheSocket(t *testing.T) {
	peer, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	peer.SetReadDeadline(time.Now().Add(10 * time.Second))
	ports := udpPorts{start: func([]*underlay.UDP) {}}
	defer ports.close()
	free, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	local := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), free.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	free.Close()
	if err := ports.acquire(portOf(local)); err != nil {
		t.Fatal(err)
	}
	if err := ports.sendAside(local, peer.LocalAddr().(*net.UDPAddr).AddrPort(), []byte{natKeepalive}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	n, from, err := peer.ReadFromUDPAddrPort(b)
	if err != nil || from != local || n != 1 || b[0] != natKeepalive {
		t.Errorf("%x from %s, want ff from %s: %v", b[:n], from, local, err)
	}
}
