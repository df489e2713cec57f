package vmlab

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"espalier/test/lab"
)

// Suite is a package of tests and the machine they run in.
type Suite struct {
	Package string // import path; its TestMain is guest.Main

	// Driver is a directory with a Kbuild file. Its modules are built and loaded last.
	Driver string
	// Files are directories of the VM and what is copied there, from directories of this machine.
	Files map[string]string
	// Network, if not nil, is run while the VM is: it is the other end of the VM's network
	// device. It has to return when the wire is closed.
	Network func(*Wire) error
	// Capture is a file for what goes over the wire, in pcap format.
	Capture string
	// Timeout of the VM; 0 is two minutes.
	Timeout time.Duration
	// Tests is a pattern as for go test -run; "" is all.
	Tests string
}

// Run boots the VM and reports its tests as subtests of t. It returns the outcomes they have
// told.
func (s *Suite) Run(t *testing.T) (Kernel, []Outcome) {
	t.Helper()
	k := FindKernel(t)
	dir := t.TempDir()
	start := time.Now()
	// A driver that does not build fails by itself; what needs none of it goes on.
	var driver []string
	if s.Driver != "" {
		t.Run("driver", func(t *testing.T) {
			lab.Tools(t, "make", "gcc")
			var err error
			if driver, err = k.BuildDriver(s.Driver); err != nil {
				t.Fatal(err)
			}
		})
	}
	initramfs, err := s.initramfs(k, dir, driver)
	if err != nil {
		t.Fatal(err)
	}
	built := time.Since(start)
	m := &machine{kernel: k.image(), initramfs: initramfs, dir: dir, net: s.Network != nil, capture: s.Capture}
	wireErr, err := s.boot(m)
	t.Logf("Linux %s: built in %.1fs, ran for %.1fs", k.Release(), built.Seconds(), time.Since(start).Seconds()-built.Seconds())
	if wireErr != nil {
		t.Errorf("the host's end of the network: %v", wireErr)
	}
	text, readErr := os.ReadFile(m.results())
	if readErr != nil {
		t.Fatal(readErr)
	}
	r, parseErr := parse(text)
	if parseErr != nil {
		t.Fatal(parseErr)
	}
	r.report(t)
	if err != nil || r.exit < 0 {
		t.Errorf("the VM did not come to its end: %v; its console:\n%s", err, m.consoleTail())
	} else if r.exit != 0 && !t.Failed() {
		t.Errorf("the tests ended with code %d; console:\n%s", r.exit, m.consoleTail())
	}
	return k, r.outcomes
}

// boot runs the machine, and its network beside it.
func (s *Suite) boot(m *machine) (wireErr, err error) {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = 2 * time.Minute
	}
	if s.Network == nil {
		return nil, m.run(timeout)
	}
	wire, err := openWire(m.dir)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() { done <- s.Network(wire) }()
	err = m.run(timeout)
	wire.Close()
	select {
	case wireErr = <-done:
	case <-time.After(10 * time.Second):
		wireErr = fmt.Errorf("still running after the VM has ended")
	}
	return wireErr, err
}

// arguments of the tests in the VM. The results say which words are the test framework's.
func (s *Suite) arguments() []string {
	args := []string{"-test.v=test2json", "-test.paniconexit0"}
	if s.Tests != "" {
		args = append(args, "-test.run="+s.Tests)
	}
	if testing.Short() {
		args = append(args, "-test.short")
	}
	return args
}

// DriverIn gives dir if it holds a driver, else "".
func DriverIn(dir string) string {
	if _, err := os.Stat(strings.TrimSuffix(dir, "/") + "/Kbuild"); err != nil {
		return ""
	}
	return dir
}
