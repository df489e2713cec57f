package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Place is where a network namespace of this host keeps what lasts.
type Place struct {
	Dir   string // of the state of this network namespace; it is made when needed
	Units string // where units go; "": nowhere
	Why   string // nothing starts them, and why; "": something does, or will
	// Namespace is the file of the network namespace, for units; "" for the initial one.
	Namespace string
	// Systemd tells that it runs, so that units can be started now.
	Systemd bool
	// Program is the espalier that units and holders run; "": this one, or a copy of it in Dir if it
	// would not stay where it is.
	Program string
	// Bare tells which pairs have neither policies nor SAs when Load is called; nil: none.
	Bare func(Pair) bool
	// Environment are the settings, NAME=VALUE, that the commands in units depend on.
	Environment []string
}

const (
	unitDirVariable  = "ESPALIER_UNIT_DIR"
	stateDirVariable = "ESPALIER_STATE_DIR"
	systemUnits      = "/etc/systemd/system"
	systemdRuns      = "/run/systemd/system"
	namedNamespaces  = "/run/netns"
)

// Find tells where the network namespace of the calling thread keeps what lasts, if its state is in
// dir. Units go to ESPALIER_UNIT_DIR, else, if ESPALIER_STATE_DIR is set, to units in that, else to
// /etc/systemd/system if it exists: also where systemd does not run now, as in an image of a host.
func Find(dir string) (*Place, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	p := &Place{Dir: dir}
	kind, name, err := findNamespace()
	if err != nil {
		return nil, err
	}
	state, err := absolute(os.Getenv(stateDirVariable))
	if err != nil {
		return nil, err
	}
	if state != "" {
		p.Environment = []string{stateDirVariable + "=" + state}
	}
	if p.Units, err = absolute(os.Getenv(unitDirVariable)); err != nil {
		return nil, err
	}
	given := p.Units != ""
	if !given && state != "" {
		p.Units, given = filepath.Join(state, "units"), true
	}
	switch {
	case kind == another && !given:
		p.Units, p.Why = "", "this is not the host's own network namespace: units would need a directory of their own, "+unitDirVariable
		return p, nil
	case kind == another && name == "":
		p.Units, p.Why = "", "this network namespace has no name: units could not find it"
		return p, nil
	case kind == unknown && !given:
		p.Why = "no telling whether this is the host's own network namespace (/proc/1/ns/net cannot be read): name a directory for units, " + unitDirVariable
		return p, nil
	}
	p.Namespace = name
	if p.Units == "" {
		if _, err := os.Stat(systemUnits); err != nil {
			p.Why = "this host has no systemd: run `espalier boot` before its network comes up"
			return p, nil
		}
		p.Units = systemUnits
	}
	_, err = os.Stat(systemdRuns)
	p.Systemd = err == nil && p.Units == systemUnits
	if err != nil && !given {
		p.Why = "systemd does not run here: until it does, run `espalier rotate --due` from cron, and `espalier boot` before the network comes up"
	}
	return p, nil
}

// absolute is a path that means the same in every directory; "" stays.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

// namespaceKind is whether a network namespace is the initial one.
type namespaceKind int

const (
	unknown namespaceKind = iota // the first process cannot be asked, and it has no name
	initial
	another
)

// findNamespace tells what network namespace the thread is in, and the file that names it.
func findNamespace() (kind namespaceKind, name string, err error) {
	var own, first unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return unknown, "", fmt.Errorf("find out the network namespace: %w", err)
	}
	if err := unix.Stat("/proc/1/ns/net", &first); err == nil {
		if own.Ino == first.Ino && own.Dev == first.Dev {
			return initial, "", nil
		}
		kind = another
	}
	name, err = NamespaceName(&own)
	switch {
	case err != nil:
		return unknown, "", err
	case name != "":
		return another, filepath.Join(namedNamespaces, name), nil
	}
	return kind, "", nil
}

// NamespaceName is what ip-netns(8) calls a network namespace; "" if it has no name.
func NamespaceName(ns *unix.Stat_t) (string, error) {
	names, err := os.ReadDir(namedNamespaces)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	for _, n := range names {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(namedNamespaces, n.Name()), &st) == nil && st.Ino == ns.Ino && st.Dev == ns.Dev {
			return n.Name(), nil
		}
	}
	return "", nil
}

// Can reports whether this place can have units that are started, the timer among them; if not, why says so, and
// what to do instead.
func (p *Place) Can() (ok bool, why string) { return p.Why == "", p.Why }
