package guest

import (
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
)

// stream is datagrams from one host to the other, as long as the scenario is looked at.
type stream struct {
	back    bool // from B to A
	v6      bool
	options bool // with an IP option, which no NIC's ESP knows
	big     bool // larger than the link takes: cut up after encryption
}

// burst is how many packets a stream sends at once.
const burst = 20

// nop are IPv4 options that say nothing (RFC 791 §3.1).
const nop = "\x01\x01\x01\x00"

// open makes the sockets of streams between two hosts, and a function that has each send a burst.
func open(t *testing.T, hosts [2]*lab.Host, streams []stream) (send func()) {
	t.Helper()
	var sends []func()
	for _, s := range streams {
		from, to, src, dst := hosts[0], hosts[1], lab.A4, lab.B4
		if s.v6 {
			src, dst = lab.A6, lab.B6
		}
		if s.back {
			from, to, src, dst = to, from, dst, src
		}
		address := nowhere(dst)
		if to != nil {
			// Somebody is there: who is not would be told of by ICMP, through an SA.
			address = listenOn(t, to, dst).LocalAddr()
		}
		conn := listenOn(t, from, src)
		if s.options {
			withOptions(t, conn)
		}
		payload := slices.Clone(plaintext)
		if s.big {
			payload = slices.Concat(payload, make([]byte, 2000))
		}
		sends = append(sends, func() { conn.WriteTo(payload, address) }) // it may be refused
	}
	return func() {
		for range burst {
			for _, send := range sends {
				send()
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// listenOn opens a socket on a host, on any port of an address, until the test's end. Nobody reads
// what comes.
func listenOn(t *testing.T, h *lab.Host, addr netip.Addr) (conn *net.UDPConn) {
	t.Helper()
	inside(t, h, func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn
}

// nowhere is where nobody listens.
func nowhere(addr netip.Addr) net.Addr {
	return net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 9))
}

func withOptions(t *testing.T, conn syscall.Conn) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.IPPROTO_IP, unix.IP_OPTIONS, nop) })
		if cerr != nil {
			err = cerr
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}
