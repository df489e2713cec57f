package tunnel_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/config"
	"espalier/ipsec"
	"espalier/tunnel"
)

// What was applied needs nothing more; what has become of it since decides what is to be done.
func TestAgain(t *testing.T) {
	kernel := func(h []tunnel.Host, i int) *tunnel.Engine { return &h[i].Facts.Engines[0] }
	for name, c := range map[string]struct {
		text   string // instead of two
		change func(h []tunnel.Host)
		want   []tunnel.Action
		why    string // part of the first reason
	}{
		"nothing":                         {"", func([]tunnel.Host) {}, []tunnel.Action{tunnel.Keep}, ""},
		"an SA gone":                      {"", func(h []tunnel.Host) { kernel(h, 1).SAs = kernel(h, 1).SAs[:1] }, []tunnel.Action{tunnel.Replace}, "is gone from root@db2"},
		"all SAs gone, as after a boot":   {"", func(h []tunnel.Host) { kernel(h, 0).SAs, kernel(h, 1).SAs = nil, nil }, []tunnel.Action{tunnel.Create}, "is gone from db1"},
		"one host has nothing":            {"", func(h []tunnel.Host) { h[1] = kernelHost("db2", "enp4s0", "192.168.1.65") }, []tunnel.Action{tunnel.Replace}, "not set up on root@db2"},
		"a change whose end is not known": {"", func(h []tunnel.Host) { h[0].Facts.Owned[0].Undecided = true }, []tunnel.Action{tunnel.Replace}, "db1 does not know what became"},
		"a policy deleted":                {"", func(h []tunnel.Host) { kernel(h, 0).Policies = kernel(h, 0).Policies[:1] }, []tunnel.Action{tunnel.Adjust}, "1 policies missing on db1"},
		"a policy at level use":           {"", func(h []tunnel.Host) { kernel(h, 0).Policies[0].Processing[0].Optional = true }, []tunnel.Action{tunnel.Adjust}, "1 policies different on db1"},
		"the key of another size":         {two + "    key-size: 128\n", func([]tunnel.Host) {}, []tunnel.Action{tunnel.Replace}, "a key of bits 256, not 128"},
		"another window":                  {two + "    window: 64\n", func([]tunnel.Host) {}, []tunnel.Action{tunnel.Replace}, "window 4096, not 64 on root@db2"},
		"other traffic":                   {two + "    selectors: [tcp]\n", func([]tunnel.Host) {}, []tunnel.Action{tunnel.Replace}, "policies missing on"},
		"a bypass more":                   {two + "    bypass: [tcp/22]\n", func([]tunnel.Host) {}, []tunnel.Action{tunnel.Replace}, "policies missing on"},
		"the guard flushed":               {"", func(h []tunnel.Host) { h[1].Facts.Lost = []string{"the guard is not loaded"} }, []tunnel.Action{tunnel.Adjust}, "the guard is not loaded on root@db2"},
		"rotated more often":              {two + "    rotate: 1h\n", func([]tunnel.Host) {}, []tunnel.Action{tunnel.Adjust}, "rotated at other times"},
		"renamed":                         {strings.Replace(two, "name: db", "name: data", 1), func([]tunnel.Host) {}, []tunnel.Action{tunnel.Adjust}, "tunnel db is called data now"},
		"renamed, with other traffic":     {strings.Replace(two, "name: db", "name: data", 1) + "    selectors: [tcp]\n", func([]tunnel.Host) {}, []tunnel.Action{tunnel.Create, tunnel.Remove}, ""},
		"renamed on one host":             {"", func(h []tunnel.Host) { h[1].Facts.Owned[0].Tunnel = "data" }, []tunnel.Action{tunnel.Adjust}, "tunnel data is called db now"},
		"SAs of somebody else's beside": {"", func(h []tunnel.Host) {
			other := kernel(h, 0).SAs[0]
			other.SPI, other.RequestID = 7, 9
			kernel(h, 0).SAs = append(kernel(h, 0).SAs, other)
		}, []tunnel.Action{tunnel.Keep}, ""},
		"a NIC that did not take it, silently": {"", func(h []tunnel.Host) { h[0] = offloading(h[0], no("")) }, []tunnel.Action{tunnel.Keep}, ""},
		"a NIC that has to take it": {two + "    offload: require\n", func(h []tunnel.Host) { h[0], h[1] = offloading(h[0], no("")), offloading(h[1], no("")) },
			[]tunnel.Action{tunnel.Replace}, "offload no, not offload crypto to device 4 on db1"},
	} {
		t.Run(name, func(t *testing.T) {
			hosts := applied(t, mustMake(t, parse(t, two), twoHosts(), tunnel.Options{}), 1)
			c.change(hosts)
			text := c.text
			if text == "" {
				text = two
			}
			p := mustMake(t, parse(t, text), hosts, tunnel.Options{})
			if got := actionsOf(p); !slices.Equal(got, c.want) {
				t.Fatalf("%v, want %v: %q", got, c.want, p.Pairs[0].Why)
			}
			if c.why != "" && (len(p.Pairs[0].Why) == 0 || !strings.Contains(p.Pairs[0].Why[0], c.why)) && p.Pairs[0].Action != tunnel.Create {
				t.Errorf("%q, want %q", p.Pairs[0].Why, c.why)
			}
			if c.want[0] != tunnel.Keep && !p.Changes() || c.want[0] == tunnel.Keep && (p.Changes() || len(p.Diff(0)) > 0) {
				t.Errorf("changes: %v, %v", p.Changes(), p.Diff(0))
			}
			if again := mustMake(t, parse(t, text), applied(t, p, 2), tunnel.Options{}); again.Changes() {
				t.Errorf("and then again: %v %q", actionsOf(again), again.Pairs[0].Why)
			}
		})
	}
}

func TestRemoved(t *testing.T) {
	both := two + "  - name: web\n    hosts: [192.168.1.64, {address: 192.168.1.66, dev: eth0, ssh: root@db3}]\n"
	hosts := append(twoHosts(), kernelHost("db3", "eth0", "192.168.1.66"))
	hosts = applied(t, mustMake(t, parse(t, both), hosts, tunnel.Options{}), 1)
	hosts[0].Facts.Owned = append(hosts[0].Facts.Owned, tunnel.Owned{Tunnel: "other", Origin: "db9:/x.yaml", Engine: "kernel"})

	p := mustMake(t, parse(t, two), hosts[:2], tunnel.Options{})
	if got := actionsOf(p); !slices.Equal(got, []tunnel.Action{tunnel.Keep, tunnel.Remove}) {
		t.Fatal(got)
	}
	web := &p.Pairs[1]
	if web.Ends[1].Local.IsValid() || len(web.Ends[0].Gone) != 2 || len(web.Ends[0].Old) != 2 || !web.OneSided || len(web.Notes) != 1 {
		t.Errorf("%+v", web)
	}

	p = mustMake(t, parse(t, both), hosts, tunnel.Options{Kind: tunnel.Down})
	if got := actionsOf(p); !slices.Equal(got, []tunnel.Action{tunnel.Remove, tunnel.Remove}) {
		t.Fatal(got)
	}
	for i, h := range applied(t, p, 2) {
		if e := h.Facts.Engines[0]; len(e.SAs) != 0 || len(e.Policies) != 0 {
			t.Errorf("host %d is left with %d SAs and %d policies", i, len(e.SAs), len(e.Policies))
		}
	}
	if p = mustMake(t, parse(t, two), twoHosts(), tunnel.Options{Kind: tunnel.Down}); len(p.Pairs) != 0 {
		t.Errorf("down of what is not there: %v", actionsOf(p))
	}
}

// A host that has another address by now is rid of what it has of the former one; one that never had it is told.
func TestRenumbered(t *testing.T) {
	f := parse(t, two)
	hosts := applied(t, mustMake(t, f, twoHosts(), tunnel.Options{}), 1)
	other := kernelHost("db2", "eth0", "192.168.1.99")
	for i := range hosts {
		hosts[i].Facts.Devices = other.Facts.Devices
	}
	p := mustMake(t, f, hosts, tunnel.Options{Kind: tunnel.Down})
	if got := actionsOf(p); !slices.Equal(got, []tunnel.Action{tunnel.Remove}) || !p.Pairs[0].Ends[1].Local.IsValid() {
		t.Error(got)
	}
	hosts[1].Facts.Owned = nil
	for _, kind := range []tunnel.Kind{tunnel.Down, tunnel.Apply} {
		if _, err := tunnel.Make(f, hosts, tunnel.Options{Kind: kind, Origin: origin}); err == nil || !strings.Contains(err.Error(), "does not have") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// Hosts that take no part: what the others have for them stays, and goes when all is taken down.
func TestAbsent(t *testing.T) {
	both := two + "  - name: web\n    hosts: [192.168.1.64, {address: 192.168.1.66, dev: eth0, ssh: root@db3}]\n"
	f := parse(t, both)
	hosts := append(twoHosts(), kernelHost("db3", "eth0", "192.168.1.66"))
	hosts = applied(t, mustMake(t, f, hosts, tunnel.Options{}), 1)[:2]
	absent := func(h *config.Host) bool { return h.SSH != nil && h.SSH.To == "root@db3" }
	for kind, want := range map[tunnel.Kind][]tunnel.Action{
		tunnel.Apply: {tunnel.Keep}, tunnel.Rotate: {tunnel.Replace}, tunnel.Down: {tunnel.Remove, tunnel.Remove},
	} {
		p := mustMake(t, f, hosts, tunnel.Options{Kind: kind, Absent: absent})
		if got := actionsOf(p); !slices.Equal(got, want) {
			t.Errorf("%s: %v", kind, got)
		}
		if _, err := tunnel.Make(f, hosts, tunnel.Options{Kind: kind, Origin: origin}); err == nil || !strings.Contains(err.Error(), "root@db3 was not asked") {
			t.Errorf("%s of all: %v", kind, err)
		}
		if kind != tunnel.Down {
			continue
		}
		for i, h := range applied(t, p, 2) {
			if e := h.Facts.Engines[0]; len(e.SAs) != 0 || len(e.Policies) != 0 {
				t.Errorf("host %d is left with %d SAs and %d policies", i, len(e.SAs), len(e.Policies))
			}
		}
	}
}

func TestRotate(t *testing.T) {
	f := parse(t, two)
	hosts := applied(t, mustMake(t, f, twoHosts(), tunnel.Options{}), 1)
	p := mustMake(t, f, hosts, tunnel.Options{Kind: tunnel.Rotate})
	e := &p.Pairs[0].Ends[0]
	if p.Pairs[0].Action != tunnel.Replace || len(e.Outbound) != 1 || len(e.Old) != 2 || len(e.Gone) != 0 {
		t.Fatalf("%+v", p.Pairs[0])
	}
	for _, d := range p.Diff(0) {
		if d.Policy != nil {
			t.Errorf("%s %v", d.Sign, d.Policy)
		}
	}
	if p = mustMake(t, f, hosts, tunnel.Options{Kind: tunnel.Rotate, Only: func(*tunnel.Pair) bool { return false }}); p.Changes() {
		t.Errorf("what is not due: %v", actionsOf(p))
	}
	hosts[0].Facts.Lost = []string{"the guard is not loaded"}
	if p = mustMake(t, f, hosts, tunnel.Options{Kind: tunnel.Rotate, Only: func(*tunnel.Pair) bool { return false }}); !slices.Equal(actionsOf(p), []tunnel.Action{tunnel.Adjust}) ||
		!slices.Equal(p.Pairs[0].Why, []string{"the guard is not loaded on db1"}) || len(p.Pairs[0].Ends[0].Outbound) > 0 {
		t.Errorf("not due, and without guard: %+v", p.Pairs[0])
	}
	hosts[0].Facts.Lost = nil
	for text, want := range map[string]string{
		two + "    bypass: [tcp/22]\n": "for other traffic than the file has now: espalier apply changes it",
		"":                             "tunnel db is not set up between",
	} {
		h := hosts
		if text == "" {
			text, h = two, twoHosts()
		}
		if _, err := tunnel.Make(parse(t, text), h, tunnel.Options{Kind: tunnel.Rotate, Origin: origin}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A tunnel stays in its engine; to change it is to be said.
func TestEngineStays(t *testing.T) {
	device := func(h tunnel.Host) tunnel.Host {
		h.Facts.Engines[0].ESP, h.Facts.Engines[0].ESP6 = yes, yes
		return h
	}
	f := parse(t, two)
	hosts := []tunnel.Host{here(userspaceHost("db1", "p4p1", 1, "192.168.1.64")), kernelHost("db2", "enp4s0", "192.168.1.65")}
	hosts = applied(t, mustMake(t, f, hosts, tunnel.Options{}), 1)
	hosts[0] = device(hosts[0])
	if p := mustMake(t, f, hosts, tunnel.Options{}); p.Changes() {
		t.Errorf("%v %q", actionsOf(p), p.Pairs[0].Why)
	}
	if _, err := tunnel.Make(parse(t, two+"    engine: kernel\n"), hosts, tunnel.Options{Origin: origin}); err == nil || !strings.Contains(err.Error(), "is set up in unix:") {
		t.Error(err)
	}
	hosts[0].Facts.Engines = hosts[0].Facts.Engines[:1] // the device has ended
	p := mustMake(t, f, hosts, tunnel.Options{Kind: tunnel.Down})
	if got := actionsOf(p); !slices.Equal(got, []tunnel.Action{tunnel.Remove}) || len(p.Pairs[0].Notes) != 1 || !strings.Contains(p.Pairs[0].Notes[0], "does not run any more") {
		t.Errorf("down without the device: %v %q", got, p.Pairs[0].Notes)
	}
}

// What lingers of an undone change counts for nothing but its SPI.
func TestLingering(t *testing.T) {
	f := parse(t, two)
	hosts := applied(t, mustMake(t, f, twoHosts(), tunnel.Options{}), 1)
	left := hosts[0].Facts.Engines[0].SAs[0]
	left.SPI, left.Lingering = 0x5555, true
	hosts[0].Facts.Engines[0].SAs = append(hosts[0].Facts.Engines[0].SAs, left)
	p := mustMake(t, f, hosts, tunnel.Options{Kind: tunnel.Rotate})
	if len(p.Pairs[0].Ends[0].Old) != 2 || !p.Taken()[left.SAID.SAID] {
		t.Errorf("%+v", p.Pairs[0].Ends[0].Old)
	}
}

// Long frames may pass, and short ones go by: sequence numbers last as long as with those, bytes do not
// go faster than the link.
func TestRotationOfLongFrames(t *testing.T) {
	for settings, want := range map[string]time.Duration{
		"    esn: off\n":                17*time.Minute + 36*time.Second,
		"    lifetime: {bytes: 4TiB}\n": 18*time.Minute + 50*time.Second,
	} {
		hosts := twoHosts()
		hosts[0].Facts.Devices[0].MTU, hosts[1].Facts.Devices[0].MTU = 9000, 9000
		p := mustMake(t, parse(t, two+settings), hosts, tunnel.Options{})
		if p.Pairs[0].Rotate.Every != want || p.Pairs[0].Speed != 25_000 || p.Pairs[0].ESN == strings.Contains(settings, "esn: off") {
			t.Errorf("%q: %s at %d Mb/s, want %s", settings, p.Pairs[0].Rotate.Every, p.Pairs[0].Speed, want)
		}
	}
}

func TestRotation(t *testing.T) {
	for settings, want := range map[string]time.Duration{
		"":                                 8 * time.Hour,
		"    esn: off\n":                   17*time.Minute + 36*time.Second, // 2³¹ packets of 1538 bytes at 25 Gb/s
		"    lifetime: {time: 1h}\n":       48 * time.Minute,
		"    lifetime: {bytes: 4TiB}\n":    19*time.Minute + 14*time.Second,
		"    rotate: {every: 10m}\n":       10 * time.Minute,
		"    rotate: never\n    esn: on\n": 0,
	} {
		if p := mustMake(t, parse(t, two+settings), twoHosts(), tunnel.Options{}); p.Pairs[0].Rotate.Every != want {
			t.Errorf("%q: %s, want %s", settings, p.Pairs[0].Rotate.Every, want)
		}
	}
}

func TestInnerMTU(t *testing.T) {
	for _, c := range []struct {
		mtu               int
		tunnel, ipv6, udp bool
		want              int
	}{
		{1500, false, false, false, 1466}, {1500, true, false, false, 1446}, {1500, false, false, true, 1458},
		{1500, true, true, false, 1426}, {9000, false, true, false, 8966}, {60, true, true, false, 0},
	} {
		if got := tunnel.InnerMTU(c.mtu, c.tunnel, c.ipv6, c.udp); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// The plan tells what passes whole: by the userspace device no more than its TUN takes.
func TestWholePackets(t *testing.T) {
	device := here(userspaceHost("db1", "p4p1", 1, "192.168.1.64"))
	for name, c := range map[string]struct {
		host tunnel.Host
		want string
	}{
		"kernel": {here(kernelHost("db1", "p4p1", "192.168.1.64")), "packets of up to 1466 bytes pass whole (MTU 1500 of p4p1 on db1)"},
		"device": {device, "packets of up to 1415 bytes pass whole (MTU 1500 of p4p1 on db1)"},
	} {
		hosts := []tunnel.Host{c.host, kernelHost("db2", "enp4s0", "192.168.1.65")}
		if got := mustMake(t, parse(t, two), hosts, tunnel.Options{}).Pairs[0].Notes; len(got) == 0 || got[0] != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// SPIs suit the queues of the device that receives, in each generation.
func TestFill(t *testing.T) {
	f := parse(t, two)
	hosts := []tunnel.Host{here(userspaceHost("db1", "p4p1", 4, "192.168.1.64")), userspaceHost("db2", "enp4s0", 3, "192.168.1.65")}
	for seed := range uint64(3) {
		p := mustMake(t, f, hosts, tunnel.Options{})
		hosts = applied(t, p, seed)
		for i := range p.Pairs[0].Ends {
			sender, queues := &p.Pairs[0].Ends[i], ipsec.SPI(p.Pairs[0].Ends[1-i].Queues)
			for n, sa := range sender.Outbound {
				if sa.SPI%queues != ipsec.SPI(n)%queues || sa.SPI < 0x1000 || sa.Key.Len() != 36 {
					t.Errorf("SA %d has SPI %s, key of %d bytes", n, sa.SPI, sa.Key.Len())
				}
			}
		}
		p.Wipe()
		for _, sa := range p.Pairs[0].Ends[1].Inbound {
			if slices.ContainsFunc(sa.Key.ExposeSecretBytes(), func(b byte) bool { return b != 0 }) {
				t.Error("a key was not wiped")
			}
		}
		for i := range hosts { // as after a boot
			hosts[i].Facts.Engines[1].SAs = nil
		}
	}
}

// Neighbour discovery between two hosts goes in clear by one tunnel of theirs for all; when that one
// goes, by another.
func TestSharedBypass(t *testing.T) {
	one := `  - name: all
    hosts: [{address: "2001:db8::1", dev: p4p1, ssh: root@db1}, {address: "2001:db8::2", dev: enp4s0, ssh: root@db2}]
`
	two := `  - name: pings
    hosts: [{address: "2001:db8::1", dev: p4p1, ssh: root@db1}, {address: "2001:db8::2", dev: enp4s0, ssh: root@db2}]
    selectors: [icmpv6]
`
	bypasses := func(policies []tunnel.Policy) (n int) {
		for i := range policies {
			if policies[i].Action == ipsec.Bypass {
				n++
			}
		}
		return n
	}
	hosts := []tunnel.Host{kernelHost("db1", "p4p1", "2001:db8::1"), kernelHost("db2", "enp4s0", "2001:db8::2")}
	p := mustMake(t, parse(t, "tunnels:\n"+one+two), hosts, tunnel.Options{})
	if a, b := bypasses(p.Pairs[0].Ends[0].Policies), bypasses(p.Pairs[1].Ends[0].Policies); a != 10 || b != 0 {
		t.Errorf("%d bypasses and %d", a, b)
	}
	p = mustMake(t, parse(t, "tunnels:\n"+two), applied(t, p, 1), tunnel.Options{})
	if gone, kept := bypasses(p.Pairs[1].Ends[0].Gone), bypasses(p.Pairs[0].Ends[0].Policies); gone != 0 || kept != 10 {
		t.Errorf("%d bypasses go, %d are wanted", gone, kept)
	}
}
