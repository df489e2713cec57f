package pair

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"espalier/test/lab"
)

// carry has the tunnel of outer protect what goes between two prefixes, of any family.
func carry(l *lab.Lab, outer lab.Pair, behindA, behindB netip.Prefix) {
	outer.Tunnel, outer.AnyFamily = true, true
	sas := outer.SAs()
	for _, h := range l.Hosts() {
		out, in, here, there := sas[0], sas[1], behindA, behindB
		if h == l.B {
			out, in, here, there = in, out, there, here
		}
		script := l.States(h, outer)
		for _, dir := range []string{"out", "in", "fwd"} {
			sa, src, dst := in, there, here
			if dir == "out" {
				sa, src, dst = out, here, there
			}
			script += fmt.Sprintf("ip xfrm policy add src %s dst %s dir %s tmpl src %s dst %s proto esp reqid %#x mode tunnel\n",
				src, dst, dir, sa.Src, sa.Dst, sa.SPI)
		}
		h.Batch(script)
	}
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// TestInterFamily carries one family in a tunnel of the other.
func TestInterFamily(t *testing.T) {
	l := newPair(t)
	for _, outer := range []lab.Pair{{}, {UDP: true}, {V6: true}, {V6: true, UDP: true}} {
		t.Run(fmt.Sprintf("outer v6=%v udp=%v", outer.V6, outer.UDP), func(t *testing.T) {
			wipe(l)
			a, b := lab.Pair{V6: !outer.V6}.Ends()
			carry(l, outer, host(a), host(b))
			tap := l.Watch(l.A, nil)
			// 3000 bytes do not fit a packet: what is fragmented inside, ESP carries.
			for _, size := range []string{"56", "3000"} {
				if !l.A.Ping(b, 3, "-s", size) || !l.B.Ping(a, 3, "-s", size) {
					t.Errorf("no echo of %s bytes: drops A %v, B %v", size, l.A.Drops(), l.B.Drops())
				}
			}
			seen, err := tap.Stop()
			if err != nil || seen.Cleartext > 0 || seen.ESP < 24 {
				t.Errorf("on the wire %+v, %v", seen, err)
			}
		})
	}
	stop(t, l)
}

// TestForwarding protects the networks behind the hosts: one address of A's own, and a third
// host behind B. Without a fwd policy nothing passes B.
func TestForwarding(t *testing.T) {
	l := newPair(t)
	nearA := []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("fd10::/64")}
	nearB := []netip.Prefix{netip.MustParsePrefix("10.20.0.0/24"), netip.MustParsePrefix("fd20::/64")}
	c := l.Behind(l.B, nearB...)
	l.B.Must("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	for i, outer := range []lab.Pair{{}, {V6: true, UDP: true, SPI: 0x2000}} {
		source := nearA[i].Addr().Next()
		far := nearB[i].Addr().Next().Next()
		l.A.Must("ip", "addr", "add", host(source).String(), "dev", "lo", "nodad")
		carry(l, outer, nearA[i], nearB[i])
		t.Run(far.String(), func(t *testing.T) {
			tap := l.Watch(l.A, nil)
			if !l.A.Ping(far, 3, "-I", source.String()) || !c.Ping(source, 3) {
				t.Errorf("no echo: drops A %v, B %v", l.A.Drops(), l.B.Drops())
			}
			if seen, err := tap.Stop(); err != nil || seen.ESP < 12 {
				t.Errorf("on the wire %+v, %v", seen, err)
			}

			before := l.B.Drops()["in-no-policy"]
			if r := l.B.Xfrm("policy", "delete", "src", nearA[i].String(), "dst", nearB[i].String(), "dir", "fwd"); r.Code != 0 {
				t.Fatal(r.Stderr)
			}
			if l.A.Ping(far, 1, "-I", source.String()) {
				t.Error("forwarded without a fwd policy")
			}
			more := func(drops map[string]uint64) bool { return drops["in-no-policy"] > before }
			if !more(l.B.AwaitDrops(more)) {
				t.Error("no drop for want of a fwd policy")
			}
			if in := l.B.Xfrm("policy", "list").Stdout; !strings.Contains(in, "dir in") {
				t.Errorf("only the fwd policy was to go:\n%s", in)
			}
		})
	}
	stop(t, l)
}
