package deploy_test

import (
	"strings"
	"testing"
	"time"

	"espalier/deploy"
	"espalier/tunnel"
)

// SAs are due by their age there, whatever the clocks of that host and of this one say.
func TestDueByAge(t *testing.T) {
	for age, want := range map[time.Duration]string{59 * time.Minute: "", time.Hour: "there for 1h0m0s"} {
		owned := tunnel.Owned{Tunnel: "db", Age: age, Since: time.Unix(0, 0), Rotate: tunnel.Rotation{Every: time.Hour}}
		pair := &tunnel.Pair{Tunnel: "db"}
		hosts := make([]deploy.Host, 1)
		hosts[0].Name, hosts[0].Facts = "db1", &tunnel.Facts{}
		for i, address := range []string{"192.0.2.1", "192.0.2.2"} {
			pair.Ends[i].Local.UnmarshalText([]byte(address))
		}
		pair.Ends[0].Remote, pair.Ends[1].Remote = pair.Ends[1].Local, pair.Ends[0].Local
		owned.Local, owned.Remote = pair.Ends[0].Local, pair.Ends[0].Remote
		other := owned
		other.Local, other.Remote = owned.Remote, owned.Local
		hosts[0].Facts.Owned = []tunnel.Owned{owned, other}
		if got := deploy.Due(hosts, pair); !strings.HasSuffix(got, want) || (got == "") != (want == "") {
			t.Errorf("%s: %q, want %q", age, got, want)
		}
	}
}
