package conformance

import (
	"os"
	"testing"

	"espalier/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

func newLab(t *testing.T) *lab.Lab {
	lab.Root(t)
	lab.Tools(t, "ip", "ethtool")
	return lab.New(t, "")
}

func TestDevice(t *testing.T) { Run(t, Device(t, newLab(t))) }

// TestKernel asks this machine's kernel what it can answer: SAs only as far as it has ESP.
func TestKernel(t *testing.T) {
	target := Kernel(t, newLab(t), true)
	target.ESP = takesESP(t, &target)
	Run(t, target)
}

func takesESP(t *testing.T, target *Target) bool {
	e := &env{T: t, Target: target, ctx: t.Context()}
	defer e.empty()
	return target.Client.AddState(e.ctx, e.state(0x1000)) == nil
}

// TestTables: case names are unique, and every difference is about one.
func TestTables(t *testing.T) {
	names := make(map[string]bool)
	for _, s := range suites {
		for _, c := range s.cases {
			if names[c.Name] {
				t.Errorf("two cases of one name: %s", c.Name)
			}
			names[c.Name] = true
		}
	}
	for _, d := range differences {
		if !names[d.name] || d.why == "" {
			t.Errorf("no such case, or no reason: %+v", d)
		}
	}
}
