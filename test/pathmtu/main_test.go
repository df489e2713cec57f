// Package pathmtu has two userspace devices speak to each other over a router with a narrow link:
// the path MTU of one direction is less than the MTU of any device of the sender.
package pathmtu

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"espalier/internal/netns"
	"espalier/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

const (
	wide   = 1500
	narrow = 1300
)

// path is host A, a router, and host B behind the router's narrow link.
type path struct {
	*lab.Lab
	router *lab.Host
}

func prefixes(t *testing.T, all ...string) (out []netip.Prefix) {
	t.Helper()
	for _, s := range all {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// newPath makes the hosts and starts their devices. args are for that of A.
func newPath(t *testing.T, args ...string) *path {
	lab.Root(t)
	lab.Tools(t, "ip", "ping", "ethtool", "sysctl", "nft")
	const device = "p4p1"
	p := &path{
		Lab:    &lab.Lab{A: lab.NewHost(t, "A", device), B: lab.NewHost(t, "B", device), Device: device},
		router: lab.NewHost(t, "router", "near"),
	}
	a, b := netip.PrefixFrom(lab.A4, 32), netip.PrefixFrom(lab.B4, 32)
	a6, b6 := netip.PrefixFrom(lab.A6, 128), netip.PrefixFrom(lab.B6, 128)
	for _, cable := range [][2]netns.End{
		{
			{NS: p.A.NS, Name: device, Addresses: append(prefixes(t, "10.1.0.2/30", "fd01::2/64"), a, a6)},
			{NS: p.router.NS, Name: "near", Addresses: prefixes(t, "10.1.0.1/30", "fd01::1/64")},
		}, {
			{NS: p.B.NS, Name: device, Addresses: append(prefixes(t, "10.2.0.2/30", "fd02::2/64"), b, b6)},
			{NS: p.router.NS, Name: "far", Addresses: prefixes(t, "10.2.0.1/30", "fd02::1/64")},
		},
	} {
		if err := netns.Cable(cable[0], cable[1]); err != nil {
			t.Fatal(err)
		}
	}
	p.router.Must("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	p.A.Must("ip", "route", "add", "default", "via", "10.1.0.1", "src", lab.A4.String())
	p.A.Must("ip", "route", "add", "default", "via", "fd01::1", "src", lab.A6.String())
	p.B.Must("ip", "route", "add", "default", "via", "10.2.0.1", "src", lab.B4.String())
	p.B.Must("ip", "route", "add", "default", "via", "fd02::1", "src", lab.B6.String())
	p.router.Must("ip", "route", "add", a.String(), "via", "10.1.0.2")
	p.router.Must("ip", "route", "add", a6.String(), "via", "fd01::2")
	p.router.Must("ip", "route", "add", b.String(), "via", "10.2.0.2")
	p.router.Must("ip", "route", "add", b6.String(), "via", "fd02::2")
	p.setFar(narrow)
	// A super-packet would cross the cable whole.
	p.A.Must("ethtool", "-K", device, "tx-udp-segmentation", "off")
	p.B.Must("ethtool", "-K", device, "tx-udp-segmentation", "off")
	// Filters of reverse paths that refuse what they can.
	p.A.Must("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.all.accept_local=0")
	p.A.StartDevice(args...)
	p.B.StartDevice("--pmtu-probe", "0")
	t.Cleanup(func() {
		for _, h := range p.Hosts() {
			if code := h.Stop(); code != 0 {
				t.Errorf("the device of host %s ended with %d", h.Name, code)
			}
		}
	})
	return p
}

// setFar sets the MTU of the link between the router and B.
func (p *path) setFar(mtu int) {
	p.router.Must("ip", "link", "set", "far", "mtu", fmt.Sprint(mtu))
	p.B.Must("ip", "link", "set", "p4p1", "mtu", fmt.Sprint(mtu))
}

// deafen has the router forward what fits, and say nothing of the rest.
func (p *path) deafen() {
	p.router.Must("nft", "add table inet silent; add chain inet silent out { type filter hook output priority 0; }; "+
		"add rule inet silent out icmp type destination-unreachable drop; add rule inet silent out icmpv6 type packet-too-big drop")
}

// forms are the pairs of SAs that are tried.
func forms() []lab.Pair {
	var all []lab.Pair
	for _, v6 := range []bool{false, true} {
		for _, tunnel := range []bool{false, true} {
			for _, udp := range []bool{false, true} {
				all = append(all, lab.Pair{V6: v6, Tunnel: tunnel, UDP: udp})
			}
		}
	}
	return all
}

func name(p lab.Pair) string {
	return fmt.Sprintf("v6=%v tunnel=%v udp=%v", p.V6, p.Tunnel, p.UDP)
}
