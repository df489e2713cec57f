package deploy

import (
	"net/netip"
	"strings"
	"testing"

	"espalier/tunnel"
)

// A pair of which a host does not know what became of its last change gets new SAs, before their time.
func TestDueUndecided(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, undecided := range []bool{false, true} {
		facts := &tunnel.Facts{Owned: []tunnel.Owned{{Tunnel: "db", Local: a, Remote: b, Undecided: undecided}}}
		pair := &tunnel.Pair{Tunnel: "db", Ends: [2]tunnel.End{{Local: a, Remote: b}}}
		why := Due([]Host{{Host: tunnel.Host{Name: "db1", Facts: facts}}}, pair)
		if strings.Contains(why, "not known") != undecided {
			t.Errorf("%v: %q", undecided, why)
		}
	}
}
