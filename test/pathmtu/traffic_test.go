package pathmtu

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
)

// transfer sends 1 MiB by TCP from a host to B, which reads it.
func transfer(p *path, from *lab.Host, to netip.Addr, patience time.Duration) error {
	_, err := send(p, from, to, patience)
	return err
}

// sentMSS does so and returns the largest segment that the sender's TCP sends in the end, in bytes.
func sentMSS(t *testing.T, p *path, from *lab.Host, to netip.Addr) int {
	t.Helper()
	mss, err := send(p, from, to, patience)
	if err != nil {
		t.Fatalf("TCP stands still: %v; drops %v", err, p.A.Drops())
	}
	return mss
}

func send(p *path, from *lab.Host, to netip.Addr, patience time.Duration) (mss int, err error) {
	const size = 1 << 20
	var listener *net.TCPListener
	if err := p.B.Do(func() (err error) {
		listener, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(to, 0)))
		return err
	}); err != nil {
		return 0, err
	}
	defer listener.Close()
	deadline := time.Now().Add(patience)
	listener.SetDeadline(deadline)
	read := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			defer conn.Close()
			conn.SetDeadline(deadline)
			if _, err = io.CopyN(io.Discard, conn, size); err == nil {
				_, err = conn.Write([]byte{1})
			}
		}
		read <- err
	}()
	var conn net.Conn
	if err = from.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", listener.Addr().String(), patience)
		return err
	}); err == nil {
		defer conn.Close()
		conn.SetDeadline(deadline)
		if _, err = conn.Write(lab.Pattern(size, 1)); err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
	}
	if err := errors.Join(err, <-read); err != nil {
		return 0, err
	}
	err = control(conn.(*net.TCPConn), func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err == nil {
			mss = int(info.Snd_mss)
		}
		return err
	})
	return mss, err
}

// patience is how long something may stand still that has to go on.
const patience = 40 * time.Second

func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) { err = f(int(fd)) }), err)
}

// dial opens a UDP socket on A that must not fragment (df), or may.
func dial(t *testing.T, p *path, to netip.AddrPort, df bool) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	if err := p.A.Do(func() (err error) {
		conn, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := control(conn, func(fd int) error {
		want := unix.IP_PMTUDISC_DONT
		if df {
			want = unix.IP_PMTUDISC_DO
		}
		if to.Addr().Is6() {
			return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, want)
		}
		return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, want)
	}); err != nil {
		t.Fatal(err)
	}
	return conn
}

// listen opens a UDP socket on B.
func listen(t *testing.T, p *path, at netip.Addr) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	var conn *net.UDPConn
	if err := p.B.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, netip.AddrPortFrom(at, conn.LocalAddr().(*net.UDPAddr).AddrPort().Port())
}

// arrives sends so many bytes until they arrive, which they have to.
func arrives(t *testing.T, p *path, from, at *net.UDPConn, size int) {
	t.Helper()
	buf := make([]byte, 1<<16)
	for start := time.Now(); time.Since(start) < patience; {
		if _, err := from.Write(lab.Pattern(size, 9)); err != nil && !errors.Is(err, unix.EMSGSIZE) {
			t.Fatal(err)
		}
		at.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := at.Read(buf); err == nil && n == size {
			return
		}
	}
	t.Fatalf("%d bytes of UDP do not arrive; drops A %v, B %v", size, p.A.Drops(), p.B.Drops())
}

// largestUDP sends datagrams that must not be fragmented until the kernel refuses them, and returns the
// length of the largest IP packet that it takes then.
func largestUDP(t *testing.T, p *path, from *net.UDPConn, headers int) int {
	t.Helper()
	size := 1415 - headers
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		_, err := from.Write(lab.Pattern(size, 9))
		if errors.Is(err, unix.EMSGSIZE) {
			break
		}
		if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
		if time.Since(start) > patience {
			t.Fatalf("the kernel still sends %d bytes; drops %v", size, p.A.Drops())
		}
	}
	for ; size > 0; size-- {
		from.Write(nil) // takes the error that waits since the message came
		if _, err := from.Write(lab.Pattern(size, 9)); err == nil {
			return size + headers
		}
	}
	t.Fatal("the kernel sends nothing any more")
	return 0
}

// fits is the longest inner packet that ESP of the form carries over a path with this MTU: worked out
// here from RFC 4303 and 4106 for an ICV of 16 bytes.
func fits(f lab.Pair, mtu int) int {
	ip := 20
	if f.V6 {
		ip = 40
	}
	room := mtu - ip - 8 - 8 - 16
	if f.UDP {
		room -= 8
	}
	room = room/4*4 - 2
	if !f.Tunnel {
		room += ip
	}
	return room
}

// headerLen is the length of the inner IP header.
func headerLen(f lab.Pair) int {
	if f.V6 {
		return 40
	}
	return 20
}
