package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/config"
	"espalier/ipsec"
	"espalier/lint"
	"espalier/tunnel"
	"espalier/xfrm"
	"espalier/xfrm/pair"
)

// plannedHost is a host whose kernel does ESP, and whose NIC does crypto offload if it is told so.
func plannedHost(name, dev, address string, offload bool) tunnel.Host {
	yes, no := tunnel.Answer{Can: tunnel.Yes}, tunnel.Answer{Can: tunnel.No, Why: dev + " (e1000e) has no esp-hw-offload"}
	d := tunnel.Device{Name: dev, Index: 4, MTU: 1500, Speed: 100_000, Driver: "e1000e", Up: true, Crypto: no, Packet: no}
	if offload {
		d.Driver, d.Crypto, d.Packet = "mlx5_core", yes, tunnel.Answer{Can: tunnel.Unknown}
	}
	a := netip.MustParseAddr(address)
	d.Addresses = []netip.Prefix{netip.PrefixFrom(a, a.BitLen()-8)}
	return tunnel.Host{Name: "root@" + name, SSH: config.SSH{To: "root@" + name}, Facts: &tunnel.Facts{
		Hostname: name, BootID: name, Kernel: "6.13.0", Devices: []tunnel.Device{d},
		Engines: []tunnel.Engine{{Name: "kernel", ESP: yes, ESP6: yes, ESN: yes, UDP: yes, Direction: yes, PCPU: yes, MaxWindow: 4096, Lanes: 2}},
	}}
}

// plans are files and hosts whose plans are kept as text.
func plans(t *testing.T) map[string]*tunnel.Plan {
	t.Helper()
	make := func(text string, hosts []tunnel.Host) *tunnel.Plan {
		f, err := config.Parse("tunnels.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		p, err := tunnel.Make(f, hosts, tunnel.Options{Origin: "db1:/etc/tunnels.yaml"})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	two := "tunnels:\n  - name: db\n    hosts: [{address: 192.168.1.64, dev: p4p1, ssh: root@db1}, {address: 192.168.1.65, dev: enp4s0, ssh: root@db2}]\n"
	hosts := func() []tunnel.Host {
		return []tunnel.Host{plannedHost("db1", "p4p1", "192.168.1.64", true), plannedHost("db2", "enp4s0", "192.168.1.65", false)}
	}
	all := map[string]*tunnel.Plan{
		"two-hosts": make(two+"    esn: off\n", hosts()),
		"sites": make(`tunnels:
  - name: sites
    hosts:
      - {address: "2001:db8::1", dev: eth0, ssh: root@gw1, subnets: ["2001:db8:1::/48"]}
      - {address: "2001:db8::2", dev: eth0, ssh: root@gw2, subnets: ["2001:db8:2::/48"]}
    encap: udp
    selectors: [tcp, sctp]
    bypass: [tcp/22]
`, []tunnel.Host{plannedHost("gw1", "eth0", "2001:db8::1", false), plannedHost("gw2", "eth0", "2001:db8::2", false)}),
		"per-cpu": make(two+"    sas: per-cpu\n    offload: packet\n", func() []tunnel.Host {
			h := hosts()
			h[1] = plannedHost("db2", "enp4s0", "192.168.1.65", true)
			return h
		}()),
	}
	// Something of it was there: an SA with the pair's number, and a policy as it is to be.
	half := hosts()
	was := all["two-hosts"].Pairs[0].Ends[0]
	old := tunnel.LiveSA{SAID: tunnel.SAID{SAID: ipsec.SAID{Dst: was.Remote, SPI: 0x1234abcd}, Src: was.Local}, Direction: ipsec.Outbound, RequestID: was.Outbound[0].RequestID, KeyBits: 256, ICVBits: 128}
	half[0].Facts.Engines[0].SAs = []tunnel.LiveSA{old}
	different := was.Policies[0]
	different.Priority = 7
	half[0].Facts.Engines[0].Policies = []tunnel.LivePolicy{{Policy: different}}
	half[0].Facts.Owned = []tunnel.Owned{{
		Tunnel: "db", Origin: "db1:/etc/tunnels.yaml", Local: was.Local, Remote: was.Remote, Engine: "kernel", Device: "p4p1",
		Outbound: []tunnel.SAID{old.SAID}, Policies: []tunnel.Policy{different},
	}}
	all["half"] = make(two, half)
	return all
}

func TestPlanText(t *testing.T) {
	for name, p := range plans(t) {
		var b bytes.Buffer
		if err := writePlan(&b, p); err != nil {
			t.Fatal(err)
		}
		golden(t, "plan-"+name+".txt", b.String())
		for line := range strings.Lines(b.String()) {
			if columns(line) > 101 {
				t.Errorf("%s: a line of %d columns: %s", name, columns(line), line)
			}
		}
	}
}

// Scripts hold what the plan says with keys, are for their owner alone, and are what espalier itself
// reads and finds nothing wrong with.
func TestPlanScripts(t *testing.T) {
	for name, p := range plans(t) {
		if name == "half" {
			continue // what it lacks is there in part
		}
		dir := filepath.Join(t.TempDir(), "scripts")
		written, err := writeScripts(dir, p)
		if err != nil || len(written) != 2 {
			t.Fatalf("%s: %v %v", name, written, err)
		}
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v %v", dir, info.Mode(), err)
		}
		keys := [2]map[string]bool{}
		for i, file := range written {
			keys[i] = checkScript(t, file, p, i)
		}
		if len(keys[0]) == 0 || len(keys[0]) != len(keys[1]) {
			t.Errorf("%s: %d keys and %d", name, len(keys[0]), len(keys[1]))
		}
		for key := range keys[0] {
			if !keys[1][key] {
				t.Errorf("%s: a key that one side has alone", name)
			}
		}
		if again, err := writeScripts(dir, p); err == nil || len(again) != 0 {
			t.Errorf("%s: written over what was there: %v", name, again)
		}
	}
	open := t.TempDir()
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if written, err := writeScripts(open, plans(t)["sites"]); err == nil {
		t.Errorf("keys in a directory for all: %v", written)
	}
}

// checkScript parses a script and returns the keys in it, by name of the SA.
func checkScript(t *testing.T, file string, p *tunnel.Plan, host int) map[string]bool {
	t.Helper()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v %v", file, info.Mode(), err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := xfrm.ParseScript(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	env := xfrm.Env{Interface: func(name string) (int, error) { return p.Hosts[host].Facts.Device(name).Index, nil }}
	keys := map[string]bool{}
	var states []*xfrm.State
	var policies []*xfrm.Policy
	for _, line := range lines {
		c, err := xfrm.Parse(line.Words, env)
		if err != nil {
			t.Fatalf("%s:%d: %v", file, line.Number, err)
		}
		switch {
		case c.State != nil:
			states = append(states, c.State)
			keys[c.State.SPI.String()+string(c.State.AEAD.Key.ExposeSecretBytes())] = true
		case c.Policy != nil:
			policies = append(policies, c.Policy)
		}
	}
	if want := len(p.Diff(host)); len(states)+len(policies) != want || len(states) == 0 || len(policies) == 0 {
		t.Errorf("%s: %d SAs and %d policies, want %d in all", file, len(states), len(policies), want)
	}
	for _, f := range lint.Check(states, policies, pair.Match(states, policies, p.Hosts[host].Facts.Has), nil) {
		t.Errorf("%s: %+v", file, f)
	}
	return keys
}

func TestPlanView(t *testing.T) {
	view := viewPlan(&config.File{}, plans(t)["half"])
	b, err := json.Marshal(view)
	if err != nil {
		t.Fatal(err)
	}
	if !view.Changes || view.Pairs[0].Action != tunnel.Replace || len(view.Hosts) != 2 || len(view.Hosts[0].Changes) == 0 || len(view.Order) == 0 {
		t.Errorf("%s", b)
	}
	for _, c := range view.Hosts[0].Changes {
		if !strings.HasPrefix(c.Command, "ip xfrm ") || strings.Contains(c.Command, "aead") && !strings.Contains(c.Command, "hidden") {
			t.Error(c.Command)
		}
	}
}

// What is wrong is told for programs and people, and nothing is written.
func TestPlanRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tunnels.yaml")
	if err := os.WriteFile(file, []byte("tunnels:\n  - name: db\n    hosts: [{address: 203.0.113.1, dev: p4p1}, {address: 203.0.113.2, dev: eth0}]\n    window: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	if code := Main(t.Context(), []string{"plan", file, "-o", "json"}, nil, &stdout, &stderr); code != exitFailed {
		t.Errorf("exit %d", code)
	}
	var view planView
	if err := json.Unmarshal(stdout.Bytes(), &view); err != nil || view.OK || len(view.Problems) != 1 || view.Problems[0].Line != 4 {
		t.Errorf("%s %v", stdout.String(), err)
	}
	for _, args := range [][]string{{}, {"a", "b"}, {file, "-o", "xml"}} {
		if code := Main(t.Context(), append([]string{"plan"}, args...), nil, io.Discard, io.Discard); code != exitUsage {
			t.Errorf("%q: exit %d", args, code)
		}
	}
	if code := Main(t.Context(), []string{"plan", file}, nil, io.Discard, &stderr); code != exitFailed || !strings.Contains(stderr.String(), "tunnels.yaml:4:13: a window of 7 packets is too small") {
		t.Errorf("exit %d: %s", code, stderr.String())
	}
}
