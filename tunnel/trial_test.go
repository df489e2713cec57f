package tunnel_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"espalier/ipsec"
	"espalier/tunnel"
)

// What is tried is what the pair's own policy decides on, whatever others there are.
func TestTrials(t *testing.T) {
	const other = `  - name: other
    hosts: [{address: 192.168.1.64, dev: p4p1}, {address: 192.168.1.65, dev: enp4s0, ssh: root@db2}]
`
	for _, c := range []struct {
		more string
		want []string // by policy of the first tunnel that sends: protocol and destination port, "-": nothing can be tried
	}{
		{"", []string{"1 0"}},
		{"    bypass: [icmp]\n", []string{"17 9"}},
		{"    bypass: [icmp, tcp/22]\n", []string{"17 9"}},
		{"    bypass: [icmp, udp/9, tcp/9]\n", []string{"17 49391"}},
		{"    bypass: [icmp, udp]\n", []string{"6 9"}},
		{"    bypass: [icmp, udp, tcp]\n", []string{"-"}},
		{"    selectors: [tcp]\n    bypass: [tcp/9]\n", []string{"6 49391"}},
		{"    selectors: [udp]\n    bypass: [udp/9]\n", []string{"17 49391"}},
		{"    selectors: [udp/9, udp/514]\n", []string{"17 49391", "17 49391", "17 514", "17 9"}},
		{other + "    selectors: [icmp]\n", []string{"17 9"}},
		{"    selectors: [icmp]\n" + other, []string{"1 0"}},
		{"    mark: 7\n" + other + "    selectors: [icmp]\n    mark: 8\n", []string{"1 0"}},
		{"    if_id: 7\n" + other + "    selectors: [icmp]\n    if_id: 8\n", []string{"1 0"}},
	} {
		p := mustMake(t, parse(t, two+c.more), twoHosts(), tunnel.Options{})
		for i := range 2 {
			var all tunnel.Senders
			for j := range p.Pairs {
				for k := range p.Pairs[j].Ends[i].Policies {
					all.Add(&p.Pairs[j].Ends[i].Policies[k])
				}
			}
			e, got := &p.Pairs[0].Ends[i], []string(nil)
			for k := range e.Policies {
				policy := &e.Policies[k]
				if policy.Direction != ipsec.Outbound || policy.Action != ipsec.Protect {
					continue
				}
				flows, err := tunnel.Trials(&policy.Selector, []netip.Addr{e.Local}, []netip.Addr{e.Remote})
				if err != nil {
					t.Fatal(err)
				}
				f, ok := all.First(policy, flows)
				if one := fmt.Sprintf("%d %d", f.Protocol, f.DstPort); ok {
					got = append(got, one)
				} else {
					got = append(got, "-")
				}
			}
			slices.Sort(got)
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%send %d: %v, want %v", c.more, i, got, c.want)
			}
		}
	}
}

// In a wide selector addresses are looked for that no narrower one takes.
func TestTrialsInSubnets(t *testing.T) {
	prefix := netip.MustParsePrefix
	policy := func(src, dst string, priority uint32) *tunnel.Policy {
		return &tunnel.Policy{Policy: ipsec.Policy{Selector: ipsec.Selector{Src: prefix(src), Dst: prefix(dst)}, Direction: ipsec.Outbound, Priority: priority}}
	}
	wide := policy("10.0.0.0/8", "10.1.0.0/16", 2000)
	local, remote := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.9.9.9")}, []netip.Addr{netip.MustParseAddr("192.0.2.2")}
	flows, err := tunnel.Trials(&wide.Selector, local, remote)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		narrow []*tunnel.Policy
		want   string
	}{
		{nil, "10.9.9.9→10.1.0.1"},
		{[]*tunnel.Policy{policy("10.0.0.0/8", "10.1.0.0/24", 1000)}, "10.9.9.9→10.1.128.0"},
		{[]*tunnel.Policy{policy("10.0.0.0/8", "10.1.0.0/24", 1000), policy("10.9.0.0/16", "10.1.128.0/24", 1000)}, "10.9.9.9→10.1.255.254"},
		{[]*tunnel.Policy{policy("10.9.0.0/16", "10.1.0.0/16", 1000)}, "10.0.0.1→10.1.0.1"},
		{[]*tunnel.Policy{policy("10.0.0.0/8", "0.0.0.0/0", 2001)}, "10.9.9.9→10.1.0.1"},
		{[]*tunnel.Policy{policy("10.0.0.0/8", "0.0.0.0/0", 2000)}, ""},
	} {
		var all tunnel.Senders
		all.Add(wide)
		for _, p := range c.narrow {
			all.Add(p)
		}
		f, ok := all.First(wide, flows)
		if got := fmt.Sprintf("%s→%s", f.Src, f.Dst); ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
	sctp := ipsec.Selector{Protocol: 132}
	if _, err := tunnel.Trials(&sctp, local, remote); err == nil || errors.Is(err, tunnel.ErrElsewhere) {
		t.Error(err)
	}
}

// What no probe can be part of is told before.
func TestUntried(t *testing.T) {
	for more, want := range map[string]string{
		"    bypass: [icmp, tcp/22]\n":   "",
		"    bypass: [icmp, udp, tcp]\n": "not proven by probes: 192.168.1.64→192.168.1.65, 192.168.1.65→192.168.1.64 (all that could be tried goes by other policies)",
	} {
		p := mustMake(t, parse(t, two+more), twoHosts(), tunnel.Options{})
		if got := strings.Join(p.Pairs[0].Notes, "\n"); want == "" && strings.Contains(got, "proven") || !strings.Contains(got, want) {
			t.Errorf("%s%s", more, got)
		}
	}
}
