// Package guest is the inside of the VM lab's machine: its tests run as the first process of
// a kernel that has nothing else. Elsewhere they are not run at all.
//
// Other suites are packages of tests whose TestMain is Main.
package guest

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Places in the VM's file system.
const (
	Espalier      = "/bin/espalier" // the program under test
	ModulesFile   = "/etc/modules"  // files of kernel modules, in the order in which they load
	ArgumentsFile = "/etc/arguments"
)

// Ports to the host.
const (
	ResultsPort = "results" // what go test says
	FilesPort   = "files"   // a tar stream of what is saved
)

// Beginnings of the lines by which the tests tell the host more than go test does.
const (
	ExitMark    = "vmlab: exit "
	OutcomeMark = "vmlab: outcome"
)

// VerdictSection begins the sections of docs/verdict.md; all others are those of
// docs/compatibility.md.
const VerdictSection = "Who encrypts, "

// Tell has the host note what a case came to in this kernel. result holds nothing that differs
// from run to run.
func Tell(section, name, result string) {
	clean := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	fmt.Printf("%s\t%s\t%s\t%s\n", OutcomeMark, clean(section), clean(name), clean(result))
}

// Main is TestMain of a suite: `func TestMain(m *testing.M) { guest.Main(m) }`.
func Main(m *testing.M) {
	if os.Getpid() != 1 {
		fmt.Println("skipped: these tests run in the VM, by way of espalier/test/vmlab")
		os.Exit(0)
	}
	defer powerOff()
	if err := start(); err != nil {
		fmt.Fprintln(os.Stderr, "vmlab:", err)
		return
	}
	fmt.Printf("\n%s%d\n", ExitMark, m.Run())
}
