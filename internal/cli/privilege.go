package cli

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// keepSecrets sees to it that the memory of this process, with the keys in it, gets into no
// core dump and cannot be read by other processes of the user.
func keepSecrets() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("turn core dumps off: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process undumpable: %w", err)
	}
	return nil
}

// dropPrivileges keeps of root's capabilities the two that a running device needs: routes, guard
// and sysctls (CAP_NET_ADMIN), raw sockets (CAP_NET_RAW). No child can get more. All threads of the process are changed.
func dropPrivileges() error {
	if err := limitBounds(cap.NET_ADMIN, cap.NET_RAW); err != nil {
		return fmt.Errorf("drop capabilities from the bounding set: %w", err)
	}
	set := cap.NewSet()
	if err := set.SetFlag(cap.Permitted, true, cap.NET_ADMIN, cap.NET_RAW); err != nil {
		return err
	}
	if err := set.SetFlag(cap.Effective, true, cap.NET_ADMIN, cap.NET_RAW); err != nil {
		return err
	}
	if err := set.SetProc(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if _, err := cap.Prctlw(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("rule new privileges out: %w", err)
	}
	return nil
}

// limitBounds leaves only some capabilities in the bounding set.
func limitBounds(kept ...cap.Value) error {
	var drop []cap.Value
	for v := range cap.MaxBits() {
		present, err := cap.GetBound(v)
		if err != nil {
			return err
		}
		if present && !slices.Contains(kept, v) {
			drop = append(drop, v)
		}
	}
	return cap.DropBound(drop...)
}

// needRoot explains what a command wants root for.
func needRoot(what string) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fmt.Errorf("%s: run it as root (sudo)", what)
}
