package failclosed

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/internal/wire"
	"espalier/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// attempt is one way to get packets to dst. It is not told whether any arrive.
type attempt struct {
	name string
	try  func(h *lab.Host, dst netip.Addr)
}

var attempts = []attempt{
	{"ping", func(h *lab.Host, dst netip.Addr) { ping(h, dst) }},
	{"ping bound to the device", func(h *lab.Host, dst netip.Addr) { ping(h, dst, "-I", h.Device) }},
	{"ping of several fragments", func(h *lab.Host, dst netip.Addr) { ping(h, dst, "-s", "4000") }},
	{"TCP", func(h *lab.Host, dst netip.Addr) { tcp(h, dst, nil) }},
	{"TCP bound to the device", func(h *lab.Host, dst netip.Addr) { tcp(h, dst, bind(h.Device)) }},
	{"UDP", func(h *lab.Host, dst netip.Addr) { connectedUDP(h, dst, nil) }},
	{"UDP bound to the device", func(h *lab.Host, dst netip.Addr) { connectedUDP(h, dst, bind(h.Device)) }},
	{"unconnected UDP", func(h *lab.Host, dst netip.Addr) { sendTo(h, dst, nil) }},
	{"unconnected UDP bound to the device", func(h *lab.Host, dst netip.Addr) { sendTo(h, dst, bind(h.Device)) }},
}

func ping(h *lab.Host, dst netip.Addr, args ...string) {
	args = append([]string{"-n", "-q", "-c", "3", "-i", "0.02", "-W", "0.1"}, args...)
	h.Command("ping", append(args, dst.String())...)
}

type control = func(network, address string, c syscall.RawConn) error

// bind is for sockets that are to leave by the device, whatever the routes say.
func bind(device string) control {
	return func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) })
		if cerr != nil {
			return cerr
		}
		return err
	}
}

const (
	closedPort = 9 // nobody listens there; the SYN is what counts
	datagrams  = 5
)

func tcp(h *lab.Host, dst netip.Addr, c control) {
	connect(h, netip.AddrPortFrom(dst, closedPort), c)
}

// connect tells whether there is an answer; it takes milliseconds if there is one at all.
func connect(h *lab.Host, dst netip.AddrPort, c control) error {
	return h.Do(func() error {
		conn, err := (&net.Dialer{Timeout: 100 * time.Millisecond, Control: c}).Dial("tcp", dst.String())
		if err == nil {
			conn.Close()
		}
		return err
	})
}

func connectedUDP(h *lab.Host, dst netip.Addr, c control) {
	h.Do(func() error {
		conn, err := (&net.Dialer{Control: c}).Dial("udp", netip.AddrPortFrom(dst, closedPort).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		for range datagrams {
			conn.Write([]byte("in clear")) // an ICMP error of the one before may come back
		}
		return nil
	})
}

func sendTo(h *lab.Host, dst netip.Addr, c control) {
	h.Do(func() error {
		conn, err := (&net.ListenConfig{Control: c}).ListenPacket(context.Background(), "udp", ":0")
		if err != nil {
			return err
		}
		defer conn.Close()
		for range datagrams {
			conn.WriteTo([]byte("in clear"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, closedPort)))
		}
		return nil
	})
}

// destinations are host B's addresses seen from A.
var destinations = []netip.Addr{lab.B4, lab.B6}

// tryAll tries everything from A.
func tryAll(l *lab.Lab) {
	for _, dst := range destinations {
		for _, a := range attempts {
			a.try(l.A, dst)
		}
	}
}

// checkControl shows that each attempt is seen in clear as things are.
func checkControl(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, dst := range destinations {
		for _, a := range attempts {
			if c := watch(t, l, l.A, func() { a.try(l.A, dst) }); c.Cleartext == 0 {
				t.Fatalf("control: %s to %s was not seen in clear; what follows would prove nothing", a.name, dst)
			}
		}
	}
}

// checkClosed shows that no attempt is seen in clear.
func checkClosed(t *testing.T, l *lab.Lab, when string) {
	t.Helper()
	for _, dst := range destinations {
		for _, a := range attempts {
			if c := watch(t, l, l.A, func() { a.try(l.A, dst) }); c.Cleartext != 0 {
				t.Errorf("%s: %s to %s: %d packets in clear", when, a.name, dst, c.Cleartext)
			}
		}
	}
}

// watch says what crosses the cable, seen at the end of h, while f runs.
func watch(t *testing.T, l *lab.Lab, h *lab.Host, f func()) wire.Counts {
	t.Helper()
	w := l.Watch(h, nil)
	f()
	c, err := w.Stop()
	if err != nil || c.Dropped != 0 {
		t.Fatalf("watch: %+v, %v", c, err)
	}
	return c
}

// wantClosed is watch for what may not put a single packet in clear on the wire.
func wantClosed(t *testing.T, l *lab.Lab, h *lab.Host, when string, f func()) wire.Counts {
	t.Helper()
	c := watch(t, l, h, f)
	if c.Cleartext != 0 {
		t.Errorf("%s: %d packets in clear", when, c.Cleartext)
	}
	return c
}

// pairs are SAs for both families; n keeps their SPIs and keys from those of other rounds.
func pairs(n uint32) []lab.Pair {
	return []lab.Pair{{SPI: 0x1000 + 0x100*n}, {SPI: 0x1010 + 0x100*n, V6: true}}
}

func startDevices(l *lab.Lab) {
	for _, h := range l.Hosts() {
		h.StartDevice()
	}
}

func addPolicies(l *lab.Lab, h *lab.Host, pairs []lab.Pair) {
	for _, p := range pairs {
		h.Batch(l.Policies(h, p))
	}
}

func addStates(l *lab.Lab, h *lab.Host, pairs []lab.Pair) {
	for _, p := range pairs {
		h.Batch(l.States(h, p))
	}
}

func program(l *lab.Lab, pairs []lab.Pair) {
	for _, p := range pairs {
		l.Program(p)
	}
}

// checkWorks has ping and TCP pass both ways in both families.
func checkWorks(t *testing.T, l *lab.Lab, when string) {
	t.Helper()
	for _, ends := range [][2]netip.Addr{{lab.A4, lab.B4}, {lab.A6, lab.B6}} {
		a, b := ends[0], ends[1]
		if !l.A.Ping(b, 3) {
			t.Errorf("%s: ping from %s to %s failed; drops A %v, B %v", when, a, b, l.A.Drops(), l.B.Drops())
		}
		if !l.B.Ping(a, 3) {
			t.Errorf("%s: ping from %s to %s failed; drops A %v, B %v", when, b, a, l.A.Drops(), l.B.Drops())
		}
		l.MustExchange(t, a, b, 1<<20)
	}
}

func neighbourState(h *lab.Host, dst netip.Addr) string {
	return fmt.Sprint(h.Command("ip", "neigh", "show", dst.String(), "dev", h.Device).Stdout)
}
