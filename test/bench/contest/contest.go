// Package contest times contestants in turns, so that each has the same weather: a machine that
// others use, or that changes its clock, is as good or bad to all of them.
package contest

import (
	"fmt"
	"math"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Contestant does something to packets.
type Contestant struct {
	Name string

	// Time does it to so many packets, at least one, and returns nanoseconds for each.
	Time func(packets int) (float64, error)

	rough float64 // nanoseconds for each packet, to find how many make a sample
}

// Fastest takes so many samples, of about this length, of every contestant and returns the fastest of
// each by name.
func Fastest(all []*Contestant, samples int, length time.Duration) (map[string]float64, error) {
	best := map[string]float64{}
	for i := range samples + 1 {
		for _, c := range all {
			packets := 32 * 8
			if c.rough > 0 {
				packets = max(32, int(float64(length)/c.rough))
			}
			ns, err := c.Time(packets)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.Name, err)
			}
			if ns <= 0 || math.IsInf(ns, 0) {
				return nil, fmt.Errorf("%s took %v ns", c.Name, ns)
			}
			c.rough = ns
			if i == 0 {
				continue
			}
			if b, ok := best[c.Name]; !ok || ns < b {
				best[c.Name] = ns
			}
		}
	}
	return best, nil
}

// Pin keeps the calling goroutine, and the processes it starts, on one CPU until unpin is called.
func Pin() (unpin func(), err error) {
	runtime.LockOSThread()
	var before, set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("CPU affinity: %w", err)
	}
	set.Set(last(&before))
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("CPU affinity: %w", err)
	}
	return func() {
		unix.SchedSetaffinity(0, &before)
		runtime.UnlockOSThread()
	}, nil
}

// CPU is the one that Pin would choose.
func CPU() (int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, fmt.Errorf("CPU affinity: %w", err)
	}
	return last(&set), nil
}

// last CPU of a set: the first has most of the interrupts.
func last(set *unix.CPUSet) int {
	for i := len(set)*64 - 1; i > 0; i-- {
		if set.IsSet(i) {
			return i
		}
	}
	return 0
}
