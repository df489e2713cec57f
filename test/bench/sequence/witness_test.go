package sequence

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/internal/netns"
	"espalier/test/lab"
)

// The witness counts what a socket sends: packets of protocol 50, and UDP super packets, of which the
// kernel sends each as one.
func TestWitness(t *testing.T) {
	lab.Root(t)
	var ns [2]*netns.NS
	for i := range ns {
		var err error
		if ns[i], err = netns.New(); err != nil {
			t.Fatal(err)
		}
		defer ns[i].Close()
	}
	const device = "p4p1"
	err := netns.Cable(
		netns.End{NS: ns[0], Name: device, Addresses: []netip.Prefix{netip.PrefixFrom(lab.A4, 24)}},
		netns.End{NS: ns[1], Name: device, Addresses: []netip.Prefix{netip.PrefixFrom(lab.B4, 24)}},
	)
	if err != nil {
		t.Fatal(err)
	}
	var w *Witness
	if err := ns[1].Do(func() (err error) { w, err = Watch(device); return err }); err != nil {
		t.Fatal(err)
	}
	const count, segment = 1000, 1000
	err = ns[0].Do(func() error {
		// Refused: so they know each other's link addresses, and no packet has to wait for one.
		if conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(lab.B4, 9).String(), 10*time.Second); err == nil {
			conn.Close()
		}
		esp, err := net.Dial("ip4:esp", lab.B4.String())
		if err != nil {
			return err
		}
		defer esp.Close()
		for n := range count {
			if n == 500 || n == 501 { // two do not leave
				continue
			}
			if _, err := esp.Write(numbered(1, n+1, 1400)); err != nil {
				return err
			}
		}
		return superPackets(count, segment)
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.Stop()
	if err != nil {
		t.Fatal(err)
	}
	want := Testimony{Totals: Totals{SPIs: 2, Seen: 2*count - 2, Missing: 2}}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// superPackets sends numbered segments of SPI 2 in UDP, 40 of them at a time, and a rest.
func superPackets(count, segment int) error {
	conn, err := net.DialUDP("udp4", &net.UDPAddr{Port: espPort}, &net.UDPAddr{IP: lab.B4.AsSlice(), Port: espPort})
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, segment) })
	for n := 0; n < count && err == nil; {
		var super []byte
		for range min(40, count-n) {
			n++
			super = append(super, numbered(2, n, segment)...)
		}
		_, err = conn.Write(super)
	}
	return err
}

func numbered(spi byte, n, length int) []byte {
	b := make([]byte, length)
	b[3], b[6], b[7] = spi, byte(n>>8), byte(n)
	return b
}
