package tunnel_test

import (
	"slices"
	"strings"
	"testing"

	"espalier/config"
	"espalier/ipsec"
	"espalier/tunnel"
)

const two = `tunnels:
  - name: db
    hosts: [{address: 192.168.1.64, dev: p4p1}, {address: 192.168.1.65, dev: enp4s0, ssh: root@db2}]
`

func twoHosts() []tunnel.Host {
	return []tunnel.Host{here(kernelHost("db1", "p4p1", "192.168.1.64")), kernelHost("db2", "enp4s0", "192.168.1.65")}
}

func TestTransport(t *testing.T) {
	p := mustMake(t, parse(t, two), twoHosts(), tunnel.Options{})
	if got := actionsOf(p); !slices.Equal(got, []tunnel.Action{tunnel.Create}) {
		t.Fatal(got)
	}
	e := &p.Pairs[0].Ends[0]
	if len(e.Outbound) != 1 || len(e.Inbound) != 1 || len(e.Policies) != 2 || e.Engine != "kernel" || e.Device != "p4p1" {
		t.Fatalf("%+v", e)
	}
	out, in := e.Outbound[0], e.Inbound[0]
	if out.Direction != ipsec.Outbound || out.Window != 0 || !out.ESN || in.Direction != ipsec.Inbound || in.Window != 4096 || in.RequestID != out.RequestID {
		t.Errorf("%+v\n%+v", out, in)
	}
	if e.Policies[0].Direction != ipsec.Inbound || e.Policies[1].Direction != ipsec.Outbound || e.Policies[1].Processing[0].Optional {
		t.Errorf("%+v", e.Policies)
	}
}

// A kernel that knows no direction wants a window for ESN in both.
func TestWithoutDirection(t *testing.T) {
	hosts := twoHosts()
	hosts[0].Facts.Engines[0].Direction = no("it came with Linux 6.10")
	e := &mustMake(t, parse(t, two), hosts, tunnel.Options{}).Pairs[0].Ends[0]
	if out := e.Outbound[0]; out.Direction != ipsec.AnyDirection || out.Window == 0 || e.Inbound[0].Direction != ipsec.AnyDirection {
		t.Errorf("%+v", out)
	}
}

// In tunnel mode there are templates with addresses, policies fwd, and for IPv6 the bypass of neighbour discovery.
func TestTunnelMode(t *testing.T) {
	f := parse(t, `tunnels:
  - name: sites
    hosts:
      - {address: "2001:db8::1", dev: p4p1, subnets: [10.1.0.0/16, "2001:db8:1::/48"]}
      - {address: "2001:db8::2", dev: enp4s0, subnets: [10.2.0.0/16, "2001:db8:2::/48"], ssh: root@db2}
`)
	p := mustMake(t, f, []tunnel.Host{here(kernelHost("db1", "p4p1", "2001:db8::1")), kernelHost("db2", "enp4s0", "2001:db8::2")}, tunnel.Options{})
	e := &p.Pairs[0].Ends[1]
	count := map[ipsec.Direction]int{}
	for _, policy := range e.Policies {
		if policy.Action == ipsec.Bypass {
			if s := policy.Selector; policy.Priority >= 1000 || s.Protocol != 58 || s.SrcPort.Value < 133 || s.SrcPort.Value > 137 || !s.DstPort.Any() || !s.Is6() {
				t.Errorf("%+v", policy)
			}
			count[policy.Direction]++
			continue
		}
		a, b := e.Local, e.Remote
		if policy.Direction != ipsec.Outbound {
			a, b = b, a
		}
		if tmpl := policy.Processing[0]; tmpl.Src != a || tmpl.Dst != b || tmpl.Mode != ipsec.Tunnel {
			t.Errorf("%+v", policy)
		}
	}
	if count[ipsec.Inbound] != 5 || count[ipsec.Outbound] != 5 || count[ipsec.Forward] != 5 || len(e.Policies) != 15+6 {
		t.Errorf("%v of %d", count, len(e.Policies))
	}
	if sel := e.Outbound[0].Selector; sel != (ipsec.Selector{}) {
		t.Errorf("an SA for both families has selector %v", sel)
	}
}

func TestChooses(t *testing.T) {
	unknown := tunnel.Answer{Can: tunnel.Unknown}
	nic := func(packet tunnel.Answer, lacks ...tunnel.Lack) func([]tunnel.Host) {
		return func(h []tunnel.Host) { h[0] = offloading(h[0], packet, lacks...) }
	}
	for name, c := range map[string]struct {
		settings string // beside those of two
		change   func(h []tunnel.Host)
		want     map[string]string // value of a choice; "" none
		check    func(e *tunnel.End) bool
	}{
		"nothing special": {"", func([]tunnel.Host) {}, map[string]string{"engine": "kernel", "offload": "no on db1", "esn": "on", "window": "4096", "sas": "1", "rotate": ""}, nil},
		"a NIC at one end": {"", nic(unknown), map[string]string{"offload": "crypto on db1"}, func(e *tunnel.End) bool {
			return e.Outbound[0].Offload == ipsec.Offload{Mode: ipsec.CryptoOffload, Interface: 4, Direction: ipsec.Outbound} && e.Inbound[0].Offload.Direction == ipsec.Inbound
		}},
		"packet offload known": {"", nic(yes), map[string]string{"offload": "packet on db1", "window": "256 on db1"}, func(e *tunnel.End) bool {
			return e.Policies[0].Offload.Mode == ipsec.PacketOffload && e.Policies[1].Offload == e.Outbound[0].Offload && e.Inbound[0].Window == 256
		}},
		"packet offload asked for": {"    offload: packet\n", func(h []tunnel.Host) { h[0], h[1] = offloading(h[0], unknown), offloading(h[1], unknown) }, map[string]string{"offload": "packet"}, func(e *tunnel.End) bool {
			return e.Outbound[0].Offload.Mode == ipsec.PacketOffload
		}},
		"crypto that is not there": {"    offload: crypto\n", func([]tunnel.Host) {}, map[string]string{"offload": "no on db1"}, nil},
		"no":                       {"    offload: no\n", nic(yes), map[string]string{"offload": ""}, func(e *tunnel.End) bool { return e.Outbound[0].Offload.Mode == ipsec.NoOffload }},
		"in UDP no NIC offloads":   {"    encap: udp\n", nic(unknown), map[string]string{"offload": "no on db1"}, func(e *tunnel.End) bool { return *e.Outbound[0].Encap == ipsec.Encap{SrcPort: 4500, DstPort: 4500} }},
		"a NIC without ESN":        {"    key-size: 128\n", nic(no("none"), tunnel.LacksESN), map[string]string{"offload": "crypto on db1", "esn": "off", "rotate": "17m36s"}, nil},
		"ESN over a NIC without":   {"    esn: on\n", nic(no("none"), tunnel.LacksESN), map[string]string{"offload": "no on db1", "esn": ""}, nil},
		"a NIC that only sends":    {"", nic(no("none"), tunnel.LacksReceiving), map[string]string{"offload": "crypto on db1"}, func(e *tunnel.End) bool { return e.Inbound[0].Offload.Mode == ipsec.NoOffload }},
		"a kernel without ESN":     {"", func(h []tunnel.Host) { h[1].Facts.Engines[0].ESN = no("too old") }, map[string]string{"esn": "off"}, nil},
		"an SA per CPU": {"    sas: per-cpu\n", func([]tunnel.Host) {}, map[string]string{"sas": ""}, func(e *tunnel.End) bool {
			return len(e.Outbound) == 9 && e.Outbound[0].CPU == nil && *e.Outbound[8].CPU == 7 && len(e.Inbound) == 9
		}},
		"three SAs": {"    sas: 3\n", func([]tunnel.Host) {}, nil, func(e *tunnel.End) bool { return len(e.Outbound) == 3 && *e.Outbound[2].CPU == 1 }},
		"a device": {"", func(h []tunnel.Host) { h[0] = here(userspaceHost("db1", "p4p1", 4, "192.168.1.64")) }, map[string]string{"engine": "userspace on db1", "sas": "4 on db1", "offload": "no on db1"}, func(e *tunnel.End) bool {
			return e.Engine == "unix:/run/espalier/1/p4p1.sock" && e.Queues == 4 && len(e.Outbound) == 4 && *e.Outbound[3].CPU == 3 && len(e.Inbound) == 1
		}},
		"one SA of a device": {"    sas: 1\n", func(h []tunnel.Host) { h[0] = here(userspaceHost("db1", "p4p1", 1, "192.168.1.64")) }, nil, func(e *tunnel.End) bool {
			return len(e.Outbound) == 1 && e.Outbound[0].CPU == nil
		}},
		"as many SAs as queues": {"    sas: 2\n", func(h []tunnel.Host) { h[0] = here(userspaceHost("db1", "p4p1", 2, "192.168.1.64")) }, nil, func(e *tunnel.End) bool {
			return len(e.Outbound) == 2 && *e.Outbound[0].CPU == 0 && *e.Outbound[1].CPU == 1
		}},
		"SAs of who knows how many queues": {"    sas: 2\n", func(h []tunnel.Host) { h[0] = here(userspaceHost("db1", "p4p1", 0, "192.168.1.64")) }, nil, func(e *tunnel.End) bool {
			return len(e.Outbound) == 2 && e.Outbound[0].CPU == nil && *e.Outbound[1].CPU == 0 && e.Queues == 2520
		}},
		"a device although the kernel can": {"    engine: userspace\n", func(h []tunnel.Host) {
			for i, dev := range []string{"p4p1", "enp4s0"} {
				h[i].Facts.Engines = append(h[i].Facts.Engines, userspaceHost("x", dev, 1).Facts.Engines[1])
			}
		}, map[string]string{"engine": ""}, func(e *tunnel.End) bool { return strings.HasPrefix(e.Engine, "unix:") }},
		"the kernel beside a device": {"", func(h []tunnel.Host) {
			h[0].Facts.Engines = append(h[0].Facts.Engines, userspaceHost("x", "p4p1", 1).Facts.Engines[1])
		}, map[string]string{"engine": "kernel"}, nil},
		"marks": {"    mark: 0x10/0xff\n    output-mark: 0x20\n    if_id: 7\n", func([]tunnel.Host) {}, nil, func(e *tunnel.End) bool {
			out, in, mark := e.Outbound[0], e.Inbound[0], config.Mark{Value: 0x10, Mask: 0xff}
			return out.Mark == mark && out.OutputMark.Value == 0x20 && in.Mark == config.Mark{} && in.OutputMark == mark && in.IfID == 7 &&
				e.Policies[0].Mark == mark && e.Policies[1].IfID == 7
		}},
		"ports": {"    selectors: [tcp/80, tcp/443]\n    sas: ports\n", func([]tunnel.Host) {}, nil, func(e *tunnel.End) bool {
			return len(e.Outbound) == 2 && e.Outbound[0].RequestID != e.Outbound[1].RequestID
		}},
	} {
		t.Run(name, func(t *testing.T) {
			hosts := twoHosts()
			c.change(hosts)
			p := mustMake(t, parse(t, two+c.settings), hosts, tunnel.Options{})
			for setting, want := range c.want {
				if got, why := choice(&p.Pairs[0], setting); got != want || want != "" && why == "" {
					t.Errorf("%s %q because %q, want %q", setting, got, why, want)
				}
			}
			if c.check != nil && !c.check(&p.Pairs[0].Ends[0]) {
				t.Errorf("%+v", p.Pairs[0].Ends[0])
			}
		})
	}
}

// What probes prove, and where they go, is told before.
func TestProbeNotes(t *testing.T) {
	up := func(h []tunnel.Host) {
		h[0].Facts.Devices = append(h[0].Facts.Devices, tunnel.Device{Name: "ipsec7", IfID: 7, Up: true})
	}
	for _, c := range []struct {
		more   string
		change func([]tunnel.Host)
		want   string // "": nothing of it
	}{
		{"", nil, ""},
		{"    selectors: [{protocol: udp, ports: [514], at: 192.168.1.65}, {protocol: tcp, ports: [22], at: 192.168.1.65}]\n", nil, "probes reach UDP 514 and TCP 22 of 192.168.1.65:"},
		{"    selectors: [{protocol: 132}]\n", nil, "not proven by probes: sctp"},
		{"    if_id: 7\n", nil, "not proven by probes: what db1 sends (no xfrm interface with if_id 7 is up there), what root@db2 sends ("},
		{"    if_id: 7\n", up, "not proven by probes: what root@db2 sends ("},
	} {
		hosts := twoHosts()
		if c.change != nil {
			c.change(hosts)
		}
		notes := strings.Join(mustMake(t, parse(t, two+c.more), hosts, tunnel.Options{}).Pairs[0].Notes, "\n")
		if c.want == "" && strings.Contains(notes, "probe") || !strings.Contains(notes, c.want) {
			t.Errorf("%s%s", c.more, notes)
		}
	}
}

func TestRefuses(t *testing.T) {
	policy := func(h []tunnel.Host) *tunnel.LivePolicy {
		p := mustMake(t, parse(t, two), twoHosts(), tunnel.Options{})
		h[0].Facts.Engines[0].Policies = []tunnel.LivePolicy{{Policy: p.Pairs[0].Ends[0].Policies[1]}}
		return &h[0].Facts.Engines[0].Policies[0]
	}
	for name, c := range map[string]struct {
		settings string
		change   func(h []tunnel.Host)
		want     []string // each is told, in this order
	}{
		"an address that this host lacks": {"", func(h []tunnel.Host) { h[0] = here(kernelHost("db1", "p4p1", "10.0.0.1", "192.168.1.70")) }, []string{
			"tunnels.yaml:3:23: this host does not have 192.168.1.64, and there is no ssh to reach another one by: add ssh: root@HOST, or write 192.168.1.70, which this host has",
		}},
		"an address that the other lacks": {"", func(h []tunnel.Host) { h[1] = kernelHost("db2", "enp4s0", "192.168.1.66") }, []string{
			"tunnels.yaml:3:59: root@db2 (db2) does not have 192.168.1.65: it has 192.168.1.66: write 192.168.1.66, which it has, or another ssh",
		}},
		"a device that is not there": {"", func(h []tunnel.Host) { h[0] = here(kernelHost("db1", "eth0", "192.168.1.64")) }, []string{
			"tunnels.yaml:3:42: db1 has no device p4p1: eth0 has 192.168.1.64: write dev: eth0",
		}},
		"a device without the address": {"", func(h []tunnel.Host) {
			h[1].Facts.Devices = append(h[1].Facts.Devices, tunnel.Device{Name: "eth7", Addresses: h[1].Facts.Devices[0].Addresses})
			h[1].Facts.Devices[0].Addresses = nil
		}, []string{"tunnels.yaml:3:78: enp4s0 of root@db2 does not have 192.168.1.65: eth7 has it: write dev: eth7"}},
		"both addresses on one host": {"", func(h []tunnel.Host) { h[1].Facts.BootID = h[0].Facts.BootID }, []string{
			"tunnels.yaml:3:59: 192.168.1.64 and 192.168.1.65 are addresses of one host, db1",
		}},
		"nobody does ESP": {"", func(h []tunnel.Host) {
			h[0].Facts.Engines[0].ESP = no("kernel built without INET_ESP")
		}, []string{"tunnels.yaml:2:5: nobody on db1 does ESP for this: the kernel does no ESP: kernel built without INET_ESP; no userspace device runs for p4p1: start one there: espalier dataplane --dev p4p1"}},
		"a device with marks": {"    mark: 1\n", func(h []tunnel.Host) { h[0] = here(userspaceHost("db1", "p4p1", 1, "192.168.1.64")) }, []string{
			"the kernel does no ESP: kernel built without INET_ESP; the userspace device cannot have mark: leave mark out, or have the kernel do ESP there",
		}},
		"no device": {"    engine: userspace\n", func([]tunnel.Host) {}, []string{
			"tunnels.yaml:4:13: engine is userspace, and on db1 no userspace device runs for p4p1: start one there: espalier dataplane --dev p4p1",
			"on root@db2 no userspace device runs for enp4s0",
		}},
		"several at once": {"    esn: on\n    window: 4096\n    sas: 4\n    encap: udp\n", func(h []tunnel.Host) {
			e := &h[1].Facts.Engines[0]
			e.ESN, e.MaxWindow, e.PCPU, e.UDP = no("too old"), 64, no("it came with Linux 6.13"), no("too old")
		}, []string{
			"tunnels.yaml:4:10: the kernel of root@db2 has no ESN: too old: write esn: auto",
			"tunnels.yaml:5:13: the kernel of root@db2 has windows of up to 64 packets, not 4096: write window: auto",
			"tunnels.yaml:6:10: the kernel of root@db2 cannot tie an SA to a CPU: it came with Linux 6.13: write sas: ports",
			"tunnels.yaml:7:12: the kernel of root@db2 does no ESP in UDP: too old: write encap: none",
		}},
		"per-cpu where that cannot be": {"    sas: per-cpu\n", func(h []tunnel.Host) { h[0].Facts.Engines[0].PCPU = no("") }, []string{"tunnels.yaml:4:10: the kernel of db1 cannot tie an SA to a CPU"}},
		"more SAs than CPUs":           {"    sas: 10\n", func(h []tunnel.Host) {}, []string{"the kernel of db1 has 8 CPUs, so that 10 SAs are of no use: write up to 9, or auto", "root@db2"}},
		"offload required": {"    offload: require\n", func(h []tunnel.Host) { h[0] = offloading(h[0], yes) }, []string{
			"tunnels.yaml:4:14: offload is required, and enp4s0 of root@db2 has none for this: enp4s0 (e1000e) has no esp-hw-offload: write offload: auto",
		}},
		"packet offload": {"    offload: packet\n", func(h []tunnel.Host) {}, []string{
			"p4p1 of db1 has no packet offload for this: p4p1 (e1000e) has no esp-hw-offload: write offload: auto",
			"enp4s0 of root@db2 has no packet offload",
		}},
		"a NIC that only sends": {"    offload: require\n", func(h []tunnel.Host) {
			h[0], h[1] = offloading(h[0], yes), offloading(h[1], no(""), tunnel.LacksReceiving)
		}, []string{"offload is required, and the NIC of enp4s0 (mlx5_core) offloads without receiving"}},
		"without ESN and without a timer": {"    esn: off\n", func(h []tunnel.Host) { h[0].Facts.Timer = no("this host has no systemd") }, []string{
			"tunnels.yaml:4:10: without ESN sequence numbers end, and nobody would rotate the SAs: no timer can be installed here: this host has no systemd: write esn: on",
		}},
		"too fast without ESN": {"    esn: off\n", func(h []tunnel.Host) { h[1].Facts.Devices[0].Speed = 800_000 }, []string{
			"tunnels.yaml:4:10: SAs would have to be rotated every 33s: 50% of the sequence numbers last no longer at the line rate of enp4s0, 800 Gb/s, in packets of 1500 bytes: write esn: on",
		}},
		"somebody's policy": {"", func(h []tunnel.Host) { policy(h) }, []string{
			"tunnels.yaml:2:11: the kernel of db1 has a policy out 192.168.1.64→192.168.1.65 that is not espalier's: delete it, or apply with --adopt to take it over",
		}},
		"the policy of another file": {"", func(h []tunnel.Host) {
			p := policy(h)
			h[0].Facts.Owned = []tunnel.Owned{{Tunnel: "other", Origin: "db9:/x.yaml", Engine: "kernel", Policies: []tunnel.Policy{p.Policy}}}
		}, []string{"has a policy out 192.168.1.64→192.168.1.65 for tunnel other of db9:/x.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			hosts := twoHosts()
			c.change(hosts)
			_, err := tunnel.Make(parse(t, two+c.settings), hosts, tunnel.Options{Origin: origin})
			problems, ok := err.(config.Problems)
			if !ok || len(problems) != len(c.want) {
				t.Fatalf("%v, want %d problems", err, len(c.want))
			}
			for i, want := range c.want {
				if got := problems[i].Error(); !strings.Contains(got, want) {
					t.Errorf("%s\nwant %s", got, want)
				}
			}
		})
	}
}

// Errors of several tunnels are told at once, each of a host only once.
func TestRefusesAllAtOnce(t *testing.T) {
	f := parse(t, two+`  - name: web
    hosts: [192.168.1.64, {address: 192.168.1.66, dev: eth0, ssh: root@db3}]
    offload: require
`)
	hosts := append(twoHosts(), kernelHost("db3", "eth0", "192.168.1.66"))
	hosts[0] = here(kernelHost("db1", "p4p2", "192.168.1.64"))
	hosts[1] = kernelHost("db2", "enp4s0", "192.168.1.99")
	_, err := tunnel.Make(f, hosts, tunnel.Options{})
	if problems, _ := err.(config.Problems); len(problems) != 4 || problems[0].Column > problems[1].Column {
		t.Errorf("%v", err)
	}
}

// A pair of another file is refused, left as it is by a timer, and taken over where that is asked for: then
// nothing changes but whose it is.
func TestOtherFile(t *testing.T) {
	f := parse(t, two)
	hosts := applied(t, mustMake(t, f, twoHosts(), tunnel.Options{}), 1)
	const moved = "db1:/moved.yaml"
	if _, err := tunnel.Make(f, hosts, tunnel.Options{Origin: moved}); err == nil || !strings.Contains(err.Error(), "--adopt") {
		t.Error(err)
	}
	p := mustMake(t, f, hosts, tunnel.Options{Kind: tunnel.Rotate, Yield: true, Origin: moved})
	if p.Changes() || p.Pairs[0].Yielded != origin {
		t.Errorf("%+v", p.Pairs[0])
	}
	p = mustMake(t, f, hosts, tunnel.Options{Adopt: true, Origin: moved})
	pair := &p.Pairs[0]
	if pair.Action != tunnel.Adjust || len(pair.Why) != 2 || !strings.Contains(pair.Why[0], origin) || len(pair.Ends[0].Outbound) > 0 || len(p.Diff(0)) > 0 {
		t.Errorf("%+v, %v", pair, p.Diff(0))
	}
}

func TestAdopt(t *testing.T) {
	hosts := twoHosts()
	p := mustMake(t, parse(t, two), hosts, tunnel.Options{})
	for i := range hosts {
		for _, policy := range p.Pairs[0].Ends[i].Policies {
			policy.Processing = []ipsec.Processing{{RequestID: 1}}
			hosts[i].Facts.Engines[0].Policies = append(hosts[i].Facts.Engines[0].Policies, tunnel.LivePolicy{Policy: policy})
		}
	}
	p = mustMake(t, parse(t, two), hosts, tunnel.Options{Adopt: true})
	if !p.Pairs[0].Adopt || p.Pairs[0].Action != tunnel.Create {
		t.Errorf("%+v", p.Pairs[0])
	}
	for _, d := range p.Diff(0) {
		if d.Policy != nil && d.Sign != tunnel.Changed {
			t.Errorf("%s %v", d.Sign, d.Policy)
		}
	}
}
