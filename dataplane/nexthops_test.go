package dataplane

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/internal/netns"
)

// hopsLab is a device on one end of a cable, as far as next hops need one.
type hopsLab struct {
	t      *testing.T
	here   *netns.NS
	device netlink.Link
	hops   *nextHops
}

func newHopsLab(t *testing.T) *hopsLab {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	l := &hopsLab{t: t}
	var far *netns.NS
	for _, ns := range []**netns.NS{&l.here, &far} {
		var err error
		if *ns, err = netns.New(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*ns).Close() })
	}
	end := func(ns *netns.NS, four, six string) netns.End {
		return netns.End{NS: ns, Name: "p4p1", Addresses: []netip.Prefix{netip.MustParsePrefix(four), netip.MustParsePrefix(six)}}
	}
	if err := netns.Cable(end(l.here, "10.8.0.1/24", "fd08::1/64"), end(far, "10.8.0.2/24", "fd08::2/64")); err != nil {
		t.Fatal(err)
	}
	d := newDevice(slog.New(slog.DiscardHandler))
	d.steering.mark, d.steering.table = DefaultMark, DefaultTable
	l.do(func() (err error) {
		if d.nl, err = netlink.NewHandle(); err != nil {
			return err
		}
		if l.device, err = d.nl.LinkByName("p4p1"); err != nil {
			return err
		}
		d.link.index.Store(int64(l.device.Attrs().Index))
		d.link.mtu.Store(1500)
		l.hops, err = newNextHops(d)
		return err
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.hops.follow(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		d.nl.Close()
	})
	return l
}

func (l *hopsLab) do(f func() error) {
	l.t.Helper()
	if err := l.here.Do(f); err != nil {
		l.t.Fatal(err)
	}
}

// neighbour sets one; without an address it does not answer.
func (l *hopsLab) neighbour(ip, mac string, state int) {
	l.t.Helper()
	n := &netlink.Neigh{LinkIndex: l.device.Attrs().Index, IP: net.ParseIP(ip), State: state}
	n.HardwareAddr, _ = net.ParseMAC(mac)
	l.do(func() error { return netlink.NeighSet(n) })
}

// want looks a next hop up, learns it, and compares; with an empty mac it must be the IP layer.
func (l *hopsLab) want(to, via, mac string) {
	l.t.Helper()
	dst := netip.MustParseAddr(to)
	hop := l.hops.lookUp(dst)
	switch got := net.HardwareAddr(hop.Address[:]).String(); {
	case mac == "" && hop.MTU == 0:
	case mac == "" || hop.Via.String() != via || got != mac || hop.MTU != 1500 || hop.Device != l.device.Attrs().Index:
		l.t.Errorf("next hop of %s: via %v, %s, MTU %d; want via %s, %s", to, hop.Via, got, hop.MTU, via, mac)
	}
	for deadline := time.Now().Add(30 * time.Second); ; { // events of what was done before may still come
		for range 20 {
			l.hops.Learn(dst, hop, l.hops.Changes())
			time.Sleep(time.Millisecond)
		}
		if l.hops.Known(dst) {
			return
		}
		if time.Now().After(deadline) {
			l.t.Errorf("%s was not learned", to)
			return
		}
	}
}

// forgotten waits until a change has made a next hop be forgotten.
func (l *hopsLab) forgotten(to, what string) {
	l.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); l.hops.Known(netip.MustParseAddr(to)); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatalf("%s: the next hop of %s is still known", what, to)
		}
	}
}

func TestNextHopsFollowTheKernel(t *testing.T) {
	for _, c := range []struct{ name, peer, gateway, far, net string }{
		{"IPv4", "10.8.0.2", "10.8.0.3", "10.9.0.1", "10.9.0.0/16"},
		{"IPv6", "fd08::2", "fd08::3", "fd09::1", "fd09::/16"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newHopsLab(t)
			const one, two = "02:00:00:00:00:01", "02:00:00:00:00:02"
			l.want(c.peer, "", "")
			l.neighbour(c.peer, one, unix.NUD_PERMANENT)
			l.forgotten(c.peer, "neighbour found")
			l.want(c.peer, c.peer, one)
			l.neighbour(c.peer, two, unix.NUD_STALE)
			l.forgotten(c.peer, "neighbour replaced")
			l.want(c.peer, c.peer, two)
			l.neighbour(c.peer, "", unix.NUD_FAILED)
			l.forgotten(c.peer, "neighbour failed")
			l.want(c.peer, "", "")
			l.neighbour(c.peer, one, unix.NUD_REACHABLE)

			l.want(c.far, "", "")
			l.neighbour(c.gateway, two, unix.NUD_PERMANENT)
			_, dst, _ := net.ParseCIDR(c.net)
			route := &netlink.Route{Dst: dst, Gw: net.ParseIP(c.gateway), LinkIndex: l.device.Attrs().Index}
			l.do(func() error { return netlink.RouteAdd(route) })
			l.forgotten(c.far, "route added")
			l.want(c.far, c.gateway, two)
			l.neighbour(c.gateway, one, unix.NUD_PERMANENT)
			l.forgotten(c.far, "gateway replaced")
			l.want(c.far, c.gateway, one)

			// Steering is not for our packets.
			steered := &netlink.Route{Dst: dst, Table: DefaultTable, LinkIndex: l.device.Attrs().Index}
			kept := false
			for range 10 { // an event of what was done before may still come
				l.want(c.far, c.gateway, one)
				l.do(func() error { return netlink.RouteAdd(steered) })
				l.do(func() error { return netlink.RouteDel(steered) })
				time.Sleep(20 * time.Millisecond)
				if kept = l.hops.Known(netip.MustParseAddr(c.far)); kept {
					break
				}
			}
			if !kept {
				t.Error("forgotten for a steering route")
			}

			// Only marked packets go there: the rules count.
			rule := netlink.NewRule()
			rule.Mark, rule.Priority, rule.Table, rule.Family = DefaultMark, 100, 77, netlink.FAMILY_V4
			if c.name == "IPv6" {
				rule.Family = netlink.FAMILY_V6
			}
			l.do(func() error {
				return netlink.RouteAdd(&netlink.Route{Dst: dst, Table: 77, Type: unix.RTN_UNREACHABLE})
			})
			l.do(func() error { return netlink.RuleAdd(rule) })
			l.forgotten(c.far, "rule added")
			l.want(c.far, "", "")
			l.do(func() error { return netlink.RuleDel(rule) })
			l.forgotten(c.far, "rule removed")
			l.want(c.far, c.gateway, one)

			l.do(func() error { return netlink.RouteDel(route) })
			l.forgotten(c.far, "route removed")
			l.want(c.far, "", "")
			l.want(c.peer, c.peer, one)
			l.do(func() error { return netlink.LinkSetDown(l.device) })
			l.forgotten(c.peer, "link down")
			l.want(c.peer, "", "")
		})
	}
}

// What this host has itself does not leave.
func TestNextHopsOfThisHost(t *testing.T) {
	l := newHopsLab(t)
	l.want("10.8.0.1", "", "")
	l.want("10.8.0.255", "", "")
	l.want("127.0.0.1", "", "")
}
