package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// stall is how long a transfer may stand still before it counts as broken.
const stall = 5 * time.Second

// Exchange opens a TCP connection from one host to a listener at an address of the other (any
// port if it is 0), sends size bytes, and has the other send as many back. Both compare what
// arrives. The connection is then reset: when Exchange returns, nothing of it is on its way any more, that would
// go in clear if the policies are flushed next.
func Exchange(from, to *Host, dst netip.AddrPort, size int) error {
	var listener *net.TCPListener
	err := to.Do(func() (err error) {
		listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(dst))
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	listener.SetDeadline(time.Now().Add(stall))
	there, back := Pattern(size, 3), Pattern(size, 5)
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			defer conn.Close()
			if err = errors.Join(receive(conn, there), send(conn, back)); err == nil {
				awaitReset(conn)
			}
		}
		served <- err
	}()
	var conn net.Conn
	err = from.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", listener.Addr().String(), stall)
		return err
	})
	if err != nil {
		listener.Close()
		<-served
		return err
	}
	err = errors.Join(send(conn, there), receive(conn, back), conn.(*net.TCPConn).SetLinger(0), conn.Close())
	return errors.Join(err, <-served)
}

// awaitReset waits until the other end has reset the connection; what is lost is not sent again, so not for long.
func awaitReset(conn net.Conn) {
	conn.SetReadDeadline(time.Now().Add(stall))
	conn.Read(make([]byte, 1))
}

// MustExchange is Exchange with any port, both ways, of what has to arrive.
func (l *Lab) MustExchange(t testing.TB, a, b netip.Addr, size int) {
	t.Helper()
	if err := Exchange(l.A, l.B, netip.AddrPortFrom(b, 0), size); err != nil {
		t.Errorf("TCP from A to %s: %v", b, err)
	}
	if err := Exchange(l.B, l.A, netip.AddrPortFrom(a, 0), size); err != nil {
		t.Errorf("TCP from B to %s: %v", a, err)
	}
}

// Pattern does not repeat with any power of two, so that lost or doubled segments show.
func Pattern(size, seed int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i%251 + i/251*seed)
	}
	return b
}

const piece = 1 << 18

func send(conn net.Conn, data []byte) error {
	for len(data) > 0 {
		n := min(len(data), piece)
		if err := conn.SetWriteDeadline(time.Now().Add(stall)); err != nil {
			return err
		}
		if _, err := conn.Write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func receive(conn net.Conn, want []byte) error {
	buf := make([]byte, piece)
	for at := 0; at < len(want); {
		part := buf[:min(len(want)-at, piece)]
		if err := conn.SetReadDeadline(time.Now().Add(stall)); err != nil {
			return err
		}
		n, err := io.ReadFull(conn, part)
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", at+n, len(want), err)
		}
		if !bytes.Equal(part, want[at:][:n]) {
			return fmt.Errorf("what arrived after %d bytes is not what was sent", at)
		}
		at += n
	}
	return nil
}
