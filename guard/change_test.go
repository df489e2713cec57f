package guard

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// put adds policies by a Change, take removes them.
func put(t *testing.T, g *Guard, order uint64, policies ...ipsec.Policy) {
	t.Helper()
	add := make([]Policy, len(policies))
	for i := range policies {
		add[i] = Policy{&policies[i], order + uint64(i)}
	}
	if err := g.Change(nil, add); err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, g *Guard, policies ...ipsec.Policy) {
	t.Helper()
	if err := g.Change(ids(policies...), nil); err != nil {
		t.Fatal(err)
	}
}

// Many policies come and go one by one, survive the process and somebody else's hand, and do in
// sets what they do in rules.
func TestChanges(t *testing.T) {
	l := newLab(t)
	g := open(t, "p4p1")
	const many = 100
	var all [][]ipsec.Policy
	for i := range many {
		p := bothWays(ipsec.Protect, 10, sel("10.0.0.0/24", fmt.Sprintf("10.9.%d.0/24", i), 0, anyPort, anyPort))
		all = append(all, p)
		put(t, g, uint64(2*i), p...)
	}
	l.wantTCP(80, true, "policies about others")
	one := bothWays(ipsec.Protect, 10, sel("10.0.0.0/24", "10.0.0.0/24", 0, anyPort, anyPort))
	put(t, g, 1000, one...)
	l.wantTCP(80, false, "one policy among many")
	bypass := bothWays(ipsec.Bypass, 5, sel("10.0.0.0/24", "10.0.0.0/24", unix.IPPROTO_TCP, anyPort, 22))
	put(t, g, 2000, bypass...)
	l.wantTCP(22, true, "a bypass before it")
	l.wantTCP(80, false, "a bypass before it")
	later := bothWays(ipsec.Bypass, 10, sel("10.0.0.0/16", "10.0.0.0/16", 0, anyPort, anyPort))
	put(t, g, 3000, later...)
	l.wantTCP(80, false, "a bypass behind it")
	// It is replaced by one that lets pass, and comes back.
	put(t, g, 1000, bothWays(ipsec.Bypass, 10, one[0].Selector)...)
	l.wantTCP(80, true, "it has become a bypass")
	put(t, g, 1000, one...)
	l.wantTCP(80, false, "it protects again")
	take(t, g, later...)

	ctx, cancel := context.WithCancel(context.Background())
	reports, ended := make(chan error, 10), make(chan error, 1)
	go func() { ended <- g.Watch(ctx, func(err error) { reports <- err }) }()
	for _, p := range all[:many/2] {
		take(t, g, p...)
	}
	l.wantTCP(80, false, "others taken out")
	nft(t, "flush", "set", "netdev", "espalier_p4p1", "out_ip_set1")
	select {
	case err := <-reports:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("a flushed set is not put back")
	}
	l.wantTCP(80, false, "somebody flushed the set")
	cancel()
	if err := <-ended; err != nil || len(reports) != 0 {
		t.Errorf("Watch ended with %v, and has put back %d times too often", err, len(reports))
	}

	nft(t, "flush", "ruleset")
	put(t, g, 4000, all[0]...)
	l.wantTCP(80, false, "a change after somebody flushed all")

	heir := open(t, "p4p1")
	if got, want := len(heir.Inherited()), len(one)+len(bypass)+2*(many/2+1); got != want {
		t.Errorf("%d inherited, want %d", got, want)
	}
	l.wantTCP(80, false, "inherited")
	put(t, heir, 0, one...)
	for _, p := range all {
		take(t, heir, p...)
	}
	if got := len(heir.Inherited()); got != len(bypass) {
		t.Errorf("%d still inherited, want %d", got, len(bypass))
	}
	take(t, heir, one...)
	l.wantTCP(80, true, "taken out")
}

// Policies with ports, and encapsulations, come and go one by one without regard to the others.
func TestChangesOfPorts(t *testing.T) {
	l := newLab(t)
	g := open(t, "p4p1")
	port := func(n int) []ipsec.Policy {
		return bothWays(ipsec.Protect, 10, sel("10.0.0.0/24", "10.0.0.0/24", unix.IPPROTO_TCP, anyPort, n))
	}
	for n := range 20 {
		put(t, g, uint64(2*n), port(1000+n)...)
	}
	table := g.devices[0].layout
	put(t, g, 100, port(80)...)
	l.wantTCP(80, false, "one port among many")
	l.wantTCP(81, true, "another port")
	for n := range 19 {
		take(t, g, port(1000+n)...)
	}
	l.wantTCP(80, false, "others taken out")
	take(t, g, port(80)...)
	l.wantTCP(80, true, "taken out")
	take(t, g, port(1019)...) // the last of a set: from here on there is another table
	if g.devices[0].layout == table {
		t.Error("an empty set is kept")
	}

	put(t, g, 200, bothWays(ipsec.Protect, 10, sel("10.0.0.0/24", "10.0.0.0/24", 0, anyPort, anyPort))...)
	natt := frame{mark: testMark, pkt: v4(unix.IPPROTO_UDP, ports(4500, 4501)).bytes()}
	moved := frame{pkt: with(v4(unix.IPPROTO_UDP, ports(50009, 4500)), func(p *packet) { p.src, p.dst = "10.0.0.9", "10.0.0.1" }).bytes()}
	wantNATT := func(want bool, when string) {
		t.Helper()
		if got := l.crossOut(natt)[0]; got != want {
			t.Errorf("%s: UDP encapsulation passed %v, want %v", when, got, want)
		}
		// All of them have their local end in common.
		if !l.crossIn(moved)[0] {
			t.Errorf("%s: UDP encapsulation of a peer that has moved did not come in", when)
		}
	}
	encap := func(last byte) Encap {
		return Encap{netip.MustParseAddrPort("10.0.0.1:4500"), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, last}), 4501)}
	}
	steps := []func(Encap) error{g.AddEncap, g.AddEncap, g.RemoveEncap, g.RemoveEncap, g.RemoveEncap}
	for _, e := range []Encap{encap(3), encap(4)} {
		if err := g.AddEncap(e); err != nil {
			t.Fatal(err)
		}
	}
	table = g.devices[0].layout
	for i, step := range steps {
		if err := step(encap(2)); err != nil {
			t.Fatal(err)
		}
		wantNATT(i < 3, fmt.Sprintf("step %d", i))
	}
	if g.devices[0].layout != table {
		t.Error("an encapsulation had the table replaced")
	}
	for _, e := range []Encap{encap(3), encap(4)} {
		if err := g.RemoveEncap(e); err != nil {
			t.Fatal(err)
		}
	}
	if l.crossIn(moved)[0] {
		t.Error("the last encapsulation was removed, and still comes in")
	}
	if err := g.AddEncap(Encap{}); err == nil {
		t.Error("no encapsulation was taken for one")
	}
}

// A change that the kernel refuses, or that is no policy, changes nothing.
func TestRefusedChange(t *testing.T) {
	l := newLab(t)
	g := open(t, "p4p1")
	put(t, g, 0, protect4...)
	bad := protect4[0]
	bad.Action = 9
	if err := g.Change(ids(protect4...), []Policy{{&bad, 1}}); err == nil {
		t.Error("an action that is none was taken")
	}
	l.wantTCP(80, false, "a bad policy")
	nft(t, "delete", "table", "netdev", "espalier_p4p1")
	own(t, "espalier_p4p1")
	if err := g.Change(ids(protect4...), nil); err == nil {
		t.Error("a table of somebody else was changed")
	}
	if len(g.own) != len(protect4) {
		t.Errorf("%d policies after a refusal, want %d", len(g.own), len(protect4))
	}
}
