package cli

import (
	"context"

	"espalier/deploy/boot"
	"espalier/deploy/host"
)

// ownedAtBoot tells what the journal knows that the guard's file does not. While a change goes on, the
// file alone says what is to be guarded: `espalier boot` also runs when nftables is loaded anew.
func ownedAtBoot(dir string) func(damaged bool) ([]boot.Pair, error) {
	return func(damaged bool) ([]boot.Pair, error) {
		j, err := host.ReadJournal(dir)
		if err != nil {
			return nil, err
		}
		if !damaged && j.Change != nil && j.Change.BootID == host.ThisBoot() {
			return nil, nil
		}
		return host.BootPairs(dir)
	}
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
