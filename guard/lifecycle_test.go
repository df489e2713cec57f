package guard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mdlayher/netlink"
	rtnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

var (
	protect4 = bothWays(ipsec.Protect, 10, sel("10.0.0.0/24", "10.0.0.0/24", 0, anyPort, anyPort))
	protect6 = bothWays(ipsec.Protect, 20, sel("2001:db8::/64", "2001:db8::/64", unix.IPPROTO_TCP, anyPort, 443))
	ssh      = bothWays(ipsec.Bypass, 1, sel("", "", unix.IPPROTO_TCP, anyPort, 22))
)

func ids(policies ...ipsec.Policy) []ipsec.PolicyID {
	var l []ipsec.PolicyID
	for i := range policies {
		l = append(l, policies[i].ID())
	}
	return l
}

var cmpIDs = cmp.Options{cmpopts.EquateComparable(ipsec.PolicyID{}), cmpopts.SortSlices(func(a, b ipsec.PolicyID) bool { return a.String() < b.String() })}

// tcp sends a TCP packet to a port both ways and reports whether it passed.
func (l *lab) tcp(port uint16) (out, in bool) {
	l.serial++
	p := with(v4(unix.IPPROTO_TCP, ports(1, port)), func(p *packet) { p.id = l.serial })
	back := crossing{packet: p}.mirrored()
	return l.crossOut(frame{pkt: p.bytes()})[0], l.crossIn(frame{pkt: back.bytes()})[0]
}

func (l *lab) wantTCP(port uint16, want bool, when string) {
	l.t.Helper()
	if out, in := l.tcp(port); out != want || in != want {
		l.t.Errorf("%s: TCP %d passed out %v in %v, want %v", when, port, out, in, want)
	}
}

// childEnv makes the test program guard p4p1 and wait for its end.
const childEnv = "GUARD_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	g := must(Open(Config{Devices: []string{"p4p1"}, Mark: testMark, Mask: 0xf0}))
	ok(g.Apply(together(protect4, protect6, ssh), nil))
	fmt.Println("guarding")
	time.Sleep(time.Minute)
	os.Exit(1)
}

func TestKilledProcessIsInherited(t *testing.T) {
	l := newLab(t)
	child := exec.Command(must(os.Executable()))
	child.Env = append(os.Environ(), childEnv+"=1")
	child.Stderr = os.Stderr
	stdout := must(child.StdoutPipe())
	ok(child.Start()) // in this thread's namespace
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	ok(child.Process.Kill())
	err := child.Wait()
	if exit := (*exec.ExitError)(nil); line != "guarding\n" || !errors.As(err, &exit) ||
		exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Fatalf("child said %q and ended with %v", line, err)
	}
	l.wantTCP(80, false, "process killed")
	l.wantTCP(22, true, "process killed")

	g := open(t, "p4p1")
	l.wantTCP(80, false, "new process")
	if d := cmp.Diff(ids(together(protect4, protect6, ssh)...), g.Inherited(), cmpIDs); d != "" {
		t.Errorf("inherited (-want +got):\n%s", d)
	}
	apply(t, g, nil)
	l.wantTCP(80, false, "nothing but inherited policies")
	l.wantTCP(22, true, "nothing but inherited policies")
	if got := len(g.Inherited()); got != 6 {
		t.Errorf("%d policies inherited after the first Apply, want 6", got)
	}

	// A policy with the same selector, written differently, replaces an inherited one.
	bypass := slices.Clone(protect4)
	for i := range bypass {
		bypass[i].Action, bypass[i].Processing = ipsec.Bypass, nil
		bypass[i].Selector.Src = prefix("10.0.0.7/24")
	}
	apply(t, g, bypass)
	l.wantTCP(80, true, "replaced")
	if d := cmp.Diff(ids(together(protect6, ssh)...), g.Inherited(), cmpIDs); d != "" {
		t.Errorf("inherited after a replacement (-want +got):\n%s", d)
	}
	apply(t, g, protect4)
	g.Disinherit(ipsec.PolicyID{Index: 7, Direction: ssh[0].Direction, Selector: ssh[0].Selector}) // no one's
	l.wantTCP(22, true, "not disinherited")
	g.Disinherit(ssh[0].ID())
	g.Disinherit(ssh[1].ID())
	l.wantTCP(22, true, "before the Apply")
	apply(t, g, protect4)
	l.wantTCP(22, false, "disinherited")
	g.DisinheritAll()
	apply(t, g, nil)
	l.wantTCP(80, true, "all disinherited")
	if got := g.Inherited(); len(got) != 0 {
		t.Errorf("still inherited: %v", got)
	}
}

func TestCloseKeepsAndReleaseRemoves(t *testing.T) {
	l := newLab(t)
	if err := Release("p4p1"); err != nil {
		t.Errorf("release without rules: %v", err)
	}
	g := open(t, "p4p1")
	apply(t, g, protect4)
	ok(g.Close())
	l.wantTCP(80, false, "closed")
	if err := g.Apply(nil, nil); err == nil {
		t.Error("Apply after Close succeeded")
	}
	if err := Release("p4p2"); err != nil {
		t.Errorf("release of a device that does not exist: %v", err)
	}
	l.wantTCP(80, false, "another device released")
	if err := Release("p4p1"); err != nil {
		t.Fatal(err)
	}
	l.wantTCP(80, true, "released")
	if rest := nft(t, "list", "ruleset"); strings.TrimSpace(rest) != "" {
		t.Errorf("left behind:\n%s", rest)
	}
	if got := open(t, "p4p1").Inherited(); len(got) != 0 {
		t.Errorf("inherited after the release: %v", got)
	}
}

// The first line of many a firewall's configuration is `flush ruleset`.
func TestRemovedRulesArePutBack(t *testing.T) {
	l := newLab(t)
	g := open(t, "p4p1")
	apply(t, g, protect4)
	nft(t, "flush", "ruleset")
	l.wantTCP(80, true, "flushed while nobody watches")
	apply(t, g, protect4)

	ctx, cancel := context.WithCancel(context.Background())
	reports, ended := make(chan error, 10), make(chan error, 1)
	go func() { ended <- g.Watch(ctx, func(err error) { reports <- err }) }()
	for _, harm := range []string{"flush ruleset", "delete table netdev espalier_p4p1", "flush chain netdev espalier_p4p1 out_ip", "flush ruleset"} {
		nft(t, strings.Fields(harm)...)
		select {
		case err := <-reports:
			if err != nil {
				t.Errorf("%s: %v", harm, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: not put back", harm)
		}
		l.wantTCP(80, false, harm)
	}
	apply(t, g, nil)
	l.wantTCP(80, true, "no policies")
	apply(t, g, protect4) // our own transactions are nobody else's
	l.wantTCP(80, false, "applied again")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Watch ended with %v", err)
	}
	if len(reports) != 0 {
		t.Errorf("our own transactions were taken for somebody else's %d times", len(reports))
	}
}

const tableOwner = 2 // NFT_TABLE_F_OWNER

// own makes a table that only its socket may change.
func own(t *testing.T, table string) {
	c := must(dial())
	t.Cleanup(func() { c.close() })
	ok(c.commit([]request{{unix.NFPROTO_NETDEV, unix.NFT_MSG_NEWTABLE, netlink.Create, table, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_TABLE_NAME, table)
		ae.Uint32(unix.NFTA_TABLE_FLAGS, tableOwner)
	}}}))
}

func TestRefusedApplyChangesNothing(t *testing.T) {
	l := newLab(t)
	addLink("p4p2")
	g := open(t, "p4p1", "p4p2")
	apply(t, g, together(protect4, ssh))
	before := nft(t, "list", "table", "netdev", "espalier_p4p1")
	ok(Release("p4p2"))
	own(t, "espalier_p4p2")

	err := g.Apply(bothWays(ipsec.Bypass, 1, sel("", "", 0, anyPort, anyPort)), nil)
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "table netdev espalier_p4p2") {
		t.Errorf("Apply: %v, want EPERM and the table's name", err)
	}
	if after := nft(t, "list", "table", "netdev", "espalier_p4p1"); after != before {
		t.Errorf("rules changed:\n%s", cmp.Diff(before, after))
	}
	l.wantTCP(80, false, "refused")
	l.wantTCP(22, true, "refused")
	if _, err := g.Counters(); err != nil {
		t.Errorf("after a refused transaction: %v", err)
	}
	if got := g.Inherited(); len(got) != 0 {
		t.Errorf("inherited: %v", got)
	}
	// Nor does a policy that cannot be.
	mixed := protect4[0]
	mixed.Selector.Dst = prefix("2001:db8::/64")
	for _, bad := range []ipsec.Policy{mixed, {Direction: ipsec.AnyDirection}, {Direction: ipsec.Inbound, Action: 9}} {
		if err := g.Apply([]ipsec.Policy{bad}, nil); !errors.Is(err, ipsec.ErrInvalid) {
			t.Errorf("Apply of %v: %v, want ErrInvalid", bad.ID(), err)
		}
	}
	l.wantTCP(80, false, "invalid")
}

func TestCountersNeverGoBack(t *testing.T) {
	l := newLab(t)
	g := open(t, "p4p1")
	apply(t, g, protect4)
	want := Counters{}
	drop := func(when string) {
		t.Helper()
		l.wantTCP(80, false, when)
		want.In++
		want.Out++
		if got := must(g.Counters()); got != want {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}
	drop("first")
	apply(t, g, protect4)
	drop("after Apply")
	nft(t, "flush", "ruleset")
	if got := must(g.Counters()); got != want {
		t.Errorf("after flush ruleset: %+v, want %+v", got, want)
	}
	apply(t, g, protect4)
	drop("after flush ruleset and Apply")
	drop("again")
}

// TestBoundSocket is `ping -I p4p1`: no route takes it elsewhere, so only the guard is in
// its way.
func TestBoundSocket(t *testing.T) {
	l := newLab(t)
	ping := func(network, to string, kind uint16) []byte {
		l.serial++
		c := must(net.ListenPacket(network, ""))
		defer c.Close()
		raw := must(c.(*net.IPConn).SyscallConn())
		ok(raw.Control(func(fd uintptr) { ok(unix.BindToDevice(int(fd), "p4p1")) }))
		echo := append(ports(kind<<8, l.serial), "a ping of this test"...)
		echo[20] = byte(l.serial)
		_, err := c.WriteTo(echo, &net.IPAddr{IP: net.ParseIP(to)})
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EPERM) {
			t.Fatalf("ping %s: %v", to, err)
		}
		return echo[8:] // what follows the checksum
	}
	seen := func(what []byte) bool {
		s := l.sentinels()
		for _, f := range s {
			send(l.fromHere, f)
		}
		return l.which([]frame{{pkt: what}}, l.collect(l.arrivedFar, s))[0]
	}
	if !seen(ping("ip4:icmp", "10.0.0.2", 8)) || !seen(ping("ip6:ipv6-icmp", "2001:db8::2", 128)) {
		t.Fatal("without the guard a ping does not leave")
	}
	g := open(t, "p4p1")
	apply(t, g, together(protect4, bothWays(ipsec.Protect, 1, sel("2001:db8::/64", "2001:db8::/64", unix.IPPROTO_ICMPV6, 128, anyPort))))
	if seen(ping("ip4:icmp", "10.0.0.2", 8)) {
		t.Error("ping -I p4p1 leaves in clear")
	}
	if seen(ping("ip6:ipv6-icmp", "2001:db8::2", 128)) {
		t.Error("ping -6 -I p4p1 leaves in clear")
	}
}

// TestPacketSocketPastTheQdisc: the shortest way a packet socket knows still meets the guard.
func TestPacketSocketPastTheQdisc(t *testing.T) {
	l := newLab(t)
	ok(unix.SetsockoptInt(l.fromHere, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	l.wantTCP(80, true, "no guard")
	apply(t, open(t, "p4p1"), protect4)
	l.wantTCP(80, false, "guarded")
}

// TestManyPolicies is more than a socket's default buffers hold.
func TestManyPolicies(t *testing.T) {
	l := newLab(t)
	g := open(t, "p4p1")
	var many []ipsec.Policy
	for i := range 2000 {
		many = append(many, bothWays(ipsec.Protect, uint32(i), sel("10.0.0.0/24", fmt.Sprintf("10.9.%d.%d/32", i/250, i%250), unix.IPPROTO_TCP, anyPort, 80))...)
	}
	apply(t, g, together(many, protect4))
	l.wantTCP(80, false, "many policies")
	if got := open(t, "p4p1").Inherited(); len(got) != len(many)+2 {
		t.Errorf("inherited %d policies, want %d", len(got), len(many)+2)
	}
	apply(t, g, protect4)
	l.wantTCP(80, false, "few policies")
}

// TestInterfaceSelector: one device's policy is not the other's.
func TestInterfaceSelector(t *testing.T) {
	l := newLab(t)
	addLink("p4p2")
	addLink("tun0")
	index := func(name string) int { return must(net.InterfaceByName(name)).Index }
	on := func(policies []ipsec.Policy, device string) []ipsec.Policy {
		policies = slices.Clone(policies)
		for i := range policies {
			policies[i].Selector.Interface = index(device)
		}
		return policies
	}
	g := open(t, "p4p1", "p4p2")
	apply(t, g, on(protect4, "p4p1"))
	l.wantTCP(80, false, "on this device")
	apply(t, g, on(protect4, "p4p2"))
	l.wantTCP(80, true, "on the other device")
	apply(t, g, on(protect4, "tun0"))
	l.wantTCP(80, false, "on a device that is not guarded")
	apply(t, g, together(protect4, on(ssh, "p4p1")))
	l.wantTCP(22, true, "bypassed on this device")
	apply(t, g, together(protect4, on(ssh, "tun0")))
	l.wantTCP(22, false, "bypassed on a device that is not guarded")
}

func TestForeignCommentIsRefused(t *testing.T) {
	newLab(t)
	apply(t, open(t, "p4p1"), protect4)
	nft(t, "add", "rule", "netdev", "espalier_p4p1", "out_ip", "drop", "comment", `"out protect in other words"`)
	if _, err := Open(Config{Devices: []string{"p4p1"}}); err == nil || !strings.Contains(err.Error(), "in other words") {
		t.Errorf("Open: %v, want a complaint about the rule", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	newLab(t)
	for _, c := range []Config{
		{},
		{Devices: []string{"nosuch0"}},
		{Devices: []string{"p4p1", "p4p1"}},
		{Devices: []string{"p4p1"}, Mark: 3, Mask: 1},
	} {
		if g, err := Open(c); err == nil {
			g.Close()
			t.Errorf("Open(%+v) succeeded", c)
		}
	}
}

func TestListReadsPleasantly(t *testing.T) {
	newLab(t)
	apply(t, open(t, "p4p1"), together(protect4, protect6, ssh))
	got := nft(t, "list", "table", "netdev", "espalier_p4p1")
	for _, want := range []string{
		`type filter hook egress device "p4p1" priority 1000; policy accept;`,
		`ip6 hoplimit 255 exthdr frag missing icmpv6 type 133-137 accept comment "neighbour discovery"`,
		`meta l4proto esp accept comment "ESP"`,
		`ip saddr 10.0.0.0/24 ip daddr 10.0.0.0/24 counter name "dropped_out" drop comment "out protect 10.0.0.0/24 > 10.0.0.0/24 prio 10"`,
		`tcp dport 22 accept comment "out bypass any > any proto 6 dport 22 prio 1"`,
		`jump out_ip6_1 comment "out protect 2001:db8::/64 > 2001:db8::/64 proto 6 dport 443 prio 20"`,
		`tcp dport != 443 return`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("nft list lacks %s", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestInterfaceRules(t *testing.T) {
	inNamespace(t)
	addLink("p4p1")
	addLink("p4p11")
	if got, err := InterfaceRules("p4p1"); err != nil || len(got) != 0 {
		t.Errorf("no rules: %q, %v", got, err)
	}
	file := t.TempDir() + "/rules"
	ok(os.WriteFile(file, []byte(`
table inet filter {
	set lan { type ifname; elements = { "eth9", "p4p1" } }
	set far { type ifname; elements = { "eth9", "p4p11" } }
	chain input {
		type filter hook input priority 0;
		iifname "p4p1" tcp dport 22 accept
		iifname "p4p1" tcp dport 23 accept
		iifname "p4p11" accept
		iifname != "p4p1" accept
		tcp dport 24 meta mark 7 accept
	}
	chain forward {
		type filter hook forward priority 0;
		iif "p4p1" oif "p4p11" accept
		oifname "p4p*" drop
	}
	chain sets { iifname @lan accept; }
	chain others { iifname @far accept; iifname != @lan accept; }
	chain maps { iifname vmap { "p4p1" : accept, "eth9" : drop }; }
	chain stars { oifname { "x*", "p4*" } accept; }
	chain nostars { oifname { "a*", "q*" } accept; }
	chain pairs { iifname . tcp dport { "p4p1" . 22, "eth9" . 23 } accept; }
	chain second { ip protocol . oifname { tcp . "p4p1" } accept; }
}
table ip nat { chain post { type nat hook postrouting priority 100; oif "p4p1" masquerade; }; }
table ip6 six { chain c { iifname "p4p1" drop; }; }
table netdev dev { chain c { iifname "p4p1" drop; }; }
`), 0o600))
	nft(t, "-f", file)
	apply(t, open(t, "p4p1"), protect4) // ours are not the user's
	got, err := InterfaceRules("p4p1")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`inet filter input: iifname "p4p1"`,
		`inet filter forward: iif "p4p1"`,
		`inet filter forward: oifname "p4p*"`,
		`inet filter sets: iifname "p4p1"`,
		`inet filter maps: iifname "p4p1"`,
		`inet filter stars: oifname "p4p1"`,
		`inet filter pairs: iifname "p4p1"`,
		`inet filter second: oifname "p4p1"`,
		`ip nat post: oif "p4p1"`,
		`ip6 six c: iifname "p4p1"`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func addLink(name string) {
	ok(rtnl.LinkAdd(&rtnl.Veth{LinkAttrs: rtnl.LinkAttrs{Name: name}, PeerName: "far-" + name}))
}
