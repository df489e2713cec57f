package failclosed

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"espalier/test/lab"
)

// stream is a TCP connection that is written to without a pause.
type stream struct {
	received atomic.Uint64
	conns    []net.Conn
}

// startStream sends from one host to an address of the other until the test ends, whatever
// happens to the packets.
func startStream(t *testing.T, from, to *lab.Host, dst netip.Addr) *stream {
	t.Helper()
	var listener net.Listener
	err := to.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(dst, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := &stream{}
	err = from.Do(func() error {
		conn, err := net.DialTimeout("tcp", listener.Addr().String(), 2*time.Second)
		s.conns = append(s.conns, conn)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s.conns = append(s.conns, accepted)
	t.Cleanup(s.stop)
	go s.write(s.conns[0])
	go s.read(accepted)
	return s
}

func (s *stream) write(conn net.Conn) {
	for buf := make([]byte, 1<<16); ; {
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}

func (s *stream) read(conn net.Conn) {
	for buf := make([]byte, 1<<16); ; {
		n, err := conn.Read(buf)
		if err != nil {
			return
		}
		s.received.Add(uint64(n))
	}
}

// awaitMore waits until another megabyte has arrived.
func (s *stream) awaitMore(t *testing.T, when string) {
	t.Helper()
	want := s.received.Load() + 1<<20
	for start := time.Now(); s.received.Load() < want; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 15*time.Second {
			t.Fatalf("%s: the transfer stands still", when)
		}
	}
}

func (s *stream) stop() {
	for _, c := range s.conns {
		c.Close()
	}
}
