package failclosed

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"espalier/test/lab"
)

// A host that has no part in the protection cannot get cleartext of a protected selector into
// one that has.
func TestCleartextIsNotDelivered(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping")
	l := lab.New(t, "")
	l.A.StartDevice()
	for _, dst := range []netip.Addr{lab.A4, lab.A6} {
		if n := deliver(t, l, dst); n == 0 {
			t.Fatalf("control: datagrams to %s did not arrive without policies", dst)
		}
	}
	for _, dst := range []netip.Addr{lab.A4, lab.A6} {
		if err := connect(l.B, listen(t, l.A, dst), nil); err != nil {
			t.Fatalf("control: %v", err)
		}
	}
	if !l.B.Ping(lab.A4, 1) || !l.B.Ping(lab.A6, 1) {
		t.Fatal("control: ping failed without policies")
	}

	addPolicies(l, l.A, pairs(0))
	addStates(l, l.A, pairs(0))
	for _, dst := range []netip.Addr{lab.A4, lab.A6} {
		c := watch(t, l, l.A, func() {
			if n := deliver(t, l, dst); n != 0 {
				t.Errorf("%d datagrams in clear to %s were delivered", n, dst)
			}
			ping(l.B, dst)
			if err := connect(l.B, listen(t, l.A, dst), nil); err == nil {
				t.Errorf("TCP in clear to %s was accepted", dst)
			}
		})
		// All of it is B's: A answers nothing.
		if c.Cleartext < sent+3+1 {
			t.Errorf("only %d packets in clear arrived at A: what was tested?", c.Cleartext)
		}
		if c.ESP != 0 {
			t.Errorf("A answered cleartext with %d ESP packets", c.ESP)
		}
	}
}

const sent = 5 // datagrams

// deliver sends datagrams from B to A and returns how many a listener there gets.
func deliver(t *testing.T, l *lab.Lab, dst netip.Addr) (got int) {
	t.Helper()
	var listener *net.UDPConn
	err := l.A.Do(func() (err error) {
		listener, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 0)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	err = l.B.Do(func() error {
		conn, err := net.Dial("udp", listener.LocalAddr().String())
		if err != nil {
			return err
		}
		defer conn.Close()
		for range sent {
			if _, err := conn.Write([]byte("let me in")); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	for buf := make([]byte, 100); ; got++ {
		if _, err := listener.Read(buf); err != nil {
			return got
		}
	}
}

// listen opens a TCP port for the rest of the test.
func listen(t *testing.T, h *lab.Host, addr netip.Addr) netip.AddrPort {
	t.Helper()
	var l net.Listener
	err := h.Do(func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort()
}
