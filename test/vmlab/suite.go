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
	// Netdevsim has the kernel's own simulated NIC built and loaded too, where its source can
	// be had.
	Netdevsim bool
	// Files are directories of the VM and what is copied there, from directories of this machine.
	Files map[string]string
	// Network, if not nil, is run while the VM is: it is the other end of the VM's network
	// device. It has to return when the wire is closed.
	Network func(*Wire) error
	// Outside, if not nil, has the methods of guest.Outside: tests in the VM call it.
	Outside any
	// Capture is a file for what goes over the wire, in pcap format.
	Capture string
	// Timeout of the VM; 0 is two minutes.
	Timeout time.Duration
	// Tests and Skip are patterns as for go test -run and -skip; "" is all, and none.
	Tests, Skip string
}

// Report is what came of a run.
type Report struct {
	Kernel   Kernel
	Outcomes []Outcome         // what the tests have told, in order
	Files    map[string][]byte // what they have saved, by name
	Missing  []string          // drivers that the machine had not, each with the reason
}

// Run boots the VM and reports its tests as subtests of t.
func (s *Suite) Run(t *testing.T) Report {
	t.Helper()
	report := Report{Kernel: FindKernel(t)}
	k := report.Kernel
	dir := t.TempDir()
	start := time.Now()
	driver := s.drivers(t, &report)
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
	r, readErr := m.output(&report)
	t.Cleanup(func() { m.keepFiles(t, report.Files) }) // when it is known whether t has failed
	if readErr != nil {
		t.Fatal(readErr)
	}
	r.report(t)
	if err != nil || r.exit < 0 {
		t.Errorf("the VM did not come to its end: %v; its console:\n%s", err, m.consoleTail())
	} else if r.exit != 0 && !t.Failed() {
		t.Errorf("the tests ended with code %d; console:\n%s", r.exit, m.consoleTail())
	}
	return report
}

// drivers builds those that the suite wants. One that does not build fails by itself; what needs
// none of it goes on.
func (s *Suite) drivers(t *testing.T, report *Report) (modules []string) {
	k := report.Kernel
	if s.Driver != "" {
		t.Run("driver", func(t *testing.T) {
			lab.Tools(t, "make", "gcc")
			files, err := k.BuildDriver(s.Driver)
			if err != nil {
				t.Fatal(err)
			}
			modules = append(modules, files...)
		})
	}
	if s.Netdevsim {
		t.Run("netdevsim", func(t *testing.T) {
			lab.Tools(t, "make", "gcc")
			files, err := k.buildNetdevsim()
			if err != nil {
				report.Missing = append(report.Missing, fmt.Sprintf("netdevsim: %v", err))
				if os.Getenv("CI") != "" && k.Series() == defaultSeries {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			modules = append(modules, files...)
		})
	}
	return modules
}

// output reads what the tests have said and saved.
func (m *machine) output(report *Report) (*results, error) {
	text, err := os.ReadFile(m.results())
	if err != nil {
		return nil, err
	}
	r, err := parse(text)
	if err != nil {
		return nil, err
	}
	report.Outcomes = r.outcomes
	files, err := os.Open(m.files())
	if err != nil {
		return nil, err
	}
	defer files.Close()
	report.Files, err = readFiles(files)
	return r, err
}

// boot runs the machine, and its network and what it may call beside it.
func (s *Suite) boot(m *machine) (wireErr, err error) {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = 2 * time.Minute
	}
	if s.Outside != nil {
		stop, err := answer(m.dir, s.Outside)
		if err != nil {
			return nil, err
		}
		defer stop()
		m.control = true
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
	if s.Skip != "" {
		args = append(args, "-test.skip="+s.Skip)
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
