package pathmtu

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"espalier/test/lab"
)

// The router says what its second link takes. From then on TCP sends segments that fit exactly, a UDP
// socket that must not fragment is told by the kernel, and what may be fragmented arrives.
func TestRouterTells(t *testing.T) {
	for _, f := range forms() {
		t.Run(name(f), func(t *testing.T) {
			t.Parallel()
			p := newPath(t, "--pmtu-probe", "0")
			p.Program(f)
			p.wantFitting(t, f, narrow)
			p.wantLog(t, p.A, "router ", fmt.Sprintf("mtu=%d", narrow))
		})
	}
}

// wantFitting sends from A to B, and wants packets that just fit a path with this MTU.
func (p *path) wantFitting(t *testing.T, f lab.Pair, mtu int) {
	t.Helper()
	_, b := f.Ends()
	ip, want := headerLen(f), fits(f, mtu)
	if f.V6 {
		want = max(want, 1280) // and fragments outside
	}
	if got := sentMSS(t, p, p.A, b) + ip + 20 + 12; got != want { // TCP with time stamps
		t.Errorf("TCP sends packets of %d bytes, %d fit; drops %v", got, want, p.A.Drops())
	}
	at, to := listen(t, p, b)
	whole := dial(t, p, to, true)
	if got := largestUDP(t, p, whole, ip+8); got != want {
		t.Errorf("the kernel sends UDP of %d bytes, %d fit", got, want)
	}
	arrives(t, p, whole, at, want-ip-8)
	arrives(t, p, dial(t, p, to, false), at, 4000)
}

// The MTU of a route counts, though no router says so.
func TestRouteMTU(t *testing.T) {
	for _, f := range []lab.Pair{{}, {V6: true}, {Tunnel: true, UDP: true}} {
		t.Run(name(f), func(t *testing.T) {
			t.Parallel()
			p := newPath(t, "--pmtu-probe", "0")
			p.setFar(wide)
			p.A.Must("ip", "route", "replace", "default", "via", "10.1.0.1", "src", lab.A4.String(), "mtu", "1360")
			p.A.Must("ip", "route", "replace", "default", "via", "fd01::1", "src", lab.A6.String(), "mtu", "1360")
			p.Program(f)
			p.wantFitting(t, f, 1360)
		})
	}
}

// A path that leads out by another device has that one's MTU: what the kernel then refuses to send
// has the keeper look.
func TestOtherDevice(t *testing.T) {
	t.Parallel()
	p := newPath(t, "--pmtu-probe", "0")
	p.setFar(wide)
	p.Program(lab.Pair{})
	if err := transfer(p, p.A, lab.B4, patience); err != nil {
		t.Fatal(err)
	}
	p.A.Must("ip", "link", "add", "other", "link", p.Device, "type", "macvlan", "mode", "bridge")
	p.A.Must("ip", "link", "set", "other", "mtu", "1340", "up")
	p.A.Must("ip", "addr", "add", "10.1.0.6/29", "dev", "other")
	p.A.Must("ip", "route", "replace", "default", "via", "10.1.0.1", "dev", "other", "src", lab.A4.String())
	p.router.Must("ip", "addr", "add", "10.1.0.1/29", "dev", "near")
	if err := transfer(p, p.A, lab.B4, patience); err != nil {
		t.Fatalf("%v; drops %v", err, p.A.Drops())
	}
	p.wantLog(t, p.A, "the route says so", "mtu=1340")
}

// What a router said is forgotten after a while.
func TestAge(t *testing.T) {
	t.Parallel()
	p := newPath(t, "--pmtu-probe", "0", "--pmtu-age", "2s")
	p.Program(lab.Pair{})
	p.wantFitting(t, lab.Pair{}, narrow)
	p.setFar(wide)
	p.awaitLog(t, p.A, func() {}, "has aged", "mtu=1500")
	p.A.Must("ip", "route", "flush", "cache") // the host's own memory is longer
	if got := sentMSS(t, p, p.A, lab.B4); got != 1415-20-20-12 {
		t.Errorf("TCP sends segments of %d bytes", got)
	}
}

// A host for which A forwards is told as well.
func TestForwarding(t *testing.T) {
	for i, f := range []lab.Pair{{Tunnel: true}, {Tunnel: true, V6: true, UDP: true}} {
		t.Run(name(f), func(t *testing.T) {
			t.Parallel()
			p := newPath(t, "--pmtu-probe", "0")
			near := []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("fd10::/64")}
			c := p.Behind(p.A, near...)
			p.A.Must("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
			p.A.Must("ip", "route", "replace", "default", "via", "fd01::1", "src", lab.A6.String())
			a, b := f.Ends()
			for _, h := range p.Hosts() {
				h.Batch(p.States(h, f) + strings.ReplaceAll(p.Policies(h, f), " "+a.String()+" dst "+b.String()+" dir", " "+near[i].String()+" dst "+b.String()+" dir"))
			}
			for _, h := range p.Hosts() {
				h.Batch(fwd(p, h, f, near[i]))
			}
			want := max(fits(f, narrow), 1280*i)
			if got := sentMSS(t, p, c, b) + headerLen(f) + 20 + 12; got != want {
				t.Errorf("TCP sends packets of %d bytes, %d fit; drops A %v, B %v", got, want, p.A.Drops(), p.B.Drops())
			}
		})
	}
}

// fwd are the policies for what comes back to the network behind A.
func fwd(p *path, h *lab.Host, f lab.Pair, near netip.Prefix) string {
	_, b := f.Ends()
	back := f.SAs()[1]
	dirs := []string{"out"}
	if h == p.A {
		dirs = []string{"in", "fwd"}
	}
	var s strings.Builder
	for _, dir := range dirs {
		fmt.Fprintf(&s, "ip xfrm policy add src %s dst %s dir %s tmpl src %s dst %s proto esp reqid %#x mode tunnel\n",
			b, near, dir, back.Src, back.Dst, back.Reqid)
	}
	return s.String()
}
