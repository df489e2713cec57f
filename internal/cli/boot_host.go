package cli

import (
	"context"
	"os"
	"path/filepath"

	"espalier/deploy/boot"
)

// tunnelDir is where the state of this network namespace's tunnels is.
func tunnelDir(state string) (string, error) {
	here, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		return "", err
	}
	if first, err := os.Stat("/proc/1/ns/net"); err == nil && !os.SameFile(here, first) {
		name, err := socketDir()
		return filepath.Join(state, "tunnels-"+filepath.Base(name)), err
	}
	return filepath.Join(state, "tunnels"), nil
}

// ownedAtBoot tells what the journal knows that the guard's file does not.
func ownedAtBoot(dir string) func(damaged bool) ([]boot.Pair, error) { return nil }

// settleBoot ends what was begun before the host went down.
func settleBoot(ctx context.Context, dir string) error { return nil }
