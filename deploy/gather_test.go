package deploy_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"espalier/config"
	"espalier/deploy"
	"espalier/deploy/steps"
	"espalier/remote"
	"espalier/tunnel"
)

// This host is known by its addresses, whatever ssh the file has for it; where it is not in the file
// its facts are there all the same. Others that do not answer are told, all of them.
func TestGather(t *testing.T) {
	asked := ""
	local := remote.Operations{steps.Facts: remote.JSON(func(_ context.Context, q steps.FactsQuestion, _ remote.Progress) (*tunnel.Facts, error) {
		asked = q.SAD
		return &tunnel.Facts{Hostname: "db1", Devices: []tunnel.Device{{Name: "p4p1", Addresses: []netip.Prefix{netip.MustParsePrefix("203.0.113.1/24")}}}}, nil
	})}
	denied := remote.Operations{steps.Facts: remote.JSON(func(context.Context, steps.FactsQuestion, remote.Progress) (*tunnel.Facts, error) {
		return nil, errors.New("run as root")
	})}
	host := func(address, ssh string) string {
		return "{address: " + address + ", dev: p4p1" + ssh + "}"
	}
	for name, c := range map[string]struct {
		hosts []string
		local remote.Operations
		names []string // of the hosts that were reached
		here  bool
		fails []string // parts of the error
	}{
		"this host and one without ssh": {[]string{host("203.0.113.1", ""), host("203.0.113.2", "")}, local, []string{"db1"}, true, nil},
		"this host has ssh, too":        {[]string{host("203.0.113.1", ", ssh: root@db1"), host("203.0.113.2", "")}, local, []string{"db1"}, true, nil},
		"only others":                   {[]string{host("203.0.113.8", ""), host("203.0.113.9", "")}, local, nil, true, nil},
		"only others, and no root here": {[]string{host("203.0.113.8", ""), host("203.0.113.9", "")}, denied, nil, false, nil},
		"two that cannot be reached": {[]string{host("203.0.113.2", ", ssh: root@db2"), host("203.0.113.3", ", ssh: root@db3")}, local, nil, false,
			[]string{"root@db2", "root@db3"}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := config.Parse("x", []byte("tunnels: [{name: db, hosts: ["+strings.Join(c.hosts, ", ")+"]}]"))
			if err != nil {
				t.Fatal(err)
			}
			told := 0
			hosts, here, err := deploy.Gather(t.Context(), f, deploy.GatherOptions{
				SAD: "kernel", Local: c.local, Remote: remote.Options{SSH: "false"}, Say: func(string, string) { told++ },
			})
			defer deploy.Close(hosts)
			if (err != nil) != (len(c.fails) > 0) {
				t.Fatal(err)
			}
			for _, part := range c.fails {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v does not tell of %s", err, part)
				}
			}
			var names []string
			for _, h := range deploy.Hosts(hosts) {
				names = append(names, h.Name)
			}
			if !slices.Equal(names, c.names) || told != len(names) || (here != nil) != c.here {
				t.Errorf("%v, told of %d, here %v", names, told, here)
			}
			if c.here && asked != "kernel" {
				t.Errorf("asked for SAD %q", asked)
			}
		})
	}
}

// Hosts that are left out are not asked, and those that do not answer are left out where that is asked for.
func TestGatherAbsent(t *testing.T) {
	f, err := config.Parse("x", []byte("tunnels: [{name: db, hosts: [{address: 203.0.113.2, dev: p4p1, ssh: root@db2}, {address: 203.0.113.3, dev: p4p1, ssh: root@db3}]}]"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := deploy.Without(f, nil, []string{"root@db4"}); err == nil {
		t.Error("a host that the file does not have can be left out")
	}
	for _, name := range []string{"root@db2", "db2", "203.0.113.2"} {
		absent, err := deploy.Without(f, nil, []string{name})
		if err != nil || !slices.Equal(absent.Names(), []string{"root@db2"}) {
			t.Fatalf("%s: %v %v", name, absent, err)
		}
		opt := deploy.GatherOptions{Local: remote.Operations{}, Remote: remote.Options{SSH: "false"}, Absent: absent}
		if _, _, err := deploy.Gather(t.Context(), f, opt); err == nil || strings.Contains(err.Error(), "db2") || !strings.Contains(err.Error(), "db3") {
			t.Errorf("%s: %v", name, err)
		}
		var lost []string
		opt.Lost = func(host string, err error) { lost = append(lost, host) }
		hosts, _, err := deploy.Gather(t.Context(), f, opt)
		if err != nil || len(hosts) != 0 || !slices.Equal(lost, []string{"root@db3"}) || !absent.Has(&f.Tunnels[0].Hosts[1]) {
			t.Errorf("%v, %d hosts, lost %q, absent %v", err, len(hosts), lost, absent)
		}
	}
}

// Hosts that the file had before are asked as well, but for those that are in it by another way to reach them.
func TestGatherFormer(t *testing.T) {
	parse := func(hosts string) *config.File {
		f, err := config.Parse("x", []byte("tunnels: [{name: db, hosts: ["+hosts+"]}]"))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	former := []*config.File{
		parse("{address: 203.0.113.2, dev: p4p1, ssh: root@old2}, {address: 203.0.113.4, dev: p4p1, ssh: root@db4}"),
		parse("{address: 203.0.113.5, dev: p4p1, ssh: root@db5}, {address: 203.0.113.4, dev: p4p1, ssh: root@db4}"),
	}
	f := parse("{address: 203.0.113.2, dev: p4p1, ssh: root@db2}, {address: 203.0.113.3, dev: p4p1, ssh: root@db3}")
	absent, err := deploy.Without(f, former, []string{"db5"})
	if err != nil {
		t.Fatal(err)
	}
	var lost []string
	opt := deploy.GatherOptions{Local: remote.Operations{}, Remote: remote.Options{SSH: "false"}, Former: former, Absent: absent,
		Lost: func(host string, err error) { lost = append(lost, host) }}
	if _, _, err := deploy.Gather(t.Context(), f, opt); err != nil {
		t.Fatal(err)
	}
	slices.Sort(lost)
	if want := []string{"root@db2", "root@db3", "root@db4"}; !slices.Equal(lost, want) {
		t.Errorf("asked %q, want %q", lost, want)
	}
}
