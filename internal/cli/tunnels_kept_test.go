package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"espalier/config"
	"espalier/deploy"
	"espalier/tunnel"
)

// What says which hosts a file had is kept as long as one of them, which is no longer in the file, was not asked.
func TestFormerFiles(t *testing.T) {
	t.Setenv("ESPALIER_STATE_DIR", t.TempDir())
	const path = "/etc/tunnels.yaml"
	text := func(hosts ...int) []byte {
		var b strings.Builder
		b.WriteString("tunnels:\n  - name: db\n    hosts:\n")
		for _, h := range hosts {
			fmt.Fprintf(&b, "      - {address: 203.0.113.%d, dev: p4p1, ssh: root@db%[1]d}\n", h)
		}
		return []byte(b.String())
	}
	apply := func(without []string, hosts ...int) (former [][]string) {
		t.Helper()
		c := &change{path: path, text: text(hosts...)}
		var err error
		if c.file, err = config.Parse(path, c.text); err != nil {
			t.Fatal(err)
		}
		if c.former, err = formerFiles(path); err != nil {
			t.Fatal(err)
		}
		if c.absent, err = deploy.Without(c.file, filesOf(c.former), without); err != nil {
			t.Fatal(err)
		}
		place, err := tunnelPlace()
		if err != nil {
			t.Fatal(err)
		}
		kept := keptFile(place, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(kept), 0o700), c.leaveBehind(kept), replaceFile(kept, c.text)); err != nil {
			t.Fatal(err)
		}
		all, err := formerFiles(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			var names []string
			for i := range f.Tunnels[0].Hosts {
				names = append(names, f.Tunnels[0].Hosts[i].SSH.To)
			}
			former = append(former, names)
		}
		return former
	}
	for i, c := range []struct {
		without []string
		hosts   []int
		want    string
	}{
		{nil, []int{1, 2, 3, 4}, "[[root@db1 root@db2 root@db3 root@db4]]"},
		{nil, []int{1, 2, 3}, "[[root@db1 root@db2 root@db3]]"},
		{[]string{"db3"}, []int{1, 2}, "[[root@db1 root@db2] [root@db1 root@db2 root@db3]]"},
		{[]string{"db2", "db3"}, []int{1, 4}, "[[root@db1 root@db4] [root@db1 root@db2 root@db3] [root@db1 root@db2]]"},
		{[]string{"db2"}, []int{1, 3}, "[[root@db1 root@db3] [root@db1 root@db2 root@db3] [root@db1 root@db2]]"},
		{nil, []int{1, 3}, "[[root@db1 root@db3]]"},
	} {
		if got := fmt.Sprint(apply(c.without, c.hosts...)); got != c.want {
			t.Errorf("%d: %s, want %s", i, got, c.want)
		}
	}
}

func TestReachAsNow(t *testing.T) {
	file := func(ssh string) []byte {
		return []byte("tunnels: [{name: db, hosts: [{address: 203.0.113.1, dev: p4p1}, {address: 203.0.113.2, dev: p4p1, ssh: " + ssh + "}]}]")
	}
	path := filepath.Join(t.TempDir(), "tunnels.yaml")
	for now, want := range map[string]string{string(file("admin@db2")): "admin@db2", "no tunnels": "root@db2"} {
		f, err := config.Parse(path, file("root@db2"))
		if err = errors.Join(err, os.WriteFile(path, []byte(now), 0o600)); err != nil {
			t.Fatal(err)
		}
		reachAsNow(f, path)
		if hosts := f.Tunnels[0].Hosts; hosts[0].SSH != nil || hosts[1].SSH.To != want {
			t.Errorf("%v, want %s", hosts[1].SSH, want)
		}
	}
}

// Only SAs that stay, and whose sequence numbers end within hours, have to be rotated by somebody.
func TestEnds(t *testing.T) {
	of := &config.Tunnel{}
	for _, c := range []struct {
		pair tunnel.Pair
		want bool
	}{
		{tunnel.Pair{Of: of, ESN: true}, false},
		{tunnel.Pair{Of: of}, true},
		{tunnel.Pair{Action: tunnel.Remove}, false},
	} {
		if got := ends(&tunnel.Plan{Pairs: []tunnel.Pair{{Of: of, ESN: true}, c.pair}}); got != c.want {
			t.Errorf("%+v: %v", c.pair, got)
		}
	}
}

// SAs without ESN on a fast link are looked at often enough: at 100 Gb/s a quarter of 2³² packets is left
// for 132 s when they are due at three quarters.
func TestPeriod(t *testing.T) {
	for _, c := range []struct {
		pair tunnel.Pair
		want time.Duration
	}{
		{tunnel.Pair{ESN: true, Speed: 100_000, Rotate: tunnel.Rotation{Every: 8 * time.Hour, Share: 0.75}}, soon},
		{tunnel.Pair{Speed: 100_000, Rotate: tunnel.Rotation{Every: time.Hour, Share: 0.75}}, 66 * time.Second},
		{tunnel.Pair{Speed: 1_000, Rotate: tunnel.Rotation{Every: 16 * time.Minute, Share: 0.75}}, 2 * time.Minute},
		{tunnel.Pair{Action: tunnel.Remove, Rotate: tunnel.Rotation{Every: time.Minute}}, soon},
		{tunnel.Pair{Rotate: tunnel.Rotation{}, ESN: true}, soon},
	} {
		if got := period(&tunnel.Plan{Pairs: []tunnel.Pair{c.pair}}); got != c.want {
			t.Errorf("%+v: %s, want %s", c.pair, got, c.want)
		}
	}
}
