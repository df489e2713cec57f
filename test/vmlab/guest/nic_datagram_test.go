package guest

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"espalier/test/lab"
)

// plaintext is what a capture must not show.
var plaintext = []byte("what stands here in clear is for the other end alone, and not for the cable between")

// How long to wait for a datagram. That one was lost is known from what counts it.
const (
	untilThere = 5 * time.Second
	untilLost  = 10 * time.Millisecond
)

// arrives sends the plaintext from A to B, between the addresses of the pair, and reports whether
// it comes.
func (l *nicLab) arrives(t *testing.T, p lab.Pair, patience time.Duration) bool {
	t.Helper()
	a, b := p.Ends()
	return l.comes(t, l.A, a, l.B, b, patience)
}

// comes does what arrives does, between any hosts and addresses.
func (l *nicLab) comes(t *testing.T, sender *lab.Host, a netip.Addr, receiver *lab.Host, b netip.Addr, patience time.Duration) bool {
	t.Helper()
	var from, to *net.UDPConn
	listen := func(h *lab.Host, addr netip.Addr, conn **net.UDPConn) {
		t.Helper()
		inside(t, h, func() (err error) {
			*conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
			return err
		})
	}
	listen(sender, a, &from)
	defer from.Close()
	listen(receiver, b, &to)
	defer to.Close()
	// A kernel without an SA may say so, or not.
	if _, err := from.WriteTo(plaintext, to.LocalAddr()); err != nil {
		return false
	}
	if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1<<10)
	n, err := to.Read(got)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if err == nil && !bytes.Equal(got[:n], plaintext) {
		t.Errorf("what arrived is %q", got[:n])
	}
	return err == nil
}
