package guard

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// router is a host between two others, one behind lan and one behind p4p1, that forwards.
type router struct {
	t          *testing.T
	here       netns.NsHandle
	lan, wan   *station
	identifier uint16
}

// station is a host beside the router.
type station struct {
	fd     int // packet socket on its end of the cable
	router net.HardwareAddr
	own    net.HardwareAddr
}

func newRouter(t *testing.T) *router {
	r := &router{t: t, here: inNamespace(t)}
	for path, value := range map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"} {
		writeSysctl(t, path, value)
	}
	r.lan = r.beside("lan", "10.1.0.1/16", "2001:db8:1::1/48", "10.1.0.9", "2001:db8:1::9")
	r.wan = r.beside("p4p1", "10.2.0.1/16", "2001:db8:2::1/48", "10.2.0.9", "2001:db8:2::9")
	for _, ok := range r.cross(r.lan, r.wan, packet{src: "10.1.0.9", dst: "10.2.0.9", proto: 253, payload: ports(1, 2)},
		packet{src: "2001:db8:1::9", dst: "2001:db8:2::9", proto: 253, payload: ports(1, 2)}) {
		if !ok {
			t.Fatal("the router does not forward")
		}
	}
	return r
}

func (r *router) beside(device, ip4, ip6 string, peers ...string) *station {
	far := must(netns.New())
	ok(netns.Set(r.here))
	ok(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: device}, PeerName: device, PeerNamespace: netlink.NsFd(far)}))
	l := &lab{t: r.t, here: r.here, far: far}
	link := l.up(device, ip4, ip6)
	s := &station{router: link.Attrs().HardwareAddr}
	l.there(func() {
		s.own = l.up(device).Attrs().HardwareAddr
		s.fd = must(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0))
		ok(unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: swap16(unix.ETH_P_ALL), Ifindex: must(net.InterfaceByName(device)).Index}))
	})
	r.t.Cleanup(func() { unix.Close(s.fd); far.Close() })
	for _, ip := range peers {
		ok(netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, IP: net.ParseIP(ip), HardwareAddr: s.own, State: netlink.NUD_PERMANENT}))
	}
	return s
}

func writeSysctl(t *testing.T, path, value string) {
	t.Helper()
	f, err := openSysctl(path)
	if err != nil {
		skip(t, err.Error())
	}
	defer f.Close()
	must(f.WriteString(value))
}

// cross sends packets from one station to the other and reports which come through. A packet that no
// policy is about follows each batch: when it is there, what is missing was dropped.
func (r *router) cross(from, to *station, packets ...packet) []bool {
	r.t.Helper()
	write := func(p packet) {
		b := p.bytes()
		etherType := []byte{0x08, 0}
		if b[0]>>4 == 6 {
			etherType = []byte{0x86, 0xdd}
		}
		must(unix.Write(from.fd, slices.Concat(from.router, from.own, etherType, b)))
	}
	for i := range packets {
		r.identifier++
		packets[i].id = r.identifier
	}
	r.identifier++
	last := packet{src: "10.1.0.9", dst: "10.2.0.9", proto: 252, payload: ports(1, 2), id: r.identifier}
	if from == r.wan {
		last.src, last.dst = last.dst, last.src
	}
	came := make(map[uint16]bool)
	buf := make([]byte, 65536)
	deadline := time.Now().Add(30 * time.Second)
	for sent := (time.Time{}); !came[last.id]; {
		if time.Now().After(deadline) {
			r.t.Fatal("a packet that no rule concerns did not arrive")
		}
		if time.Since(sent) > 200*time.Millisecond { // a link drops packets while it is coming up
			for _, p := range packets {
				write(p)
			}
			write(last)
			sent = time.Now()
		}
		n, _, err := unix.Recvfrom(to.fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		switch b := buf[14:n]; {
		case len(b) > 20 && b[0]>>4 == 4:
			came[uint16(b[4])<<8|uint16(b[5])] = true
		case len(b) > 40 && b[0]>>4 == 6:
			came[uint16(b[2])<<8|uint16(b[3])] = true
		}
	}
	passed := make([]bool, len(packets))
	for i, p := range packets {
		passed[i] = came[p.id]
	}
	return passed
}

// forHost are policies as the kernel, or the engine behind a device, has them.
func forHost(device string, lists ...[]ipsec.Policy) []HostPolicy {
	var all []HostPolicy
	for _, p := range together(lists...) {
		all = append(all, HostPolicy{Policy: p, Device: device})
		if p.Direction == ipsec.Inbound {
			p.Direction = ipsec.Forward
			all = append(all, HostPolicy{Policy: p, Device: device})
		}
	}
	return all
}

func loadHost(t *testing.T, policies []HostPolicy, encaps ...Encap) {
	t.Helper()
	if err := ApplyHost(HostRules{Policies: policies, Encaps: encaps}); err != nil {
		t.Fatal(err)
	}
}

// hostScene is a set of packets between the networks of the router, and what the guard is to do.
type hostScene struct {
	name    string
	packet  packet // out; the one in is its mirror image
	out, in bool
}

func (r *router) play(t *testing.T, scenes []hostScene) {
	t.Helper()
	var outs, ins []packet
	for _, s := range scenes {
		outs, ins = append(outs, s.packet), append(ins, crossing{packet: s.packet}.mirrored())
	}
	for i, got := range r.cross(r.lan, r.wan, outs...) {
		if got != scenes[i].out {
			t.Errorf("%s: going out: passed %v, want %v", scenes[i].name, got, scenes[i].out)
		}
	}
	for i, got := range r.cross(r.wan, r.lan, ins...) {
		if got != scenes[i].in {
			t.Errorf("%s: coming in: passed %v, want %v", scenes[i].name, got, scenes[i].in)
		}
	}
}

func lanToWAN(proto uint8, payload []byte) packet {
	return packet{src: "10.1.0.9", dst: "10.2.0.9", proto: proto, payload: payload}
}

func lanToWAN6(proto uint8, payload []byte) packet {
	return packet{src: "2001:db8:1::9", dst: "2001:db8:2::9", proto: proto, payload: payload}
}

func TestHostGuardWithoutSAs(t *testing.T) {
	r := newRouter(t)
	all4, all6 := sel("10.1.0.0/16", "10.2.0.0/16", 0, anyPort, anyPort), sel("2001:db8:1::/48", "2001:db8:2::/48", 0, anyPort, anyPort)
	ssh := sel("10.1.0.0/16", "10.2.0.0/16", unix.IPPROTO_TCP, anyPort, 22)
	passes := sel("10.1.0.0/16", "10.2.0.0/16", 252, anyPort, anyPort)
	policies := forHost("", bothWays(ipsec.Protect, 20, all4), bothWays(ipsec.Protect, 20, all6), bothWays(ipsec.Bypass, 10, ssh), bothWays(ipsec.Bypass, 9, passes))
	encaps := []Encap{{addrPort("10.1.0.9:4500"), addrPort("10.2.0.9:4501")}}
	scenes := []hostScene{
		{name: "cleartext", packet: lanToWAN(17, ports(5, 6))},
		{name: "cleartext, IPv6", packet: lanToWAN6(17, ports(5, 6))},
		{name: "ESP", packet: lanToWAN(50, ports(5, 6)), out: true, in: true},
		{name: "ESP, IPv6", packet: lanToWAN6(50, ports(5, 6)), out: true, in: true},
		{name: "a fragment of ESP", packet: with(lanToWAN(50, ports(5, 6)), func(p *packet) { p.fragOffset = 8 }), out: true, in: true},
		{name: "encapsulation", packet: lanToWAN(17, ports(4500, 4501)), out: true, in: true},
		{name: "other ports", packet: lanToWAN(17, ports(4501, 4500))},
		{name: "TCP with these ports", packet: lanToWAN(6, ports(4500, 4501))},
		// Whoever encapsulates does so before there are fragments; they may come in, to be joined.
		{name: "a later fragment of UDP", packet: with(lanToWAN(17, ports(4500, 4501)), func(p *packet) { p.fragOffset = 8 }), in: true},
		{name: "bypassed", packet: lanToWAN(6, ports(99, 22)), out: true, in: true},
		{name: "a later fragment of it", packet: with(lanToWAN(6, ports(99, 22)), func(p *packet) { p.fragOffset = 8 })},
		{name: "others", packet: with(lanToWAN(17, ports(5, 6)), func(p *packet) { p.src = "10.9.0.9" }), out: true, in: true},
	}
	// The control: without the guard all of it passes.
	ok(netlink.RouteAdd(&netlink.Route{Dst: must(netlink.ParseIPNet("10.9.0.0/16")), Gw: net.ParseIP("10.1.0.9")}))
	open := slices.Clone(scenes)
	for i := range open {
		open[i].out, open[i].in = true, true
	}
	r.play(t, open)
	loadHost(t, policies, encaps...)
	r.play(t, scenes)
	before, loaded, err := HostCounters()
	if err != nil || !loaded || before.In == 0 || before.Out == 0 {
		t.Errorf("counters: %+v, %v, %v", before, loaded, err)
	}

	loadHost(t, policies, encaps...) // again: nothing differs, and nothing is forgotten
	if after, _, _ := HostCounters(); after != before {
		t.Errorf("counters after loading again: %+v, before %+v", after, before)
	}
	for i := range policies {
		for j := range policies[i].Processing {
			policies[i].Processing = slices.Clone(policies[i].Processing)
			policies[i].Processing[j].Optional = true
		}
	}
	loadHost(t, policies, encaps...)
	r.play(t, open)
	if err := errors.Join(ReleaseHost(), ReleaseHost()); err != nil {
		t.Error(err)
	}
	if _, loaded, err := HostCounters(); loaded || err != nil {
		t.Errorf("after release: loaded %v, %v", loaded, err)
	}
	r.play(t, open)
}

func TestHostGuardOfAUserspaceDevice(t *testing.T) {
	all4 := sel("10.1.0.0/16", "10.2.0.0/16", 17, anyPort, anyPort)
	policies := forHost("p4p1", bothWays(ipsec.Protect, 20, all4))
	t.Run("before the device", func(t *testing.T) {
		inNamespace(t)
		loadHost(t, policies)
	})
	r := newRouter(t)
	loadHost(t, policies)
	r.play(t, []hostScene{{name: "by the device", packet: lanToWAN(17, ports(5, 6))}, {name: "other traffic", packet: lanToWAN(6, ports(5, 6)), out: true, in: true}})
	// What comes and goes by another device, as the engine's TUN is one, is let alone.
	for i := range policies {
		policies[i].Device = "p4p9"
	}
	loadHost(t, policies)
	r.play(t, []hostScene{{name: "by another device", packet: lanToWAN(17, ports(5, 6)), out: true, in: true}})
}

// TestHostGuardMarks: policies about marked packets leave others alone, and what a NIC was given passes.
func TestHostGuardMarks(t *testing.T) {
	r := newRouter(t)
	mark := func(rule string) {
		nft(t, "add table inet m; delete table inet m; table inet m { chain c { type filter hook prerouting priority -2000; "+rule+"; }; }")
	}
	policies := forHost("", bothWays(ipsec.Protect, 20, sel("10.1.0.0/16", "10.2.0.0/16", 17, anyPort, anyPort)))
	for i := range policies {
		policies[i].Mark, policies[i].Mask = 0x20, 0xf0
	}
	clear := lanToWAN(17, ports(5, 6))
	loadHost(t, policies)
	mark("meta mark set 0x12f")
	r.play(t, []hostScene{{name: "marked", packet: clear}})
	mark("meta mark set 0x13f")
	r.play(t, []hostScene{{name: "marked otherwise", packet: clear, out: true, in: true}})

	for i := range policies {
		policies[i].Mark, policies[i].Mask = 0, 0
	}
	mark("meta mark set 0xe5b0ffff")
	loadHost(t, policies)
	r.play(t, []hostScene{{name: "the mark, without packet offload", packet: clear}})
	for i := range policies {
		policies[i].PacketOffload = true
	}
	loadHost(t, policies)
	r.play(t, []hostScene{{name: "handed over to the NIC", packet: clear, out: true}})
	mark("meta mark set 0xe5b0fffe")
	r.play(t, []hostScene{{name: "not handed over", packet: clear}})
}

// TestHostGuardReads: a person can tell what it holds back, and why.
func TestHostGuardReads(t *testing.T) {
	inNamespace(t)
	var many []HostPolicy
	for i := range 300 {
		s := sel("10.1.0.0/24", "", 6, anyPort, i+1)
		s.Dst = prefix("10.2.0.0/24")
		many = append(many, forHost("", bothWays(ipsec.Protect, 20, s))...)
	}
	loadHost(t, append(many, forHost("p4p1", bothWays(ipsec.Protect, 20, sel("10.3.0.0/24", "10.4.0.0/24", 0, anyPort, anyPort)))...))
	text := nft(t, "list", "table", "inet", "espalier")
	for _, want := range []string{"hook prerouting priority -1000", "hook postrouting priority 1000", "rt ipsec exists accept", "meta ipsec exists accept",
		`oifname != "p4p1" accept`, "out protect 10.1.0.0/24 > 10.2.0.0/24 proto 6 dport 300 prio 20", "out protect 10.3.0.0/24 > 10.4.0.0/24 prio 20"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestHostGuardRefusals(t *testing.T) {
	inNamespace(t)
	good := forHost("", bothWays(ipsec.Protect, 20, sel("10.1.0.0/16", "10.2.0.0/16", 0, anyPort, anyPort)))
	loadHost(t, good)
	for name, bad := range map[string]HostRules{
		"mark":   {Policies: []HostPolicy{{Policy: good[0].Policy, Mark: 3, Mask: 2}}},
		"device": {Policies: []HostPolicy{{Policy: good[0].Policy, Device: "a-name-of-20-letters"}}},
		"encap":  {Policies: good, Encaps: []Encap{{addrPort("10.0.0.1:0"), addrPort("10.0.0.2:1")}}},
		"family": {Policies: []HostPolicy{{Policy: ipsec.Policy{Direction: ipsec.Outbound, Selector: sel("10.0.0.0/8", "2001:db8::/32", 0, anyPort, anyPort)}}}},
	} {
		if err := ApplyHost(bad); !errors.Is(err, ipsec.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, loaded, err := HostCounters(); !loaded || err != nil {
		t.Errorf("the guard before: %v, %v", loaded, err)
	}
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func openSysctl(path string) (*os.File, error) {
	return os.OpenFile("/proc/sys/net/"+path, os.O_WRONLY, 0)
}
