package vmlab

import (
	"os"
	"testing"

	"espalier/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// TestGuest runs the tests of package guest in the VM. Its network device is joined to a host
// with the userspace device. VMLAB_RUN selects tests as -run does.
func TestGuest(t *testing.T) {
	p := newPeer(t)
	s := Suite{
		Package: "espalier/test/vmlab/guest",
		Driver:  DriverIn("nic"),
		Files:   map[string]string{"/vendor": "../testdata/vendor"},
		Network: p.serve,
		Tests:   os.Getenv("VMLAB_RUN"),
	}
	k, outcomes := s.Run(t)
	if s.Tests != "" {
		return
	}
	p.check(t)
	if !t.Failed() {
		CheckDocs(t, "../../docs/compatibility.md", k, outcomes)
	}
}
