package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
)

// self is the file of these tests, which also are the program: see TestMain.
const self = "/init"

// Places by which what stands for ssh finds hosts: network namespaces by name, as `ip netns` has them, and
// directories of state.
const (
	namespaces = "/run/netns"
	states     = "/run/states"
)

// reachable gives the hosts names by which ssh gets there, and puts that ssh into PATH, with espalier
// installed.
func reachable(t *testing.T, hosts ...*lab.Host) {
	t.Helper()
	bin := t.TempDir()
	err := errors.Join(os.Symlink(self, filepath.Join(bin, "ssh")), os.Symlink(self, filepath.Join(bin, "espalier")),
		os.MkdirAll(namespaces, 0o755), os.MkdirAll(states, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for _, h := range hosts {
		name, state := filepath.Join(namespaces, h.Name), filepath.Join(states, h.Name)
		err := errors.Join(os.Mkdir(stateOf(h), 0o700), os.Symlink(stateOf(h), state), os.WriteFile(name, nil, 0o444))
		if err == nil {
			err = h.Do(func() error { return unix.Mount("/proc/thread-self/ns/net", name, "", unix.MS_BIND, "") })
		}
		t.Cleanup(func() {
			if err := errors.Join(unix.Unmount(name, 0), os.Remove(name), os.Remove(state)); err != nil {
				t.Error(err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// stateOf is where programs on a host keep their state: see lab.Host.Command.
func stateOf(h *lab.Host) string { return filepath.Join(h.Dir, "state") }

// actAsSSH runs the command that ssh was given, by the shell, on one of the hosts that are reachable, as root
// there. Nothing is encrypted and nobody asked for a key: OpenSSH's part is not for these tests. It only returns
// if it fails.
func actAsSSH(args []string) error {
	end := slices.Index(args, "--")
	if end < 0 || len(args) != end+3 {
		return fmt.Errorf("want -- DESTINATION COMMAND at the end of %q", args)
	}
	_, name, _ := strings.Cut(args[end+1], "@")
	runtime.LockOSThread() // which is the one that goes on as the shell
	ns, err := os.Open(filepath.Join(namespaces, name))
	if err == nil {
		err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
	}
	if err != nil {
		return err
	}
	return syscall.Exec("/bin/sh", []string{"sh", "-c", args[end+2]}, []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/root", "ESPALIER_STATE_DIR=" + filepath.Join(states, name),
	})
}
