package probe_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"espalier/probe"
	"espalier/probe/probetest"
)

// TestDistributions: what the kernels of distributions come to for a ConnectX, and what to do there.
// Listed are all answers of the kernel's layers that are not yes, but for those that only inform.
func TestDistributions(t *testing.T) {
	const card = "links: {p4p1: {index: 2, mtu: 1500, up: true, carrier: true, driver: {name: mlx5_core, bus: \"0000:3b:00.0\"}}}"
	for _, c := range []struct {
		parts string
		want  []string
		fixes []string // parts of the fixes, one each
		packs probe.Answer
	}{
		{"distro/debian-12", []string{"✗ mlx5-en-ipsec"}, []string{"rebuild Debian's kernel with CONFIG_MLX5_EN_IPSEC=y"}, probe.No},
		{"distro/debian-13", []string{"✗ mlx5-en-ipsec"}, []string{"DOCA-Host"}, probe.Yes},
		{"distro/ubuntu-24.04", nil, nil, probe.Yes},
		{"distro/ubuntu-24.04-hwe", nil, nil, probe.Yes},
		{"distro/rhel-9", nil, nil, probe.Yes}, // by a function: 5.14 is older
		{"distro/sles-15", nil, nil, probe.Yes},
		{"distro/arch", nil, nil, probe.Yes},
		{"distro/coreos", nil, nil, probe.Yes},
		{"distro/talos", []string{"✗ inet-esp-offload"}, []string{"siderolabs/pkgs"}, probe.Yes},
		{"distro/no-esp", []string{"✗ xfrm-offload", "✗ inet-esp", "✗ inet-esp-offload", "! inet6-esp", "! inet6-esp-offload", "✗ crypto-gcm", "✗ mlx5-en-ipsec"},
			[]string{"Where it is built or given to the machine, set CONFIG_INET_ESP=y CONFIG_INET_ESP_OFFLOAD=y", "CONFIG_MLX5_EN_IPSEC=y"}, probe.Yes},

		{"distro/ubuntu-24.04 kernel/lockdown", nil, nil, probe.Yes},
		{"distro/ubuntu-24.04 kernel/modules-disabled", []string{"✗ inet-esp", "✗ inet-esp-offload", "! inet6-esp", "! inet6-esp-offload", "✗ crypto-gcm", "✗ crypto-seqiv"}, []string{"/etc/modules-load.d"}, probe.Yes},
		{"distro/rhel-9 kernel/blocked", []string{"✗ inet-esp", "! inet6-esp"}, []string{"install esp4 /bin/true", "install esp6 /bin/true"}, probe.Yes},
		{"distro/rhel-9 kernel/blacklisted", []string{"✗ inet-esp-offload"}, []string{"modprobe esp4_offload"}, probe.Yes},
		{"distro/no-esp kernel/container", []string{"! host", "✗ xfrm-offload", "✗ inet-esp", "✗ inet-esp-offload", "! inet6-esp", "! inet6-esp-offload", "✗ crypto-gcm", "✗ mlx5-en-ipsec"},
			[]string{"Run it on the host", "Boot the host with", "Boot the host with"}, probe.Yes},
		{"distro/ubuntu-24.04 kernel/not-root", nil, nil, probe.Yes},
	} {
		t.Run(c.parts, func(t *testing.T) {
			r, err := probe.Examine(context.Background(), probetest.Load(t, append(strings.Fields(c.parts), card)...), []string{"p4p1"})
			if err != nil {
				t.Fatal(err)
			}
			var got, fixes []string
			for _, l := range slices.Concat(r.Layers, r.Devices[0].Layers) {
				for _, k := range l.Checks {
					sound(t, k)
					name, ours := strings.CutPrefix(k.ID, "kernel.")
					if ours && name == "packet-offload" && k.Answer != c.packs {
						t.Errorf("packet offload: %+v, want %s", k, c.packs)
					}
					if !ours || k.Weight == probe.Informs || k.Answer == probe.Yes {
						continue
					}
					got = append(got, fmt.Sprintf("%c %s", marks[k.Answer][k.Weight], name))
					if k.Fix != "" && !slices.Contains(fixes, k.Fix) {
						fixes = append(fixes, k.Fix)
					}
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if len(fixes) != len(c.fixes) {
				t.Fatalf("%d fixes, want %d: %q", len(fixes), len(c.fixes), fixes)
			}
			for i, want := range c.fixes {
				if !strings.Contains(fixes[i], want) {
					t.Errorf("fix %q, want %q", fixes[i], want)
				}
			}
			if unseen := strings.Contains(c.parts, "not-root"); unseen != slices.Contains(r.Unseen, "the kernel's log") || r.AsRoot == unseen {
				t.Errorf("as root %v, not seen: %q", r.AsRoot, r.Unseen)
			}
		})
	}
}

var marks = map[probe.Answer]map[probe.Weight]rune{
	probe.No:      {probe.Required: '✗', probe.Warns: '!'},
	probe.Unknown: {probe.Required: '?', probe.Warns: '?'},
}

// TestKernelOfPorts: what a bond or VLAN needs of the kernel is what the NICs below it need.
func TestKernelOfPorts(t *testing.T) {
	const links = `links:
  p4p1: {index: 2, port-of: bond0, driver: {name: mlx5_core, bus: "0000:3b:00.0"}}
  p4p2: {index: 3, port-of: bond0, driver: {name: mlx5_core, bus: "0000:3b:00.1"}}
  bond0: {index: 4, kind: bond, bond-mode: active-backup, driver: {name: bonding}}
  bond0.7: {index: 5, kind: vlan, on: bond0}
  veth0: {index: 6, kind: veth, driver: {name: veth}}
`
	sys := probetest.Load(t, "distro/debian-13", links)
	r, err := probe.Examine(context.Background(), sys, []string{"p4p1", "bond0", "bond0.7", "p4p1", "veth0"})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Devices) != 4 {
		t.Fatalf("%d devices: each counts once", len(r.Devices))
	}
	for i, want := range []int{1, 1, 1, 0} {
		n := 0
		for _, l := range r.Devices[i].Layers {
			for _, c := range l.Checks {
				if c.ID == "kernel.mlx5-en-ipsec" && c.Answer == probe.No {
					n++
				}
			}
		}
		if n != want {
			t.Errorf("%s: asked for MLX5_EN_IPSEC %d times, want %d", r.Devices[i].Name, n, want)
		}
	}
}
