package cli

import (
	"context"

	"espalier/deploy/boot"
	"espalier/deploy/host"
)

// ownedAtBoot tells what the journal knows that the guard's file does not.
func ownedAtBoot(dir string) func(damaged bool) ([]boot.Pair, error) {
	return func(bool) ([]boot.Pair, error) { return host.BootPairs(dir) }
}

// settleBoot ends what was begun before the host went down.
func settleBoot(ctx context.Context, dir string) error {
	h, err := tunnelHostAt(dir)
	if err != nil {
		return err
	}
	_, err = h.State(ctx)
	return err
}
