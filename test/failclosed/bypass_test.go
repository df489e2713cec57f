package failclosed

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"espalier/internal/wire"
	"espalier/ipsec"
	"espalier/test/lab"
)

const (
	bypassTCP = 2222
	bypassUDP = 5353
	bulk      = 4 << 20
)

// What a policy of higher priority lets pass leaves in clear, through the routes that brought
// it into the device: whoever begins, and in packets of the wire's size. All else is protected.
func TestBypass(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping")
	l := lab.New(t, "")
	startDevices(l)
	for _, h := range l.Hosts() {
		addStates(l, h, pairs(0))
		for _, p := range pairs(0) {
			h.Batch(strings.ReplaceAll(l.Policies(h, p), " tmpl ", " priority 100 tmpl "))
			h.Batch(bypassPolicies(h == l.B, p))
		}
	}

	all, allowed := l.Watch(l.A, nil), watchBypassed(t, l)
	for _, ends := range [][2]netip.Addr{{lab.A4, lab.B4}, {lab.A6, lab.B6}} {
		for _, way := range []struct {
			from, to *lab.Host
			dst      netip.Addr
		}{{l.A, l.B, ends[1]}, {l.B, l.A, ends[0]}} {
			if err := lab.Exchange(way.from, way.to, netip.AddrPortFrom(way.dst, bypassTCP), bulk); err != nil {
				t.Errorf("TCP to port %d of %s: %v", bypassTCP, way.dst, err)
			}
			if err := echo(way.from, way.to, netip.AddrPortFrom(way.dst, bypassUDP)); err != nil {
				t.Errorf("UDP to port %d of %s: %v", bypassUDP, way.dst, err)
			}
		}
	}
	tryAll(l)
	checkWorks(t, l, "beside a bypass")
	a, aErr := all.Stop()
	b, bErr := allowed.Stop()
	if aErr != nil || bErr != nil || a.Dropped+b.Dropped != 0 {
		t.Fatalf("watch: %+v, %v; %+v, %v", a, aErr, b, bErr)
	}
	if a.Cleartext != b.Cleartext {
		t.Errorf("%d packets in clear, but the policies allow only %d of them", a.Cleartext, b.Cleartext)
	}
	if want := uint64(2 * 2 * 2 * bulk / 1500); b.Cleartext < want {
		t.Errorf("%d packets in clear: so much data makes at least %d of the wire's size", b.Cleartext, want)
	}
	if a.ESP == 0 {
		t.Error("no ESP beside the bypass")
	}
}

// bypassPolicies are those of one host, whichever side has the well-known port.
func bypassPolicies(atB bool, p lab.Pair) string {
	local, remote := p.Ends()
	if atB {
		local, remote = remote, local
	}
	var s strings.Builder
	for _, ports := range []string{
		fmt.Sprintf("proto tcp sport %d", bypassTCP), fmt.Sprintf("proto tcp dport %d", bypassTCP),
		fmt.Sprintf("proto udp sport %d", bypassUDP), fmt.Sprintf("proto udp dport %d", bypassUDP),
	} {
		fmt.Fprintf(&s, "ip xfrm policy add src %s dst %s %s dir out action allow priority 10\n", local, remote, ports)
		fmt.Fprintf(&s, "ip xfrm policy add src %s dst %s %s dir in action allow priority 10\n", remote, local, ports)
	}
	return s.String()
}

// watchBypassed counts as cleartext what the bypass policies allow.
func watchBypassed(t *testing.T, l *lab.Lab) (w *wire.Watcher) {
	t.Helper()
	c := wire.Classifier{Protected: []ipsec.Selector{
		{Protocol: 6, SrcPort: ipsec.Port(bypassTCP)}, {Protocol: 6, DstPort: ipsec.Port(bypassTCP)},
		{Protocol: 17, SrcPort: ipsec.Port(bypassUDP)}, {Protocol: 17, DstPort: ipsec.Port(bypassUDP)},
	}}
	err := l.A.Do(func() (err error) {
		w, err = wire.Watch(l.Device, c, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// echo has a datagram sent back.
func echo(from, to *lab.Host, dst netip.AddrPort) error {
	var server *net.UDPConn
	err := to.Do(func() (err error) {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(dst))
		return err
	})
	if err != nil {
		return err
	}
	defer server.Close()
	var client net.Conn
	err = from.Do(func() (err error) {
		client, err = net.Dial("udp", dst.String())
		return err
	})
	if err != nil {
		return err
	}
	defer client.Close()
	deadline := time.Now().Add(2 * time.Second)
	buf := make([]byte, 100)
	_, err = client.Write([]byte("who is there"))
	if err := errors.Join(err, server.SetDeadline(deadline), client.SetDeadline(deadline)); err != nil {
		return err
	}
	n, peer, err := server.ReadFromUDPAddrPort(buf)
	if err != nil {
		return err
	}
	if _, err := server.WriteToUDPAddrPort(buf[:n], peer); err != nil {
		return err
	}
	_, err = client.Read(buf)
	return err
}

// Action block passes nothing, though there are SAs: what A sends stays in the device, and what arrives
// by an SA goes no further.
func TestDiscard(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping")
	l := lab.New(t, "")
	startDevices(l)
	program(l, pairs(0))
	checkWorks(t, l, "before")
	for _, p := range pairs(0) {
		a, b := p.Ends()
		l.A.Batch(fmt.Sprintf("ip xfrm policy update src %s dst %s dir out action block\n"+
			"ip xfrm policy update src %s dst %s dir in action block\n", a, b, b, a))
	}
	if c := wantClosed(t, l, l.A, "discarded", func() { tryAll(l) }); c.ESP != 0 {
		t.Errorf("%d ESP packets left A", c.ESP)
	}
	c := wantClosed(t, l, l.A, "discarded on arrival", func() {
		ping(l.B, lab.A4)
		ping(l.B, lab.A6)
	})
	if c.ESP != 6 {
		t.Errorf("%d ESP packets, want B's 6 echo requests only", c.ESP)
	}
	drops := l.A.AwaitDrops(func(d map[string]uint64) bool { return d["out-discard"] > 0 && d["in-policy-discard"] >= 6 })
	if drops["out-discard"] == 0 || drops["in-policy-discard"] != 6 {
		t.Errorf("A dropped %v", drops)
	}
}

// With level use an SA is taken if there is one; until then traffic passes in clear.
func TestLevelUse(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping")
	l := lab.New(t, "")
	startDevices(l)
	for _, h := range l.Hosts() {
		for _, p := range pairs(0) {
			h.Batch(strings.ReplaceAll(l.Policies(h, p), "mode transport\n", "mode transport level use\n"))
		}
	}
	c := watch(t, l, l.A, func() { checkWorks(t, l, "without SAs") })
	if c.Cleartext == 0 || c.ESP != 0 {
		t.Errorf("without SAs: %+v, want all in clear", c)
	}
	for _, h := range l.Hosts() {
		addStates(l, h, pairs(0))
	}
	c = wantClosed(t, l, l.A, "with SAs", func() { checkWorks(t, l, "with SAs") })
	if c.ESP == 0 {
		t.Error("with SAs: no ESP on the wire")
	}
}
