package host

import (
	"context"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"espalier/internal/usedkeys"
)

// Clock tells the time that deadlines are kept by.
type Clock interface {
	// Now is the time since the host has booted, also while it was suspended (CLOCK_BOOTTIME).
	Now() time.Duration
	// BootID tells one boot from another, and one network namespace from another in its place.
	BootID() string
	// Wall is the time of day, for people.
	Wall() time.Time
	// Sleep waits, or returns the cause for which ctx ends.
	Sleep(ctx context.Context, d time.Duration) error
}

// systemClock is the host's.
type systemClock struct{}

func (systemClock) Now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic("CLOCK_BOOTTIME: " + err.Error()) // Linux has had it since 2.6.39
	}
	return time.Duration(t.Nano())
}

// BootID of another network namespace than the host's own is that of the namespace: what is in it ends with
// it, as with a boot.
func (systemClock) BootID() string { return ThisBoot() }

// ThisBoot is what journals know this boot of the host by, or this network namespace of it.
func ThisBoot() string {
	if namespace := usedkeys.KernelScope(); namespace != usedkeys.HostScope {
		return namespace
	}
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

func (systemClock) Wall() time.Time { return time.Now() }

func (systemClock) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
