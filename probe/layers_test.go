package probe_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/probe"
	"espalier/probe/probetest"
)

// hosts: a device of a host made of parts, what its checks together come to, how many are answered
// with yes, and which are not.
var hosts = []struct {
	parts, device string
	readiness     probe.Readiness
	yes           int
	others        string
}{
	{"nic/bluefield-2-no-crypto", "p4p1", probe.NotReady, 14, "nic.product=no driver.esp-offload=no driver.log=no"},
	{"nic/bluefield-2", "p4p1", probe.Ready, 21, "nic.bandwidth=no"},
	{"nic/bluefield-3-no-crypto", "p4p1", probe.NotReady, 14, "nic.product=no driver.esp-offload=no driver.log=no"},
	{"nic/bluefield-3", "p4p1", probe.Ready, 21, ""},
	{"nic/connectx-5", "p4p1", probe.NotReady, 14, "nic.product=unknown driver.esp-offload=no driver.log=no"},
	{"nic/connectx-6-dx-100g", "p4p1", probe.Ready, 21, "nic.bandwidth=no"},
	{"nic/connectx-6-dx-no-crypto", "p4p1", probe.NotReady, 15, "driver.esp-offload=no driver.log=no"},
	{"nic/connectx-6-dx", "p4p1", probe.Ready, 22, ""},
	{"nic/connectx-6-lx-none", "p4p1", probe.NotReady, 14, "nic.product=unknown driver.esp-offload=no driver.log=no"},
	{"nic/connectx-6-lx", "p4p1", probe.Ready, 21, ""},
	{"nic/connectx-6", "p4p1", probe.NotReady, 14, "nic.product=no driver.esp-offload=no driver.log=no"},
	{"nic/connectx-7", "p4p1", probe.Ready, 21, ""},
	{"nic/connectx-8", "p4p1", probe.Ready, 21, ""},
	{"nic/intel-e810", "p4p1", probe.NotReady, 12, "nic.driver=no driver.esp-offload=no"},
	{"nic/intel-x540", "p4p1", probe.Ready, 17, "driver.counters=no"},
	{"nic/intel-x710", "p4p1", probe.NotReady, 12, "nic.driver=no driver.esp-offload=no"},
	{"nic/netdevsim", "p4p1", probe.NotReady, 13, "nic.driver=no driver.esp-offload=no driver.counters=no"},
	{"nic/octeon-10", "p4p1", probe.NotReady, 13, "driver.esp-offload=no driver.esp-checksum=no driver.esp-segmentation=no driver.counters=no"},
	{"nic/sf", "p4p1", probe.NotReady, 14, "driver.esp-offload=no driver.log=no driver.function=no"},
	{"nic/unknown", "p4p1", probe.NotReady, 11, "nic.driver=unknown nic.product=unknown driver.esp-offload=no"},
	{"nic/veth", "p4p1", probe.NotReady, 10, "nic.driver=no driver.esp-offload=no topology.kind=no"},
	{"nic/vf-in-vm-off", "p4p1", probe.NotReady, 13, "nic.product=unknown driver.esp-offload=no driver.log=no"},
	{"nic/vf-in-vm", "p4p1", probe.Ready, 20, ""},
	{"nic/virtio", "p4p1", probe.NotReady, 11, "nic.driver=no driver.esp-offload=no"},
	{"nic/connectx-6-dx trap/bond-active-backup", "p4p1", probe.Ready, 22, "topology.port=no"},
	{"nic/connectx-6-dx trap/bond-active-backup", "bond0", probe.Ready, 17, ""},
	{"nic/connectx-6-dx trap/bond-lacp", "p4p1", probe.NotReady, 22, "topology.port=no"},
	{"nic/connectx-6-dx trap/bond-lacp", "bond0", probe.NotReady, 12, "driver.esp-offload=no topology.kind=no"},
	{"nic/connectx-6-dx trap/bridge", "p4p1", probe.NotReady, 22, "topology.port=no"},
	{"nic/connectx-6-dx trap/bridge", "br0", probe.NotReady, 10, "nic.driver=no driver.esp-offload=no topology.kind=no"},
	{"nic/connectx-6-dx trap/charon", "p4p1", probe.Ready, 20, "host.ike=no host.ike-ports=no"},
	{"nic/connectx-6-dx trap/denied", "p4p1", probe.Ready, 18, "driver.log=unknown driver.eswitch=unknown topology.firewall-esp=unknown topology.firewall-udp=unknown"},
	{"nic/connectx-6-dx trap/disable-policy-all", "p4p1", probe.Ready, 20, "topology.disable-policy=no topology.disable-policy6=no"},
	{"nic/connectx-6-dx trap/disable-xfrm", "p4p1", probe.NotReady, 21, "topology.disable-xfrm=no"},
	{"nic/connectx-6-dx trap/down", "p4p1", probe.Ready, 20, "nic.link=no"},
	{"nic/connectx-6-dx trap/esp-off", "p4p1", probe.NotReady, 20, "driver.esp-offload=no driver.esp-segmentation=no"},
	{"nic/connectx-6-dx trap/firewalld", "p4p1", probe.Ready, 20, "topology.firewall-esp=no topology.firewall-udp=no"},
	{"nic/connectx-6-dx trap/iptables-nft", "p4p1", probe.Ready, 21, "topology.firewall-udp=no"},
	{"nic/connectx-6-dx trap/jumbo-mismatch", "p4p1", probe.Ready, 21, "topology.mtu=no"},
	{"nic/connectx-6-dx trap/legacy", "p4p1", probe.Ready, 20, "topology.firewall-esp=unknown topology.firewall-udp=unknown"},
	{"nic/connectx-6-dx trap/log-rotated", "p4p1", probe.Ready, 21, "driver.log=unknown"},
	{"nic/connectx-6-dx trap/macvlan", "p4p1", probe.Ready, 22, ""},
	{"nic/connectx-6-dx trap/macvlan", "mv0", probe.NotReady, 10, "nic.driver=no driver.esp-offload=no topology.kind=no"},
	{"nic/connectx-6-dx trap/nft-by-address", "p4p1", probe.Ready, 21, "topology.firewall-esp=unknown"},
	{"nic/connectx-6-dx trap/nft-drop-esp", "p4p1", probe.Ready, 21, "topology.firewall-esp=no"},
	{"nic/connectx-6-dx trap/nft-drop-forwarded", "p4p1", probe.Ready, 22, ""},
	{"nic/connectx-6-dx trap/nft-other-device", "p4p1", probe.Ready, 22, ""},
	{"nic/connectx-6-dx trap/no-link", "p4p1", probe.Ready, 20, "nic.link=no"},
	{"nic/connectx-6-dx trap/charon-elsewhere", "p4p1", probe.Ready, 22, ""},
	{"nic/connectx-6-dx trap/charon-hidden", "p4p1", probe.Ready, 21, "host.ike=unknown"},
	{"nic/connectx-6-dx trap/nft-twice", "p4p1", probe.Ready, 21, "topology.firewall-esp=no"},
	{"nic/connectx-6-dx trap/nft-unloaded", "p4p1", probe.Ready, 22, ""},
	{"nic/connectx-6-dx trap/one-queue", "p4p1", probe.Ready, 21, "topology.queues=no"},
	{"nic/connectx-6-dx trap/one-rx-queue", "p4p1", probe.Ready, 21, "topology.queues=no"},
	{"nic/connectx-6-dx trap/ovs", "p4p1", probe.NotReady, 22, "topology.port=no"},
	{"nic/connectx-6-dx trap/own-device", "p4p1", probe.Ready, 22, ""},
	{"nic/connectx-6-dx trap/pluto", "p4p1", probe.Ready, 21, "host.ike=no"},
	{"nic/connectx-6-dx trap/port-hidden", "p4p1", probe.Ready, 21, "host.ike-ports=unknown"},
	{"nic/connectx-6-dx trap/representor", "p4p1", probe.Ready, 22, ""},
	{"nic/connectx-6-dx trap/representor", "enp59s0npf0vf1", probe.NotReady, 13, "nic.driver=no driver.esp-offload=no topology.kind=no"},
	{"nic/connectx-6-dx trap/small-mtu", "p4p1", probe.Ready, 21, "topology.mtu=no"},
	{"nic/connectx-6-dx trap/software-counters", "p4p1", probe.Ready, 21, "driver.counters=no"},
	{"nic/connectx-6-dx trap/strict-rp-filter", "p4p1", probe.Ready, 21, "topology.rp-filter=no"},
	{"nic/connectx-6-dx trap/ufw", "p4p1", probe.Ready, 20, "topology.firewall-esp=no topology.firewall-udp=no"},
	{"nic/connectx-6-dx trap/vf-legacy", "p4p1", probe.Ready, 22, ""},
	{"nic/connectx-6-dx trap/vf-legacy", "p4p1v1", probe.NotReady, 13, "nic.product=unknown driver.esp-offload=no driver.log=no"},
	{"nic/connectx-6-dx trap/vf-let", "p4p1", probe.NotReady, 22, "driver.held=no"},
	{"nic/connectx-6-dx trap/vf-let", "p4p1v1", probe.Ready, 21, ""},
	{"nic/connectx-6-dx trap/vf-not-let", "p4p1", probe.Ready, 23, ""},
	{"nic/connectx-6-dx trap/vf-not-let", "p4p1v1", probe.NotReady, 13, "nic.product=unknown driver.esp-offload=no driver.log=no driver.function=no"},
	{"nic/connectx-6-dx trap/vlan", "p4p1", probe.Ready, 22, ""},
	{"nic/connectx-6-dx trap/vlan", "p4p1.100", probe.NotReady, 10, "nic.driver=no driver.esp-offload=no topology.kind=no"},
	{"nic/connectx-6-dx trap/xfrm-interface", "p4p1", probe.Ready, 21, "topology.mtu=no"},
}

// layers of a device; parts stand on what every host has.
func layers(t *testing.T, distribution, parts, device string) []probe.Layer {
	t.Helper()
	all := append([]string{"distro/" + distribution, "base"}, strings.Fields(parts)...)
	return probe.NetworkLayers(probetest.Load(t, all...), device)
}

func each(layers []probe.Layer, f func(probe.Check)) {
	for _, l := range layers {
		for _, c := range l.Checks {
			f(c)
		}
	}
}

func TestHosts(t *testing.T) {
	seen := make(map[string]bool)
	for _, h := range hosts {
		name := h.parts + " " + h.device
		t.Run(name, func(t *testing.T) {
			layers := layers(t, "ubuntu-24.04", h.parts, h.device)
			var others []string
			yes := 0
			ids := make(map[string]bool)
			each(layers, func(c probe.Check) {
				if ids[c.ID] {
					t.Errorf("two checks %s", c.ID)
				}
				ids[c.ID] = true
				if c.Answer == probe.Yes {
					yes++
				} else {
					others = append(others, c.ID+"="+c.Answer.String())
				}
				sound(t, c)
			})
			if got := strings.Join(others, " "); yes != h.yes || got != h.others {
				t.Errorf("%d yes, %q\nwant %d, %q", yes, got, h.yes, h.others)
			}
			if r, why := probe.Judge(layers); r != h.readiness || (why == "") != (r == probe.Ready) {
				t.Errorf("%s (%s), want %s", r, why, h.readiness)
			}
		})
		for _, p := range strings.Fields(h.parts) {
			seen[p] = true
		}
	}
	for _, folder := range []string{"nic", "trap"} {
		for _, p := range probetest.Parts(t, folder) {
			if !seen[p] {
				t.Errorf("no host is made of %s", p)
			}
		}
	}
}

// sound: whatever a check says, it says why, from what, and what to do about it.
func sound(t *testing.T, c probe.Check) {
	t.Helper()
	switch {
	case c.ID == "" || c.Title == "" || c.Why == "":
		t.Errorf("%+v says nothing", c)
	case strings.Contains(c.Why+c.Fix+c.Title, "\n") || strings.Contains(c.Why+c.Fix, "%!"):
		t.Errorf("%+v is no line of text", c)
	case len(c.Evidence) == 0:
		t.Errorf("%s has no evidence", c.ID)
	case c.Answer == probe.No && c.Fix == "":
		t.Errorf("%s is missing, and nothing is said to do: %s", c.ID, c.Why)
	case c.Answer != probe.No && c.Fix != "":
		t.Errorf("%s is %s, and there is something to do: %s", c.ID, c.Answer, c.Fix)
	}
}

// TestFixes: the words of the distribution, and of the device.
func TestFixes(t *testing.T) {
	for _, c := range []struct{ distribution, parts, device, id, want string }{
		{"ubuntu-24.04", "nic/connectx-7 trap/bond-lacp", "bond0", "topology.kind", "netplan"},
		{"debian-12", "nic/connectx-7 trap/bond-lacp", "bond0", "topology.kind", "/etc/network/interfaces: bond-mode active-backup"},
		{"rhel-9", "nic/connectx-7 trap/bond-lacp", "p4p1", "topology.port", "nmcli connection modify bond0"},
		{"sles-15", "nic/connectx-7 trap/bond-lacp", "bond0", "driver.esp-offload", "wicked ifreload bond0"},
		{"arch", "nic/connectx-7 trap/bond-lacp", "bond0", "topology.kind", "ip link set bond0 type bond mode active-backup"},
		{"debian-12", "nic/connectx-7 trap/charon", "p4p1", "host.ike", "systemctl disable --now strongswan-starter"},
		{"rhel-9", "nic/connectx-7 trap/pluto", "p4p1", "host.ike", "systemctl disable --now ipsec"},
		{"rhel-9", "nic/connectx-7 trap/firewalld", "p4p1", "topology.firewall-esp", "firewall-cmd --permanent --add-protocol=esp"},
		{"rhel-9", "nic/connectx-7 trap/firewalld", "p4p1", "topology.firewall-udp", "--add-port=4500/udp"},
		{"ubuntu-24.04", "nic/connectx-7 trap/ufw", "p4p1", "topology.firewall-esp", "ufw allow proto esp"},
		{"ubuntu-24.04", "nic/connectx-7 trap/ufw", "p4p1", "topology.firewall-udp", "ufw allow 4500/udp"},
		{"debian-12", "nic/connectx-7 trap/iptables-nft", "p4p1", "topology.firewall-udp", "iptables -I INPUT -p udp --dport 4500 -j ACCEPT"},
		{"debian-12", "nic/connectx-7 trap/nft-drop-esp", "p4p1", "topology.firewall-esp", "nft insert rule inet filter input meta l4proto esp accept; and in /etc/nftables.conf"},
		{"rhel-9", "nic/connectx-7 trap/nft-drop-esp", "p4p1", "topology.firewall-esp", "/etc/sysconfig/nftables.conf"},
		{"debian-12", "nic/connectx-7 trap/nft-twice", "p4p1", "topology.firewall-esp",
			"nft insert rule inet raw first meta l4proto esp accept; nft insert rule inet filter input meta l4proto esp accept"},
		{"debian-12", "nic/octeon-10", "p4p1", "driver.esp-offload", "ethtool -K p4p1 esp-hw-offload on"},
		{"debian-12", "nic/connectx-7 trap/esp-off", "p4p1", "driver.esp-segmentation", "ethtool -K p4p1 tx-esp-segmentation on"},
		{"debian-12", "nic/connectx-7 trap/vf-not-let", "p4p1v1", "driver.function", "devlink port function set pci/0000:3b:00.0/3 ipsec_crypto enable"},
		{"debian-12", "nic/connectx-7 trap/vf-legacy", "p4p1v1", "driver.esp-offload", "devlink dev eswitch set pci/0000:3b:00.0 mode switchdev"},
		{"debian-12", "nic/connectx-7 trap/vf-let", "p4p1", "driver.held", "devlink port function set pci/0000:3b:00.0/3 ipsec_crypto disable"},
		{"debian-12", "nic/sf", "p4p1", "driver.function", "pci/0000:3b:00.0/32768 ipsec_crypto enable"},
		{"debian-12", "nic/virtio", "p4p1", "driver.esp-offload", "virtual function"},
		{"debian-12", "nic/bluefield-2-no-crypto", "p4p1", "driver.esp-offload", "sold with its cryptography disabled"},
		{"debian-12", "nic/connectx-7 trap/vlan", "p4p1.100", "topology.kind", "ip link set p4p1 vf 0 vlan 100"},
		{"debian-12", "nic/connectx-7 trap/xfrm-interface", "p4p1", "topology.mtu", "ip link set ipsec0 mtu 1446"},
		{"debian-12", "nic/connectx-7 trap/disable-policy-all", "p4p1", "topology.disable-policy", "sysctl -w net.ipv4.conf.all.disable_policy=0"},
		{"debian-12", "nic/connectx-7 trap/one-queue", "p4p1", "topology.queues", "ethtool -L p4p1 combined 16"},
		{"debian-12", "nic/connectx-7 trap/one-rx-queue", "p4p1", "topology.queues", "ethtool -L p4p1 rx 8"},
		{"debian-12", "nic/connectx-7 trap/down", "p4p1", "nic.link", "ip link set p4p1 up"},
	} {
		found := false
		each(layers(t, c.distribution, c.parts, c.device), func(check probe.Check) {
			if check.ID == c.id {
				found = true
				if check.Answer != probe.No || !strings.Contains(check.Fix, c.want) {
					t.Errorf("%s, %s, %s: %s, %q, want %q", c.distribution, c.parts, c.id, check.Answer, check.Fix, c.want)
				}
			}
		})
		if !found {
			t.Errorf("%s: no check %s", c.parts, c.id)
		}
	}
}

// TestGolden shows layers as a whole. ESPALIER_WRITE_GOLDEN=1 writes them anew.
func TestGolden(t *testing.T) {
	for _, g := range []struct{ name, distribution, parts, device string }{
		{"connectx-7", "ubuntu-24.04", "nic/connectx-7", "p4p1"},
		{"bluefield-2-no-crypto", "rhel-9", "nic/bluefield-2-no-crypto", "p4p1"},
		{"connectx-6-dx-100g-firewalld-charon", "rhel-9", "nic/connectx-6-dx-100g trap/firewalld trap/charon trap/strict-rp-filter", "p4p1"},
		{"vlan", "debian-12", "nic/connectx-7 trap/vlan", "p4p1.100"},
		{"vf-not-let-denied", "ubuntu-24.04", "nic/connectx-7 trap/denied trap/vf-not-let", "p4p1v1"},
	} {
		var b strings.Builder
		for _, l := range layers(t, g.distribution, g.parts, g.device) {
			fmt.Fprintf(&b, "%s: %s\n", l.Name, l.Summary)
			for _, c := range l.Checks {
				fmt.Fprintf(&b, "  %-7s %-8s %-24s %s: %s\n", c.Answer, c.Weight, c.ID, c.Title, c.Why)
				for _, e := range c.Evidence {
					fmt.Fprintf(&b, "      %s: %s\n", e.Source, e.Value)
				}
				if c.Fix != "" {
					fmt.Fprintf(&b, "    → %s\n", c.Fix)
				}
			}
		}
		file := filepath.Join("testdata", "layers", g.name+".txt")
		if os.Getenv("ESPALIER_WRITE_GOLDEN") != "" {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if b.String() != string(want) {
			t.Errorf("%s is now\n%s", file, b.String())
		}
	}
}

// TestNothingKnown: a host that answers nothing is not called ready, nor not ready.
func TestNothingKnown(t *testing.T) {
	sys := probetest.Load(t, "nic/connectx-7", "files: {proc: !denied '', sys: !denied '', etc: !denied ''}\ndenied: [driver, features, counters, speed, queues, devlink, chains, log]")
	for _, l := range probe.NetworkLayers(sys, "p4p1") {
		for _, c := range l.Checks {
			sound(t, c)
			if c.Answer == probe.No || c.Answer == probe.Yes && c.ID != "topology.kind" && c.ID != "topology.mtu" && c.ID != "nic.link" {
				t.Errorf("%s: %s, %s", c.ID, c.Answer, c.Why)
			}
		}
	}
	if r, why := probe.Judge(probe.NetworkLayers(sys, "p4p1")); r != probe.Unclear || why != "features of p4p1 not known: not shown to this user" {
		t.Errorf("%s: %s", r, why)
	}
	for name, sys := range map[string]probe.System{
		"no network":        {Root: sys.Root},
		"links not listed":  probetest.Load(t, "nic/connectx-7", "denied: [links]"),
		"another device":    probetest.Load(t, "base", "nic/connectx-7"),
		"nothing but links": probetest.Load(t, "links: {p9: {index: 3}}"),
	} {
		for _, device := range []string{"p9", "", "../..", "p4p1/../x", "\x00", strings.Repeat("x", 1<<16)} {
			for _, l := range probe.NetworkLayers(sys, device) {
				for _, c := range l.Checks {
					if c.ID == "nic.present" && c.Answer == probe.Yes {
						t.Errorf("%s: %q is there", name, device)
					}
				}
			}
		}
	}
	if r, why := probe.Judge(probe.NetworkLayers(probetest.Load(t, "base"), "p9")); r != probe.NotReady || why != "there is no network device p9 here" {
		t.Errorf("%s: %s", r, why)
	}
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		parts, devices string
		leftOut        string
	}{
		{"nic/connectx-7", "p4p1", ""},
		{"nic/connectx-5", "p4p1", ""}, // its driver could, and decides
		{"nic/connectx-6", "", "p4p1: ConnectX-6: the card does not offload ESP"},
		{"nic/intel-x710", "", "p4p1: driver i40e (X710, XL710) has no ESP offload"},
		{"nic/intel-x540", "p4p1", ""},
		{"nic/virtio", "", "p4p1: driver virtio_net (virtual machines) has no ESP offload"},
		{"nic/veth", "", ""},
		{"nic/unknown", "", "p4p1: driver frobnic does not say that it offloads ESP"},
		{"nic/sf", "p4p1", ""},
		{"nic/connectx-7 trap/vlan", "p4p1", "p4p1.100: VLAN on p4p1: name it to have it examined"},
		{"nic/connectx-7 trap/bond-lacp", "p4p1 p4p2", "bond0: bond of p4p1, p4p2: name it to have it examined"},
		{"nic/connectx-7 trap/bridge", "p4p1", "br0: bridge of p4p1: name it to have it examined"},
		{"nic/connectx-7 trap/representor", "p4p1", "enp59s0npf0vf1: a representor: SAs belong to the function itself"},
		{"nic/connectx-7 trap/vf-let", "p4p1 p4p1v1", ""},
	} {
		devices, leftOut, err := probe.Choose(probetest.Load(t, append([]string{"base"}, strings.Fields(c.parts)...)...))
		var out []string
		for _, l := range leftOut {
			out = append(out, l.Name+": "+l.Why)
		}
		if got := strings.Join(devices, " "); err != nil || got != c.devices || strings.Join(out, "; ") != c.leftOut {
			t.Errorf("%s: %q, %q, %v; want %q, %q", c.parts, got, out, err, c.devices, c.leftOut)
		}
	}
	if _, _, err := probe.Choose(probetest.Load(t, "denied: [links]")); err == nil {
		t.Error("links were listed")
	}
}

// TestRoom: ESP with AES-GCM adds a header of 8 bytes, an IV of 8, padding to 4 with 2 bytes of
// trailer, and an ICV of 16 (RFC 4303, RFC 4106).
func TestRoom(t *testing.T) {
	for _, c := range []struct {
		mtu, header   int
		tunnel, encap bool
		want          int
	}{
		{1500, 20, false, false, 1466}, {1500, 20, true, false, 1446}, {1500, 20, true, true, 1438}, {1500, 40, true, false, 1426},
		{1500, 40, false, false, 1466}, {9000, 20, true, false, 8946}, {9000, 20, false, false, 8966}, {60, 20, true, false, 6}, {0, 20, true, false, 0}, {-5, 40, true, true, 0},
	} {
		if got := probe.Room(c.mtu, c.header, c.tunnel, c.encap); got != c.want {
			t.Errorf("MTU %d, header %d, tunnel %v, encap %v: %d, want %d", c.mtu, c.header, c.tunnel, c.encap, got, c.want)
		}
	}
	// One byte more would not fit: the packet around it, built up.
	for mtu := 100; mtu < 1600; mtu++ {
		inner := probe.Room(mtu, 20, true, false)
		size := func(inner int) int { return 20 + 8 + 8 + (inner+2+3)/4*4 + 16 }
		if size(inner) > mtu || size(inner+1) <= mtu {
			t.Fatalf("MTU %d: %d bytes make %d, one more makes %d", mtu, inner, size(inner), size(inner+1))
		}
	}
}
