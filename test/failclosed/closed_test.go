package failclosed

import (
	"strings"
	"testing"
	"time"

	"espalier/test/lab"
)

// Policies without SAs, or with an SA in one direction only, let nothing out: whatever the
// socket, bound to the device or not, connected or not.
func TestPoliciesWithoutSAs(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping")
	l := lab.New(t, "")
	startDevices(l)
	checkControl(t, l)
	addPolicies(l, l.A, pairs(0))
	checkClosed(t, l, "policies without SAs")
	if n := l.A.AwaitDrops(func(d map[string]uint64) bool { return d["out-no-sa"] > 0 })["out-no-sa"]; n == 0 {
		t.Error("no packet was dropped for want of an SA: did they try?")
	}

	addPolicies(l, l.B, pairs(0))
	addStates(l, l.B, pairs(0))
	checkClosed(t, l, "SAs on the other host only")

	addStates(l, l.A, pairs(0))
	c := wantClosed(t, l, l.A, "with SAs", func() {
		checkWorks(t, l, "with SAs")
		tryAll(l) // those bound to the device find no route into the SA
	})
	if c.ESP == 0 {
		t.Error("with SAs: no ESP on the wire")
	}
}

// IPv6 depends on neighbour discovery, which is unprotected: it has to pass the guard, or
// nothing passes once the neighbour is forgotten.
func TestNeighbourDiscovery(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping", "ip")
	l := lab.New(t, "")
	startDevices(l)
	for _, h := range l.Hosts() {
		addPolicies(l, h, pairs(0))
		h.Must("ip", "-6", "neigh", "flush", "dev", h.Device)
	}
	if s := neighbourState(l.A, lab.B6); strings.Contains(s, "lladdr") {
		t.Fatalf("the neighbour is known before: %s", s)
	}
	c := wantClosed(t, l, l.A, "without SAs", func() { ping(l.A, lab.B6, "-I", l.Device) })
	if c.Discovery == 0 {
		t.Error("no neighbour discovery on the wire")
	}
	if s := neighbourState(l.A, lab.B6); !strings.Contains(s, "REACHABLE") && !strings.Contains(s, "STALE") && !strings.Contains(s, "DELAY") {
		t.Errorf("the neighbour was not found: %q", s)
	}

	for _, h := range l.Hosts() {
		h.Must("ip", "-6", "neigh", "flush", "dev", h.Device)
		addStates(l, h, pairs(0))
	}
	wantClosed(t, l, l.A, "with SAs", func() {
		if start := time.Now(); !l.A.Ping(lab.B6, 1) || time.Since(start) > time.Second {
			t.Error("the first ping after the SAs was not answered at once")
		}
	})
}

// Someone flushes all of nftables, the guard with it. The device puts it back.
func TestFlushedRuleset(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping", "nft")
	l := lab.New(t, "")
	startDevices(l)
	bound := func() { ping(l.A, lab.B4, "-I", l.Device); ping(l.A, lab.B6, "-I", l.Device) }
	if c := watch(t, l, l.A, bound); c.Cleartext == 0 {
		t.Error("control: nothing was seen in clear without the guard")
	}
	addPolicies(l, l.A, pairs(0))
	before := guardRules(l.A)
	if before == "" {
		t.Fatal("nft does not list the guard")
	}
	l.A.Must("nft", "flush", "ruleset")
	for start := time.Now(); guardRules(l.A) != before; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatalf("the guard is not back:\n%s", guardRules(l.A))
		}
	}
	wantClosed(t, l, l.A, "put back", bound)
}

func guardRules(h *lab.Host) string {
	return h.Command("nft", "--stateless", "list", "table", "netdev", "espalier_"+h.Device).Stdout
}
