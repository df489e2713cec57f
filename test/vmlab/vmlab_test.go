package vmlab

import (
	"cmp"
	"os"
	"strings"
	"testing"
	"time"

	"espalier/test/lab"
	"espalier/test/vmlab/guest"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// outside begins the names of tests that need the network outside of the VM.
const outside = "TestOutside"

// long begins the names of tests that take more than a minute, and a machine with nothing else to do.
const long = "TestLong"

// TestGuest runs the tests of package guest in two VMs at the same time: one is alone, that of
// the others is joined to a host with the userspace device. VMLAB_RUN selects tests of one of
// them as -run does; with VMLAB_LONG=1, or if they are selected, long ones are run too.
func TestGuest(t *testing.T) {
	t.Parallel()
	run := os.Getenv("VMLAB_RUN")
	all := run == ""
	var alone, joined Report
	t.Run("suites", func(t *testing.T) {
		if all || !strings.HasPrefix(run, outside) {
			t.Run("alone", func(t *testing.T) {
				t.Parallel()
				s := guests()
				s.Tests, s.Skip = run, "^"+outside
				if all && os.Getenv("VMLAB_LONG") == "" {
					s.Skip += "|^" + long
				}
				s.Netdevsim = true
				alone = s.Run(t)
			})
		}
		if all || strings.HasPrefix(run, outside) {
			t.Run("joined", func(t *testing.T) {
				t.Parallel()
				p := newPeer(t)
				s := guests()
				s.Tests = cmp.Or(run, "^"+outside)
				s.Network, s.Outside = p.serve, p
				joined = s.Run(t)
			})
		}
	})
	if all && (alone.Kernel == Kernel{} || joined.Kernel == Kernel{}) {
		return // it has been said why there is no VM
	}
	if _, recorded := alone.Files[guest.Recordings[0].File()]; recorded || all {
		t.Run("tshark", func(t *testing.T) { judge(t, alone.Files) })
	}
	if all && !t.Failed() && len(alone.Missing) == 0 {
		var verdicts, answers []Outcome
		for _, o := range append(joined.Outcomes, alone.Outcomes...) {
			if strings.HasPrefix(o.Section, guest.VerdictSection) {
				verdicts = append(verdicts, o)
			} else {
				answers = append(answers, o)
			}
		}
		Compatibility.Check(t, alone.Kernel, answers)
		Verdicts.Check(t, alone.Kernel, verdicts)
	}
}

func guests() Suite {
	return Suite{
		Package: "espalier/test/vmlab/guest",
		Driver:  DriverIn("nic"),
		Files:   map[string]string{"/vendor": "../testdata/vendor"},
		Timeout: 12 * time.Minute,
	}
}
