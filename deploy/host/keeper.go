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
// already it returns at once. Errors of single rounds go to tell; the next round tries again.
func (h *Host) Keep(ctx context.Context, tell func(error)) error {
	only, err := lockFile(filepath.Join(h.cfg.Dir, keeperName))
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock out other keepers: %w", err)
	}
	released := false
	release := func() {
		if !released {
			released = true
			only()
		}
	}
	defer release()
	ticks := time.NewTicker(Every)
	defer ticks.Stop()
	for failures := 0; ; {
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
				if over = !r.pending(); !over {
					return nil
				}
				release()
				if len(r.j.Owned) == 0 && len(r.j.Held) == 0 {
					r.clean()
				}
				return nil
			})
			if over || err != nil {
				return err
			}
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return nil
		}
	}
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
