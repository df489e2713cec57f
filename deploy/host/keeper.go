package host

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Keep is the keeper of a network namespace: it calls Tick until nothing is pending. If one runs there
// already it returns at once, and so it does when everything is forgotten. Errors of single rounds go to
// tell; the next round tries again.
func (h *Host) Keep(ctx context.Context, tell func(error)) error {
	path := filepath.Join(h.cfg.Dir, keeperName)
	only, err := lockFile(path)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock out other keepers: %w", err)
	}
	defer only.Close() // which may be for the second time
	removed, stop := watchRemoval(path)
	defer stop()
	ticks := time.NewTicker(Every)
	defer ticks.Stop()
	for failures := 0; locks(only, path); {
		pending, err := h.Tick(ctx)
		if err != nil {
			tell(err)
		}
		if failures++; err == nil {
			failures = 0
		}
		if !pending && (err == nil || failures > unreadable) {
			// Who begins a change after this round finds no keeper; who began it before is seen.
			over := false
			err := h.under(ctx, func(r *round) error {
				if over = !r.pending(); over {
					only.Close()
				}
				return nil
			})
			if over || err != nil {
				return err
			}
		}
		select {
		case <-ticks.C:
		case <-removed:
			removed = nil
		case <-ctx.Done():
			return nil
		}
	}
	return nil // whoever begins another change starts another keeper
}

// unreadable is after how many failures in a row, with nothing known to be pending, a keeper gives up.
const unreadable = 60

// StartKeeper starts `espalier tunnel-keeper` of this very executable, even if its file is gone by now,
// as a process of its own that nothing ends when this one ends.
func StartKeeper() error {
	unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // what this process was given is not for the keeper
	cmd := exec.Command("/proc/self/exe", KeeperCommand)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	go cmd.Wait() // one that finds another at work ends at once
	return nil
}

// KeeperCommand is what people have no use for.
const KeeperCommand = "tunnel-keeper"
