package probe_test

import (
	"testing"

	"espalier/probe"
	"espalier/probe/probetest"
)

// What a kernel can is told by a few files, and by its version no more than that shows.
func TestKernelAbilities(t *testing.T) {
	for distro, want := range map[string][]probe.Answer{ // ESP4, Crypto4, Packet, Direction, PCPU
		"distro/debian-12":    {probe.Yes, probe.Yes, probe.Unknown, probe.No, probe.Unknown},
		"distro/ubuntu-24.04": {probe.Yes, probe.Yes, probe.Yes, probe.No, probe.Unknown},
	} {
		a := probe.KernelAbilities(probetest.Load(t, distro).Root)
		for i, got := range []probe.Ability{a.ESP4, a.Crypto4, a.Packet, a.Direction, a.PCPU} {
			if got.Answer != want[i] || got.Answer != probe.Yes && got.Why == "" {
				t.Errorf("%s: ability %d is %s (%s), want %s", distro, i, got.Answer, got.Why, want[i])
			}
		}
		if a.Release == "" {
			t.Errorf("%s has no release", distro)
		}
	}
	if a := probe.KernelAbilities(probetest.Load(t, "distro/no-esp").Root); a.ESP4.Answer != probe.No || a.ESP4.Why == "" {
		t.Errorf("%+v", a.ESP4)
	}
	cpus := `files: {sys/devices/system/cpu/online: "0-3,8-11\n"}`
	if a := probe.KernelAbilities(probetest.Load(t, "distro/debian-12", cpus).Root); a.CPUs != 12 {
		t.Errorf("%d CPUs", a.CPUs)
	}
}
