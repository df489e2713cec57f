package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/internal/netns"
)

// hosts are two namespaces with a cable: rules are those of b.
type hosts struct {
	a, b *netns.NS
}

func newHosts(t *testing.T) hosts {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil || os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root and nft")
		}
		t.Skip("needs root and nft")
	}
	var h hosts
	for _, ns := range []**netns.NS{&h.a, &h.b} {
		n, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { n.Close() })
		*ns = n
	}
	err := netns.Cable(
		netns.End{NS: h.a, Name: "p4p2", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}},
		netns.End{NS: h.b, Name: "p4p1", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// nft loads rules in b.
func (h hosts) nft(t *testing.T, rules string) {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := h.b.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("nft: %v\n%s\n%s", err, out.String(), rules)
	}
}

// read reads b's rules, and the number of its device.
func (h hosts) read(t *testing.T) (chains []Chain, index int) {
	t.Helper()
	err := h.b.Do(func() (err error) {
		if chains, err = Read(); err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("p4p1")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
			return err
		}
		index = int(ifr.Uint32())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return chains, index
}

// arrives sends a packet and tells whether the other end's socket gets it.
func (h hosts) arrives(t *testing.T, v6 bool, proto int, inbound bool) bool {
	t.Helper()
	from, to := h.b, h.a
	src, dst := "192.0.2.2", "192.0.2.1"
	if v6 {
		src, dst = "2001:db8::2", "2001:db8::1"
	}
	if inbound {
		from, to, src, dst = to, from, dst, src
	}
	kind, port := unix.SOCK_RAW, 0
	if proto == unix.IPPROTO_UDP {
		kind, port = unix.SOCK_DGRAM, 4500
	}
	open := func(ns *netns.NS, addr string) int {
		fd := -1
		err := ns.Do(func() (err error) {
			family := unix.AF_INET
			if v6 {
				family = unix.AF_INET6
			}
			if fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto); err != nil {
				return err
			}
			return unix.Bind(fd, sockaddr(addr, port))
		})
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	out, in := open(from, src), open(to, dst)
	defer unix.Close(out)
	defer unix.Close(in)
	payload := []byte("\x12\x34\x56\x78\x00\x00\x00\x01 not for anybody's SA")
	defer onOneCPU(t)()
	if err := unix.Sendto(out, payload, 0, sockaddr(dst, port)); err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatal(err) // EPERM is the rules' doing
	}
	// It may have to wait for a neighbour's question and answer, which follow each other.
	for range 8 {
		h.follow(t)
		b := make([]byte, 200)
		if n, _, err := unix.Recvfrom(in, b, unix.MSG_DONTWAIT); err == nil {
			return strings.Contains(string(b[:n]), "not for anybody")
		}
	}
	return false
}

// onOneCPU keeps the thread on the CPU that it is on, until undone. The kernel takes in what comes over veth
// cables and loopback on the CPU that has sent it, one after the other.
func onOneCPU(t *testing.T) (undo func()) {
	t.Helper()
	runtime.LockOSThread()
	var all, one unix.CPUSet
	var cpu int
	err := unix.SchedGetaffinity(0, &all)
	for cpu = 0; err == nil && !all.IsSet(cpu); cpu++ {
	}
	one.Set(cpu)
	if err == nil {
		err = unix.SchedSetaffinity(0, &one)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		unix.SchedSetaffinity(0, &all)
		runtime.UnlockOSThread()
	}
}

// follow returns when a packet on a's loopback device, where there are no rules, has come: what was sent before
// on this CPU has come then, too, or was dropped.
func (h hosts) follow(t *testing.T) {
	t.Helper()
	fd := -1
	err := h.a.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return unix.Bind(fd, sockaddr("127.0.0.1", 0))
	})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	self, err := unix.Getsockname(fd)
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20})
	}
	if err == nil {
		err = unix.Sendto(fd, []byte{1}, 0, self)
	}
	if err == nil {
		_, _, err = unix.Recvfrom(fd, make([]byte, 1), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func sockaddr(addr string, port int) unix.Sockaddr {
	a := netip.MustParseAddr(addr)
	if a.Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: a.As16()}
}

// TestAgainstKernel holds what we foretell of a packet against what the kernel does with one.
func TestAgainstKernel(t *testing.T) {
	const inputHook = "type filter hook input priority 0;"
	for _, c := range []struct {
		name, rules string
		depends     bool // at most: a packet whose fate is not known here
	}{
		{"none", "", false},
		{"drop protocol 50", "table inet t { chain i { " + inputHook + " meta l4proto esp drop; }; }", false},
		{"reject protocol 50", "table inet t { chain i { " + inputHook + " meta l4proto 50 reject; }; }", false},
		{"drop 4500", "table inet t { chain i { " + inputHook + " udp dport 4500 drop; }; }", false},
		{"drop a range", "table inet t { chain i { " + inputHook + " udp dport 4000-5000 drop; }; }", false},
		{"drop a set", "table inet t { chain i { " + inputHook + " udp dport { 500, 4500 } drop; }; }", false},
		{"drop a set of ranges", "table inet t { chain i { " + inputHook + " udp sport { 1-10, 4400-4500, 60000-65535 } drop; }; }", false},
		{"not in a set of ranges", "table inet t { chain i { " + inputHook + " udp sport { 1-10, 4400-4499, 60000-65535 } drop; }; }", false},
		{"named set", "table inet t { set s { type inet_proto; elements = { esp, ah } }; chain i { " + inputHook + " meta l4proto @s drop; }; }", false},
		{"inverted set", "table inet t { chain i { " + inputHook + " meta l4proto != { tcp, udp, icmpv6 } drop; }; }", false},
		{"ip only", "table inet t { chain i { " + inputHook + " ip protocol esp drop; }; }", false},
		{"ip6 only", "table inet t { chain i { " + inputHook + " ip6 nexthdr esp drop; }; }", false},
		{"table of ip", "table ip t { chain i { " + inputHook + " ip protocol esp drop; }; }", false},
		{"table of ip6", "table ip6 t { chain i { " + inputHook + " meta l4proto { esp, udp } drop; }; }", false},
		{"policy drop", "table inet t { chain i { " + inputHook + " policy drop; icmpv6 type { 133, 134, 135, 136 } accept; }; }", false},
		{"policy drop, esp let through", "table inet t { chain i { " + inputHook + " policy drop; iifname lo accept; icmpv6 type { 133, 134, 135, 136 } accept; meta l4proto esp accept; tcp dport 22 accept; }; }", false},
		{"state", "table inet t { chain i { " + inputHook + " policy drop; ct state established,related accept; ct state invalid drop; icmpv6 type 133-136 accept; }; }", false},
		{"state new", "table inet t { chain i { " + inputHook + " ct state new drop; }; }", false},
		{"state not new", "table inet t { chain i { " + inputHook + " icmpv6 type 133-136 accept; ct state != new drop; }; }", false},
		{"state map", "table inet t { chain i { " + inputHook + " policy drop; ct state vmap { established : accept, new : jump new }; icmpv6 type 133-136 accept; }; chain new { meta l4proto esp accept; }; }", false},
		{"status", "table inet t { chain i { " + inputHook + " ct status dnat drop; }; }", false},
		{"protocol map", "table inet t { chain i { " + inputHook + " meta l4proto vmap { esp : drop, udp : accept }; }; }", false},
		{"by device", `table inet t { chain i { ` + inputHook + ` iifname "p4p1" meta l4proto esp drop; }; }`, false},
		{"by another device", `table inet t { chain i { ` + inputHook + ` iifname "eth0" meta l4proto esp drop; }; }`, false},
		{"by a device's beginning", `table inet t { chain i { ` + inputHook + ` iifname "p4*" meta l4proto esp drop; }; }`, false},
		{"by number", `table inet t { chain i { ` + inputHook + ` iif "p4p1" meta l4proto esp drop; }; }`, false},
		{"not the device", `table inet t { chain i { ` + inputHook + ` iifname != "lo" udp dport 4500 drop; }; }`, false},
		{"set of devices", `table inet t { chain i { ` + inputHook + ` iifname { "lo", "p4p1" } meta l4proto esp drop; }; }`, false},
		{"jump and return", "table inet t { chain a { udp dport 4500 return; drop; }; chain i { " + inputHook + " icmpv6 type 133-136 accept; jump a; }; }", false},
		{"goto", "table inet t { chain a { meta l4proto esp accept; }; chain i { " + inputHook + " policy drop; icmpv6 type 133-136 accept; meta l4proto esp goto a; }; }", false},
		{"goto does not come back", "table inet t { chain a { meta l4proto tcp accept; }; chain i { " + inputHook + " policy drop; icmpv6 type 133-136 accept; meta l4proto esp goto a; accept; }; }", false},
		{"output", "table inet t { chain o { type filter hook output priority 0; meta l4proto esp drop; }; }", false},
		{"postrouting", `table inet t { chain o { type filter hook postrouting priority 0; oifname "p4p1" udp sport 4500 drop; }; }`, false},
		{"prerouting", "table inet t { chain p { type filter hook prerouting priority -300; meta l4proto esp drop; }; }", false},
		{"forward", "table inet t { chain f { type filter hook forward priority 0; policy drop; }; }", false},
		{"ingress", `table netdev t { chain in { type filter hook ingress device "p4p1" priority 0; meta l4proto esp drop; }; }`, false},
		{"ingress elsewhere", `table netdev t { chain in { type filter hook ingress device "lo" priority 0; meta l4proto esp drop; }; }`, false},
		{"ingress of several", `table netdev t { chain in { type filter hook ingress devices = { "lo", "p4p1" } priority 0; ip protocol esp drop; }; }`, false},
		{"egress", `table netdev t { chain out { type filter hook egress device "p4p1" priority 0; udp dport 4500 drop; }; }`, false},
		{"two tables", "table inet t { chain i { " + inputHook + " meta l4proto esp accept; }; }; table inet u { chain i { type filter hook input priority 10; meta l4proto esp drop; }; }", false},
		{"translated", "table inet n { chain x { drop; }; chain p { type nat hook prerouting priority -100; udp dport 99 redirect to :100; }; }; table inet t { chain i { " + inputHook + " udp dport 4500 drop; }; }", false},
		{"same names in two families", "table ip t { chain i { " + inputHook + " }; }; table ip6 t { chain i { " + inputHook + " meta l4proto esp drop; }; }", false},
		{"asleep", "table inet t { flags dormant; chain i { " + inputHook + " policy drop; }; }", false},
		{"counted and logged", "table inet t { counter n { }; chain i { " + inputHook + " counter; counter name n; meta l4proto esp counter drop; }; }", false},
		{"by address", "table inet t { chain i { " + inputHook + " ip saddr 192.0.2.1 meta l4proto esp drop; }; }", true},
		{"by another address", "table inet t { chain i { " + inputHook + " ip saddr 192.0.2.77 meta l4proto esp drop; }; }", true},
		{"by mark", "table inet t { chain i { " + inputHook + " meta mark 5 drop; }; }", true},
		{"by mark, masked", "table inet t { chain i { " + inputHook + " meta mark & 0xff == 5 drop; }; }", true},
		{"limited", "table inet t { chain i { " + inputHook + " limit rate over 1000/second drop; }; }", true},
		{"by address and protocol", "table inet t { chain i { " + inputHook + " ip saddr . meta l4proto { 192.0.2.1 . esp } drop; }; }", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHosts(t)
			if c.rules != "" {
				h.nft(t, c.rules)
			}
			chains, index := h.read(t)
			for _, v6 := range []bool{false, true} {
				nfproto := IPv4
				if v6 {
					nfproto = IPv6
				}
				for _, proto := range []int{unix.IPPROTO_ESP, unix.IPPROTO_UDP} {
					packet := ESP(nfproto)
					if proto == unix.IPPROTO_UDP {
						packet = UDP(nfproto, 4500)
					}
					in, inBy := all(chains, []string{"ingress", "prerouting", "input"}, packet.In("p4p1", index))
					out, outBy := all(chains, []string{"output", "postrouting", "egress"}, packet.Out("p4p1", index))
					what := fmt.Sprintf("protocol %d over IP %s", proto, nfproto)
					// Out first would make the answer's flow a known one.
					compare(t, what+" in", c.depends, in, inBy, h.arrives(t, v6, proto, true))
					if in != passes {
						continue // connection tracking has not seen it: so it has no say going out
					}
					compare(t, what+" out", c.depends, out, outBy, h.arrives(t, v6, proto, false))
				}
			}
		})
	}
}

// outcome of a packet's way, the worse the greater.
type outcome int

const (
	passes outcome = iota
	depends
	dropped
)

func all(chains []Chain, hooks []string, p Packet) (worst outcome, by string) {
	for _, hook := range hooks {
		if o, rule := at(chains, hook, p); o > worst {
			worst, by = o, rule
		}
	}
	return worst, by
}

func at(chains []Chain, hook string, p Packet) (worst outcome, by string) {
	for _, d := range Pass(chains, hook, "p4p1", p) {
		o := depends
		if d.Certain {
			o = dropped
		}
		if o > worst {
			worst, by = o, d.Chain+": "+d.Rule
		}
	}
	return worst, by
}

func compare(t *testing.T, what string, mayDepend bool, foretold outcome, by string, arrived bool) {
	t.Helper()
	switch {
	case foretold == depends && !mayDepend:
		t.Errorf("%s: not known, by %q; it arrived: %v", what, by, arrived)
	case foretold == passes && !arrived:
		t.Errorf("%s: foretold to pass, did not arrive", what)
	case foretold == dropped && arrived:
		t.Errorf("%s: foretold to be dropped by %q, arrived", what, by)
	}
}

// TestDepends: what is not understood is said, not guessed.
func TestDepends(t *testing.T) {
	h := newHosts(t)
	h.nft(t, `table inet t { chain i { type filter hook input priority 0; ip saddr 192.0.2.77 meta l4proto esp drop; }; }`)
	chains, index := h.read(t)
	o, by := at(chains, "input", ESP(IPv4).In("p4p1", index))
	if want := "inet t i: meta nfproto ipv4 ip saddr … meta l4proto esp drop # handle"; o != depends || !strings.HasPrefix(by, want) {
		t.Errorf("%d %q, want %q", o, by, want)
	}
	if o, by := at(chains, "input", UDP(IPv4, 4500).In("p4p1", index)); o != passes {
		t.Errorf("UDP: %d %q", o, by)
	}
	if !slices.ContainsFunc(chains, func(c Chain) bool { return c.String() == "inet t i" && c.Hook == "input" && c.Type == "filter" }) {
		t.Errorf("%+v", chains)
	}
}
