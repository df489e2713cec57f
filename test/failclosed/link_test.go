package failclosed

import (
	"strings"
	"testing"
	"time"

	"espalier/test/lab"
)

// A link that goes takes IPv6 addresses and routes with it, and gives only the routes back.
// The steering comes back by itself; nothing slips out meanwhile. The tap is at B's end: A's
// closes with the link.
func TestLinkDownAndUp(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping", "ip")
	l := lab.New(t, "")
	startDevices(l)
	program(l, pairs(0))
	s := startStream(t, l.A, l.B, lab.B6)
	s.awaitMore(t, "before")
	c := wantClosed(t, l, l.B, "link down and up", func() {
		l.A.Must("ip", "link", "set", l.Device, "down")
		ping(l.A, lab.B4)
		sendTo(l.A, lab.B6, nil)
		l.A.Must("ip", "link", "set", l.Device, "up")
		tryAll(l) // IPv6 without an address still
		l.A.Must("ip", "address", "add", lab.A6.String()+"/64", "dev", l.Device, "nodad")
		awaitPing(t, l)
		tryAll(l)
		s.awaitMore(t, "after")
		s.stop()
		checkWorks(t, l, "after")
	})
	if c.ESP == 0 {
		t.Error("no ESP on the wire")
	}
}

// Without its address the host has no source for the steering route. It gets it back with the
// address.
func TestAddressGoneAndBack(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping", "ip")
	l := lab.New(t, "")
	startDevices(l)
	program(l, pairs(0))
	wantClosed(t, l, l.A, "addresses gone and back", func() {
		l.A.Must("ip", "address", "del", lab.A4.String()+"/24", "dev", l.Device)
		l.A.Must("ip", "address", "del", lab.A6.String()+"/64", "dev", l.Device)
		tryAll(l)
		l.A.Must("ip", "address", "add", lab.A4.String()+"/24", "dev", l.Device)
		l.A.Must("ip", "address", "add", lab.A6.String()+"/64", "dev", l.Device, "nodad")
		tryAll(l)
		awaitPing(t, l)
		checkWorks(t, l, "after")
	})
	route := l.A.Must("ip", "-6", "route", "show", "table", "all", lab.B6.String(), "dev", "esp-"+l.Device)
	if !strings.Contains(route, "src "+lab.A6.String()) {
		t.Errorf("the steering route has no source address: %q", route)
	}
}

// The kernel takes all routes of a link that goes down, those into the TUN too. Until they are
// back traffic meets the guard.
func TestTUNDownAndUp(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping", "ip")
	l := lab.New(t, "")
	startDevices(l)
	program(l, pairs(0))
	wantClosed(t, l, l.A, "TUN down and up", func() {
		l.A.Must("ip", "link", "set", "esp-"+l.Device, "down")
		tryAll(l)
		l.A.Must("ip", "link", "set", "esp-"+l.Device, "up")
		awaitPing(t, l)
		checkWorks(t, l, "after")
	})
}

// awaitPing waits until routes are back and neighbours have found each other again.
func awaitPing(t *testing.T, l *lab.Lab) {
	t.Helper()
	for start := time.Now(); !l.A.Ping(lab.B4, 1) || !l.A.Ping(lab.B6, 1); time.Sleep(50 * time.Millisecond) {
		if time.Since(start) > 10*time.Second {
			t.Fatal("ping still fails after everything is back")
		}
	}
}

// The same without a guard: what A sends while the link comes up is seen at B's end.
func TestLinkDownAndUpControl(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping", "ip")
	l := lab.New(t, "")
	c := watch(t, l, l.B, func() {
		l.A.Must("ip", "link", "set", l.Device, "down")
		l.A.Must("ip", "link", "set", l.Device, "up")
		l.A.Must("ip", "address", "add", lab.A6.String()+"/64", "dev", l.Device, "nodad")
		awaitPing(t, l)
	})
	if c.Cleartext == 0 {
		t.Error("nothing was seen in clear")
	}
}
