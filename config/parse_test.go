package config

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/ipsec"
)

func parsed(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return f
}

const twoHosts = "  hosts: [{address: 10.0.0.1, dev: eth0}, {address: 10.0.0.2, dev: eth0}]\n"

// TestDefaults: what is not said is filled in; what defaults say counts, unless the tunnel says
// otherwise.
func TestDefaults(t *testing.T) {
	f := parsed(t, `
tunnels:
- name: plain
  hosts: [{address: 10.0.0.1, dev: eth0, ssh: db1}, {address: 10.0.0.2, dev: eth0}]
- name: own
  hosts: [10.0.0.1, {address: 10.0.1.2, dev: eth0, subnets: []}]
  offload: no
  esn: false
  lifetime: {time: 5h, bytes: 1GiB, packets: 5000, soft: {share: 50%, bytes: 600MiB}}
  bypass: []
  window: 128
- name: net
  hosts:
  - {address: 10.0.2.1, dev: eth0, subnets: [10.1.0.0/16]}
  - {address: 10.0.2.2, dev: eth0, subnets: [10.2.0.0/16]}
  encap: udp
  offload: auto
  rotate: {at-most-share: 20%}
defaults:
  offload: require
  bypass: [tcp/22]
  window: 64
`)
	plain, own, net := f.Tunnels[0], f.Tunnels[1], f.Tunnels[2]
	if plain.Mode != Transport || plain.ESN != Auto || plain.KeySize != 256 || plain.Engine != AnyEngine || plain.Encap != (Encap{Type: NoEncap}) ||
		plain.Rotate != (Rotate{8 * Duration(time.Hour), 50}) || plain.Lifetime != (Lifetime{}) || plain.SAs != (SAs{}) || plain.Hosts[0].Sudo != Auto {
		t.Errorf("defaults: %+v", plain)
	}
	if plain.Offload != RequireOffload || plain.Window != 64 || len(plain.Bypass) != 1 {
		t.Errorf("the file's defaults: %+v", plain)
	}
	if own.Offload != NoOffload || own.ESN != Off || own.Window != 128 || own.Bypass != nil {
		t.Errorf("its own settings: %+v", own)
	}
	wantLimits := ipsec.Limits{
		SoftTime: 150 * time.Minute, HardTime: 5 * time.Hour, SoftBytes: 600 << 20, HardBytes: 1 << 30, SoftPackets: 2500, HardPackets: 5000,
	}
	if got := own.Lifetime.Limits(); got != wantLimits {
		t.Errorf("limits %+v, want %+v", got, wantLimits)
	}
	if own.Rotate.Every != Duration(150*time.Minute) {
		t.Errorf("rotated every %s", own.Rotate.Every)
	}
	if h := own.Hosts[0]; h.Dev != "eth0" || h.SSH == nil || h.SSH.To != "db1" {
		t.Errorf("what was said of the host in another tunnel: %+v", h)
	}
	if net.Mode != TunnelMode || net.Mode.IPsec() != ipsec.Tunnel || net.Encap.Port != 4500 || net.Rotate != (Rotate{8 * Duration(time.Hour), 20}) {
		t.Errorf("with subnets: %+v", net)
	}
	if f.Defaults != nil {
		t.Error("defaults are left")
	}
}

// TestPlaces: whoever finds something wrong with a setting later can say where it stands.
func TestPlaces(t *testing.T) {
	f := parsed(t, "defaults:\n  offload: auto\ntunnels:\n- name: a\n"+twoHosts+"  selectors: [tcp/1,\n    tcp/2]\n")
	tunnel := &f.Tunnels[0]
	for setting, want := range map[string]Position{
		"name": {4, 9}, "offload": {2, 12}, "selectors[1]": {7, 5}, "hosts[1].dev": {5, 68}, "hosts[1].ssh.to": {5, 43}, "window": {4, 3}, "nonsense": {4, 3},
	} {
		if got := tunnel.Place(setting); got != want {
			t.Errorf("%s: %v, want %v", setting, got, want)
		}
	}
	if got := tunnel.Hosts[0].Place("address"); got != (Position{5, 21}) {
		t.Errorf("address: %v", got)
	}
	if got := tunnel.Pairs[0].B.Place("address"); got != (Position{5, 53}) {
		t.Errorf("address of the pair's second host: %v", got)
	}
	if got := (&Tunnel{}).Place("name"); got != (Position{}) {
		t.Errorf("a tunnel that no file has is at %v", got)
	}
	p := ProblemAt("f", tunnel.Hosts[1].Place("address"), "no host has this address", "")
	if p.Error() != "f:5:53: no host has this address" {
		t.Error(p)
	}
}

// TestAccepted: what looks odd and is right, and what is noted of it.
func TestAccepted(t *testing.T) {
	gateways := "  hosts:\n  - {address: 198.51.100.1, dev: e, subnets: [%s]}\n  - {address: 203.0.113.1, dev: e, subnets: [%s]}\n"
	for name, c := range map[string]struct{ text, notes string }{
		"anchors":                         {"tunnels:\n- name: a\n  hosts: [&x {address: 10.0.0.1, dev: e}, {address: 10.0.0.2, dev: e}]\n- name: b\n  hosts: [*x, {address: 10.0.0.3, dev: e}]\n", ""},
		"JSON":                            {`{"tunnels": [{"name": "a", "hosts": [{"address": "10.0.0.1", "dev": "e"}, {"address": "10.0.0.2", "dev": "e"}], "window": 64, "esn": true}]}`, ""},
		"a BOM, and lines of DOS":         {"\ufefftunnels:\r\n- name: a\r\n" + strings.ReplaceAll(twoHosts, "\n", "\r\n"), ""},
		"routes choose":                   {"tunnels:\n- name: a\n" + fmt.Sprintf(gateways, "0.0.0.0/0", "0.0.0.0/0") + "  if_id: 1\n- name: b\n" + fmt.Sprintf(gateways, "0.0.0.0/0", "0.0.0.0/0") + "  if_id: 2\n", ""},
		"marks choose":                    {"tunnels:\n- name: a\n" + twoHosts + "  mark: 1/3\n- name: b\n" + twoHosts + "  mark: 2/2\n", ""},
		"tunnel mode between hosts":       {"tunnels:\n- name: a\n" + twoHosts + "  mode: tunnel\n", ""},
		"gateways within their subnets":   {"tunnels:\n- name: a\n  hosts: [{address: 10.1.0.1, dev: e, subnets: [10.1.0.0/16]}, {address: 10.2.0.1, dev: e, subnets: [10.2.0.0/16]}]\n", ""},
		"ports of different tunnels":      {"tunnels:\n- name: a\n" + twoHosts + "  selectors: [tcp/1]\n- name: b\n" + twoHosts + "  selectors: [tcp/2, udp/1]\n", ""},
		"a part by a tunnel of its own":   {"tunnels:\n- name: a\n" + twoHosts + "- name: b\n" + twoHosts + "  selectors: [tcp/5432]\n", "f:4:9: 10.0.0.1→10.0.0.2 tcp to port 5432 goes by tunnel b, not by a, for it is the narrower"},
		"the rest by a tunnel of its own": {"tunnels:\n- name: a\n" + twoHosts + "  selectors: [icmp]\n- name: b\n" + twoHosts, "f:2:9: 10.0.0.1→10.0.0.2 icmp goes by tunnel a, not by b, for it is the narrower"},
		"a bypass of the part that is its own": {
			"tunnels:\n- name: a\n" + fmt.Sprintf(gateways, "10.1.0.0/16", "10.2.0.0/16") + "- name: b\n" + fmt.Sprintf(gateways, "10.1.5.0/24", "10.2.5.0/24") + "  bypass: [tcp/22]\n",
			"f:6:9: 10.1.5.0/24→10.2.5.0/24 goes by tunnel b, not by a, for it is the narrower",
		},
		"packet offload in UDP":      {"tunnels:\n- name: a\n" + twoHosts + "  encap: udp\n  offload: require\n", ""},
		"the same subnets elsewhere": {"tunnels:\n- name: a\n" + fmt.Sprintf(gateways, "10.1.0.0/16", "10.2.0.0/16") + "- name: b\n  hosts: [{address: 198.51.100.9, dev: e, subnets: [10.1.0.0/16]}, {address: 203.0.113.9, dev: e, subnets: [10.2.0.0/16]}]\n", ""},
		"never rotated, with ESN":    {"tunnels:\n- name: a\n" + twoHosts + "  rotate: never\n  esn: on\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := parsed(t, c.text)
			if notes := Problems(f.Notes).Error(); notes != c.notes {
				t.Errorf("%s\nnotes: %s\nwant:  %s", c.text, notes, c.notes)
			}
		})
	}
}

// TestLimits: what is too much is refused in good time, and said once.
func TestLimits(t *testing.T) {
	mesh := func(hosts int) string {
		var b strings.Builder
		b.WriteString("tunnels:\n- name: a\n  hosts:\n")
		for i := range hosts {
			fmt.Fprintf(&b, "  - {address: 10.0.0.%d, dev: eth0}\n", i+1)
		}
		return b.String()
	}
	ports := func(n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprint(i+1))
		}
		return "[" + strings.Join(list, ", ") + "]"
	}
	repeated := func(one string, n int) string { return "[" + strings.Repeat(one+", ", n) + one + "]" }
	subnets := func(third, n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf("10.%d.%d.0/24", third, i))
		}
		return "[" + strings.Join(list, ", ") + "]"
	}
	bomb := "defaults:\n  bypass: [tcp/22]\ntunnels:\n- &t\n  name: a\n" + twoHosts + strings.Repeat("- *t\n", 200_000)
	for name, c := range map[string]struct{ text, want string }{
		"size":      {"# " + strings.Repeat("x", MaxSize), "f:1:1: the file has more than 2 MiB: divide it into several"},
		"aliases":   {bomb, "f:1:1: with its aliases the file has more than 300000 values: use fewer aliases, or several files"},
		"nested":    {strings.Repeat("[", 100_000), "f:1:17: this is no YAML: exceeded max depth of 16: nothing is nested that deeply: see espalier config example"},
		"mesh":      {mesh(65), "f:4:3: a mesh of 65 hosts: make several tunnels of up to 64 hosts"},
		"ports":     {"tunnels:\n- name: a\n" + twoHosts + "  selectors: [{protocol: tcp, ports: " + ports(65) + "}]\n", "f:4:38: a list of 65 ports: write up to 64, or protect the whole protocol"},
		"policies":  {mesh(64) + "  selectors: [{protocol: tcp, ports: [1, 2, 3, 4, 5]}]\n", "f:2:9: from here on there are more than 16384 policies: use fewer selectors, hosts or subnets, or several files"},
		"traffic":   {"tunnels:\n- name: a\n" + twoHosts + "  selectors: " + repeated("tcp", 100_000) + "\n", "f:4:14: selectors has 100001 entries: write up to 64; ports: [80, 443] puts several in one"},
		"subnets":   {"tunnels:\n- name: a\n  hosts: [{address: 10.0.0.1, dev: e, subnets: " + repeated("10.1.0.0/24", 50_000) + "}, {address: 10.0.0.2, dev: e}]\n", "f:3:48: a list of 50001 subnets: write up to 64, wider ones"},
		"hosts":     {"tunnels:\n- name: a\n  hosts: " + repeated("{address: 10.0.0.1, dev: e}", 50_000) + "\n", "f:3:10: a mesh of 50001 hosts: make several tunnels of up to 64 hosts"},
		"all of it": {"tunnels:\n- name: a\n  hosts: [{address: 10.0.0.1, dev: e, subnets: " + subnets(1, 64) + "}, {address: 10.0.0.2, dev: e, subnets: " + subnets(2, 64) + "}]\n  selectors: [{protocol: tcp, ports: " + ports(64) + "}]\n", "f:2:9: from here on there are more than 16384 policies: use fewer selectors, hosts or subnets, or several files"},
		"no UTF-8":  {"tunnels: # \xff\n", "f:1:12: the file is no text in UTF-8: save it as UTF-8, without control characters"},
		"a zero":    {"tunnels:\n  \x00", "f:2:3: the file is no text in UTF-8: save it as UTF-8, without control characters"},
		"UTF-16":    {"\xff\xfet\x00", "f:1:1: the file is no text in UTF-8: save it as UTF-8, without control characters"},
		"long text": {"tunnels: " + strings.Repeat("é", 1000), "f:1:10: tunnels is \"" + strings.Repeat("é", 40) + "…\": write a list of tunnels, each beginning with \"- name:\""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("f", []byte(c.text))
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %.500v\nwant %s", err, c.want)
			}
		})
	}
	if f := parsed(t, mesh(64)); len(f.Tunnels[0].Pairs) != 2016 {
		t.Errorf("a mesh of 64 hosts has %d pairs", len(f.Tunnels[0].Pairs))
	}
}

// TestNoSecrets: what was mistaken for a place for a secret is not repeated.
func TestNoSecrets(t *testing.T) {
	_, err := Parse("f", []byte("psk: hunter2\ntunnels:\n- name: a\n  key: hunter2\n  hosts: [{address: 10.0.0.1, dev: e, ssh: 'root:hunter2@db', password: hunter2}, {address: 10.0.0.2, dev: e, ssh: {to: 'ssh://a:hunter2@b', identity: '-----BEGIN PRIVATE KEY----- hunter2'}}]\n"))
	var problems Problems
	if !errors.As(err, &problems) || len(problems) != 6 {
		t.Fatalf("%v", err)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

func TestKernelOnly(t *testing.T) {
	for settings, want := range map[string]string{
		"esn: on": "", "mark: 1": "mark", "output-mark: 1": "output-mark", "if_id: 7": "if_id", "offload: packet": "offload: packet", "offload: require": "offload: require",
		"offload: crypto": "", "sas: per-cpu": "sas: per-cpu", "sas: 4": "",
	} {
		f := parsed(t, "tunnels:\n- name: a\n"+twoHosts+"  "+settings+"\n")
		if got := f.Tunnels[0].KernelOnly(); got != want {
			t.Errorf("%s: %q, want %q", settings, got, want)
		}
	}
}

// TestMany: a file of a thousand tunnels is read at once, and keeps to what it needs.
func TestMany(t *testing.T) {
	text := many(1000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f := parsed(t, string(text))
	runtime.ReadMemStats(&after)
	if len(f.Tunnels) != 1000 || len(f.Notes) != 0 {
		t.Errorf("%d tunnels, notes %v", len(f.Tunnels), f.Notes)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 100<<20 {
		t.Errorf("%d MiB for %d kB", used>>20, len(text)>>10)
	}
}

// many is a hub with n spokes.
func many(n int) []byte {
	var b strings.Builder
	b.WriteString("tunnels:\n")
	for i := range n {
		fmt.Fprintf(&b, "- name: spoke-%d\n  hosts: [{address: 10.255.0.1, dev: p4p1}, {address: 10.%d.%d.1, dev: eth0, ssh: root@spoke-%d}]\n  bypass: [tcp/22]\n", i, i/256, i%256, i)
	}
	return []byte(b.String())
}

func BenchmarkParse(b *testing.B) {
	text := many(1000)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("f", text); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzParse: whatever is in a file, it is refused with problems in their order, or means what it
// means when it is written out.
func FuzzParse(f *testing.F) {
	for _, name := range Examples() {
		text, _ := Example(name)
		f.Add(text)
	}
	refused, err := os.ReadFile("testdata/refused.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range strings.Split(string(refused), "=== ")[1:] {
		_, text, _ := strings.Cut(c, "\n")
		text, _, _ = strings.Cut(text, ">>>\n")
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse("f", text)
		if err == nil {
			writtenOut(t, file)
			return
		}
		var problems Problems
		if !errors.As(err, &problems) || len(problems) == 0 || file != nil {
			t.Fatalf("%T %v, %v", err, err, file)
		}
		if !slices.IsSortedFunc(problems, func(a, b Problem) int { return a.Line - b.Line }) {
			t.Errorf("not in order:\n%v", err)
		}
		for _, p := range problems {
			if p.Line < 1 || p.Column < 1 || p.What == "" || strings.ContainsAny(p.Error(), "\n\r\x1b") {
				t.Errorf("problem %q", p)
			}
		}
	})
}
