package conformance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
	"espalier/xfrm/client"
)

// Kernel is the running kernel as a target, in the namespace of the lab's host A. It has ESP if
// the caller says so.
func Kernel(t *testing.T, l *lab.Lab, esp bool) Target {
	t.Helper()
	target := on(t, l)
	target.Major, target.Minor = release(t)
	target.Name = fmt.Sprintf("kernel %d.%d", target.Major, target.Minor)
	target.ESP = esp
	var c *client.Client
	if err := l.A.Do(func() (err error) { c, err = client.Kernel(); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	target.Client = c
	target.OpenPort = func(port uint16) (open io.Closer, err error) {
		err = l.A.Do(func() error { open, err = encapSocket(port); return err })
		return open, err
	}
	return target
}

// Device is the userspace device as a target, started on the lab's host A.
func Device(t *testing.T, l *lab.Lab) Target {
	t.Helper()
	l.A.StartDevice()
	target := on(t, l)
	target.Name, target.Device, target.ESP = "device", true, true
	c, err := client.Dial(l.A.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	target.Client = c
	return target
}

// on is what targets on host A have in common.
func on(t *testing.T, l *lab.Lab) Target {
	return Target{
		Local: lab.A4, Peer: lab.B4,
		Send: func(port uint16, datagrams, size int) error {
			return l.A.Do(func() error { return send(port, datagrams, size) })
		},
		PeerSocket: func(port uint16) (conn *net.UDPConn, err error) {
			err = l.B.Do(func() (err error) {
				conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(lab.B4, port)))
				return err
			})
			return conn, err
		},
		SetLarvalTime: func(seconds int) error {
			return l.A.Do(func() error {
				return os.WriteFile("/proc/sys/net/core/xfrm_acq_expires", fmt.Appendln(nil, seconds), 0)
			})
		},
	}
}

// send sends by a socket that is not connected: connecting would ask for an SA by itself.
func send(port uint16, datagrams, size int) error {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(lab.A4, 0)))
	if err != nil {
		return err
	}
	defer conn.Close()
	for range datagrams {
		conn.WriteToUDPAddrPort(make([]byte, size), netip.AddrPortFrom(lab.B4, port)) // fails where a policy forbids it
	}
	return nil
}

// encapSocket is a socket behind which the kernel takes UDP encapsulation.
func encapSocket(port uint16) (io.Closer, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: int(port)})
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	failed := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_ENCAP, unix.UDP_ENCAP_ESPINUDP)
	})
	if err := errors.Join(failed, err); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// release is the version of the running kernel.
func release(t *testing.T) (major, minor int) {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major, minor
}
