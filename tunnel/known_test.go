package tunnel_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"espalier/config"
	"espalier/ipsec"
	"espalier/tunnel"
)

// Whatever tunnels are called now: no policy changes, and no SA goes, not even where another file's are taken over.
// A change of the SAs at the same time leaves policies alone.
func TestRenamed(t *testing.T) {
	renamed := 0
	for seed := range uint64(120) {
		r := rand.New(rand.NewPCG(seed, 9))
		text, hosts := someFile(r)
		f, err := config.Parse("random.yaml", []byte(text))
		if err != nil {
			continue
		}
		p, err := tunnel.Make(f, hosts, tunnel.Options{Origin: origin})
		if problems := (config.Problems{}); errors.As(err, &problems) {
			continue
		}
		there := applied(t, p, seed)
		opt := tunnel.Options{Origin: origin}
		if r.IntN(3) == 0 {
			opt.Adopt = true
			for i := range there {
				for j := range there[i].Facts.Owned {
					there[i].Facts.Owned[j].Origin = "db1:/other.yaml"
				}
			}
		}
		names := []string{"t0", "t1", "t2", "zz"}
		r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		other := strings.NewReplacer("name: t0", "name: "+names[0], "name: t1", "name: "+names[1]).Replace(text)
		sas := r.IntN(3) == 0 && !strings.Contains(text, "window")
		if sas {
			other = strings.ReplaceAll(other, "    hosts:\n", "    window: 128\n    hosts:\n")
		}
		file := parse(t, other)
		next := mustMake(t, file, there, opt)
		if names[0] != "t0" && !next.Changes() {
			t.Error("nothing changes")
		}
		renamed++
		for i := range next.Pairs {
			pair := &next.Pairs[i]
			if !sas && pair.Action != tunnel.Keep && pair.Action != tunnel.Adjust || sas && pair.Action != tunnel.Replace || pair.Refuses {
				t.Errorf("%s: %s %q", pair.Tunnel, pair.Action, pair.Why)
			}
		}
		for i := range hosts {
			for _, d := range next.Diff(i) {
				if d.Policy != nil || !sas {
					t.Errorf("%s %+v", d.Sign, d)
				}
			}
		}
		before := there
		there = applied(t, next, seed+1)
		for i := range there {
			if was, is := len(before[i].Facts.Owned), len(there[i].Facts.Owned); was != is {
				t.Errorf("%s owns %d pairs, not %d", there[i].Name, is, was)
			}
		}
		if again := mustMake(t, file, there, tunnel.Options{}); again.Changes() {
			t.Errorf("and then %v %q", actionsOf(again), again.Pairs[0].Why)
		}
		checkPlan(t, mustFill(t, mustMake(t, file, there, tunnel.Options{Kind: tunnel.Rotate}), seed))
		if back := mustMake(t, f, there, tunnel.Options{}); !sas && len(back.Diff(0)) > 0 {
			t.Errorf("and back %v", actionsOf(back))
		}
		if t.Failed() {
			t.Fatalf("seed %d: %v, adopt %v, other SAs %v\n%s", seed, names, opt.Adopt, sas, other)
		}
	}
	if renamed < 25 {
		t.Errorf("only %d files could be planned", renamed)
	}
}

func mustFill(t *testing.T, p *tunnel.Plan, seed uint64) *tunnel.Plan {
	t.Helper()
	if err := p.Fill(random(seed)); err != nil {
		t.Fatal(err)
	}
	return p
}

// between makes a file of tunnels between two hosts: name and selectors of each.
func between(tunnels ...[2]string) string {
	text := "tunnels:\n"
	for _, one := range tunnels {
		text += fmt.Sprintf("  - name: %s\n    hosts: [{address: 192.168.1.64, dev: p4p1}, {address: 192.168.1.65, dev: enp4s0, ssh: root@db2}]\n%s", one[0], one[1])
	}
	return text
}

// Names that go on to other pairs: what is whose goes by the traffic, and a request ID is never of two pairs.
func TestNamesGoOn(t *testing.T) {
	const tcp, udp, sctp = "    selectors: [tcp]\n", "    selectors: [udp]\n", "    selectors: [sctp]\n"
	for name, c := range map[string]struct {
		before, after string
		want          []tunnel.Action
	}{
		"exchanged":                   {between([2]string{"a", tcp}, [2]string{"b", udp}), between([2]string{"b", tcp}, [2]string{"a", udp}), []tunnel.Action{tunnel.Adjust, tunnel.Adjust}},
		"in a row":                    {between([2]string{"a", tcp}, [2]string{"b", udp}), between([2]string{"b", tcp}, [2]string{"c", udp}), []tunnel.Action{tunnel.Adjust, tunnel.Adjust}},
		"the former name is used":     {between([2]string{"a", tcp}), between([2]string{"b", tcp}, [2]string{"a", udp}), []tunnel.Action{tunnel.Adjust, tunnel.Create}},
		"the name of one that is new": {between([2]string{"a", tcp}), between([2]string{"a", udp}, [2]string{"b", tcp}), []tunnel.Action{tunnel.Create, tunnel.Adjust}},
		"the name of one that goes":   {between([2]string{"a", tcp}, [2]string{"b", udp}), between([2]string{"b", tcp}), []tunnel.Action{tunnel.Replace, tunnel.Remove}},
		"in a row, one goes":          {between([2]string{"a", tcp}, [2]string{"b", udp}, [2]string{"c", sctp}), between([2]string{"b", tcp}, [2]string{"c", udp}), []tunnel.Action{tunnel.Replace, tunnel.Replace, tunnel.Remove}},
		"a name that is new":          {between([2]string{"a", tcp}, [2]string{"b", udp}), between([2]string{"a", tcp}, [2]string{"c", udp}), []tunnel.Action{tunnel.Keep, tunnel.Adjust}},
	} {
		t.Run(name, func(t *testing.T) {
			hosts := applied(t, mustMake(t, parse(t, c.before), twoHosts(), tunnel.Options{}), 1)
			f := parse(t, c.after)
			p := mustMake(t, f, hosts, tunnel.Options{})
			if got := actionsOf(p); !slices.Equal(got, c.want) {
				t.Fatalf("%v, want %v", got, c.want)
			}
			hosts = applied(t, p, 2)
			if again := mustMake(t, f, hosts, tunnel.Options{}); again.Changes() {
				t.Errorf("and then again: %v %q", actionsOf(again), again.Pairs[0].Why)
			}
			rotated := mustFill(t, mustMake(t, f, hosts, tunnel.Options{Kind: tunnel.Rotate}), 3)
			checkPlan(t, rotated) // no request ID of two pairs
			for _, h := range applied(t, mustMake(t, f, hosts, tunnel.Options{Kind: tunnel.Down}), 4) {
				if e := h.Facts.Engines[0]; len(e.SAs) != 0 || len(e.Policies) != 0 {
					t.Errorf("%d SAs, %d policies are left", len(e.SAs), len(e.Policies))
				}
			}
		})
	}
}

// One that cannot be reached is left alone by what it is called now; what is another file's is left to it.
func TestRenamedElsewhere(t *testing.T) {
	hosts := applied(t, mustMake(t, parse(t, two), twoHosts(), tunnel.Options{}), 1)
	f := parse(t, strings.Replace(two, "name: db", "name: data", 1))
	absent := func(h *config.Host) bool { return h.SSH != nil }
	if p := mustMake(t, f, hosts[:1], tunnel.Options{Absent: absent}); p.Changes() {
		t.Errorf("without the peer: %v", actionsOf(p))
	}
	if _, err := tunnel.Make(f, hosts, tunnel.Options{Origin: "db1:/other.yaml"}); err == nil || !strings.Contains(err.Error(), "for tunnel db of "+origin) {
		t.Errorf("another file's: %v", err)
	}
	p := mustMake(t, f, hosts, tunnel.Options{Origin: "db1:/other.yaml", Kind: tunnel.Rotate, Yield: true})
	if p.Changes() || p.Pairs[0].Yielded != origin {
		t.Errorf("%v, yielded to %q", actionsOf(p), p.Pairs[0].Yielded)
	}
}

// SAs for each port instead of one for all have other request IDs: in tunnel mode the plan tells what that costs.
func TestOtherRequestIDs(t *testing.T) {
	const subnets = `tunnels:
  - name: net
    hosts:
      - {address: 192.168.1.64, dev: p4p1, subnets: [10.1.0.0/24]}
      - {address: 192.168.1.65, dev: enp4s0, subnets: [10.2.0.0/24], ssh: root@db2}
    selectors: [{protocol: tcp, ports: [80, 443]}]
`
	ids := func(p *tunnel.Plan) map[uint32]bool {
		all := map[uint32]bool{}
		for _, policy := range p.Pairs[0].Ends[0].Policies {
			if policy.Action == ipsec.Protect {
				all[policy.Processing[0].RequestID] = true
			}
		}
		return all
	}
	hosts := twoHosts()
	for i, c := range []struct {
		text    string
		refuses bool
		ids     int
	}{
		{subnets, false, 1},
		{subnets + "    sas: ports\n", true, 2},
		{strings.Replace(subnets, "443]", "443, 22]", 1) + "    sas: ports\n", false, 3},
		{strings.Replace(subnets, "443]", "443, 22]", 1), true, 1},
		{subnets, false, 1},
	} {
		p := mustMake(t, parse(t, c.text), hosts, tunnel.Options{})
		if pair := &p.Pairs[0]; pair.Refuses != c.refuses || strings.Contains(pair.Traffic(), "may be lost") != c.refuses || len(ids(p)) != c.ids {
			t.Errorf("%d: refuses %v, %d request IDs: %s", i, pair.Refuses, len(ids(p)), pair.Traffic())
		}
		hosts = applied(t, p, uint64(i))
	}
}
