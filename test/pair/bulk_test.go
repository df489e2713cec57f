package pair

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"espalier/test/lab"
)

// combinations are transport and tunnel mode, bare and in UDP.
var combinations = []lab.Pair{{}, {UDP: true}, {Tunnel: true}, {Tunnel: true, UDP: true}}

// eachCombination plays f with SAs and policies for both families.
func eachCombination(t *testing.T, f func(t *testing.T, l *lab.Lab, a, b netip.Addr)) {
	l := newPair(t)
	for _, p := range combinations {
		wipe(l)
		for i, v6 := range []bool{false, true} {
			p.V6, p.SPI = v6, uint32(0x1000*(i+1))
			l.Program(p)
			a, b := p.Ends()
			t.Run(fmt.Sprintf("tunnel=%v udp=%v v6=%v", p.Tunnel, p.UDP, p.V6), func(t *testing.T) { f(t, l, a, b) })
		}
	}
	stop(t, l)
}

// TestLongPing: echoes that the kernel fragments before they come to the device.
func TestLongPing(t *testing.T) {
	eachCombination(t, func(t *testing.T, l *lab.Lab, a, b netip.Addr) {
		tap := l.Watch(l.A, nil)
		for _, size := range []string{"4000", "65000"} {
			if !l.A.Ping(b, 3, "-s", size) || !l.B.Ping(a, 3, "-s", size) {
				t.Errorf("no echo of %s bytes: drops A %v, B %v", size, l.A.Drops(), l.B.Drops())
			}
		}
		if seen, err := tap.Stop(); err != nil || seen.Cleartext > 0 || seen.ESP < 24 {
			t.Errorf("on the wire %+v, %v", seen, err)
		}
	})
}

// TestTransfer sends 16 MiB over TCP, in both directions at once, and compares them.
func TestTransfer(t *testing.T) {
	const size = 16 << 20
	eachCombination(t, func(t *testing.T, l *lab.Lab, a, b netip.Addr) {
		there, here := connect(t, l, b)
		results := make(chan error, 4)
		for i, c := range []net.Conn{there, here} {
			go func() { results <- write(c, content(i, size)) }()
			go func() { results <- read(c, content(1-i, size)) }()
		}
		for range 4 {
			if err := <-results; err != nil {
				t.Fatal(err)
			}
		}
	})
}

func content(seed, size int) []byte {
	b := make([]byte, size)
	var key [32]byte
	key[0] = byte(seed + 1)
	rand.NewChaCha8(key).Read(b)
	return b
}

func write(c net.Conn, b []byte) error {
	_, err := c.Write(b)
	return err
}

func read(c net.Conn, want []byte) error {
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%d bytes came, but others than were sent", len(got))
	}
	return nil
}

// connect makes a TCP connection from host A to host B.
func connect(t *testing.T, l *lab.Lab, b netip.Addr) (there, here net.Conn) {
	t.Helper()
	var listener net.Listener
	err := l.B.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(b, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	err = l.A.Do(func() (err error) {
		there, err = net.DialTimeout("tcp", listener.Addr().String(), 10*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if here, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{there, here} {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		t.Cleanup(func() { c.Close() })
	}
	return there, here
}
