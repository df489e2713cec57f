package guard

import (
	"strings"
	"testing"

	"espalier/ipsec"
)

// TestHostGuardWhole: whatever is taken from the host's guard, or put into it, is noticed.
func TestHostGuardWhole(t *testing.T) {
	inNamespace(t)
	var policies []HostPolicy
	for i := range 300 { // enough for sets
		s := sel("10.1.0.0/24", "10.2.0.0/24", 6, anyPort, i+1)
		policies = append(policies, forHost("", bothWays(ipsec.Protect, 20, s))...)
	}
	policies = append(policies, forHost("p4p1", bothWays(ipsec.Protect, 20, sel("10.3.0.0/24", "10.4.0.0/24", 0, anyPort, anyPort)))...)
	rules := HostRules{Policies: policies, Encaps: []Encap{{Local: addrPort("10.1.0.1:4500"), Remote: addrPort("10.2.0.1:4500")}}}
	check := func(what string, wantLoaded, wantWhole bool) {
		t.Helper()
		if loaded, whole, err := HostLoaded(rules); loaded != wantLoaded || whole != wantWhole || err != nil {
			t.Errorf("%s: loaded %v, whole %v, %v", what, loaded, whole, err)
		}
	}
	check("nothing", false, false)
	for what, harm := range map[string]func(){
		"nothing":         func() {},
		"another pair":    func() { loadHost(t, policies[:900]) },
		"a chain flushed": func() { nft(t, "flush", "chain", "inet", "espalier", "postrouting") },
		"a set flushed":   func() { nft(t, "flush", "set", "inet", "espalier", aSet(t)) },
		"a rule more":     func() { nft(t, "insert", "rule", "inet", "espalier", "prerouting", "accept") },
	} {
		loadHost(t, rules.Policies, rules.Encaps...)
		harm()
		check(what, true, what == "nothing")
	}
	nft(t, "flush", "table", "inet", "espalier")
	check("all rules flushed", false, false)
	loadHost(t, rules.Policies, rules.Encaps...)
	nft(t, "flush", "ruleset")
	check("all flushed", false, false)
}

// aSet is the name of one of the sets.
func aSet(t *testing.T) string {
	t.Helper()
	have := parts{}
	ok(withConn(func(c *conn) (err error) { have, err = c.readParts(hostTable); return err }))
	for p := range have {
		if set, ok := strings.CutPrefix(p.in, "set "); ok {
			return set
		}
	}
	t.Fatal("there is no set: the test proves less than it says")
	return ""
}
