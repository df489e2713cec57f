package device

import (
	"context"
	"fmt"
	"slices"
	"time"

	"espalier/test/bench/device/hosts"
	"espalier/test/bench/report"
)

const (
	memoryAtMost = 64 * hosts.MiB // of a device's process
	ticksAtMost  = 1              // of an idle one

	idleFor = 5 * time.Second // that idle processes are watched
	settle  = 2 * time.Second // that they are left alone before
)

// costs is what the processes needed at full load, and what they need without any. What wireguard-go
// needs is shown beside it, without a target.
func (b *bench) costs(ctx context.Context) ([]report.Result, error) {
	names := append(slices.Clone(devices), wg)
	memory, err := b.most(names, func(pid int) (float64, error) {
		n, err := hosts.PeakMemory(pid)
		return float64(n), err
	})
	if err != nil {
		return nil, err
	}
	progress("watching idle processes for %s", idleFor)
	if err := sleep(ctx, settle); err != nil {
		return nil, err
	}
	before := make(map[int]int)
	if _, err := b.most(names, func(pid int) (_ float64, err error) {
		before[pid], err = hosts.Ticks(pid)
		return 0, err
	}); err != nil {
		return nil, err
	}
	if err := sleep(ctx, idleFor); err != nil {
		return nil, err
	}
	ticks, err := b.most(names, func(pid int) (float64, error) {
		n, err := hosts.Ticks(pid)
		return float64(n - before[pid]), err
	})
	if err != nil {
		return nil, err
	}
	var results []report.Result
	for _, name := range names {
		results = append(results, limit(report.Result{
			Name: "peak memory", Impl: name, Unit: "MiB", Value: memory[name] / hosts.MiB, Peer: "at most", PeerValue: memoryAtMost / hosts.MiB,
		}))
	}
	for _, name := range names {
		results = append(results, limit(report.Result{
			Name: fmt.Sprintf("CPU time of %s, idle", idleFor), Impl: name, Unit: "ticks", Value: ticks[name], Peer: "at most", PeerValue: ticksAtMost,
		}))
	}
	return results, nil
}

// limit completes the result for what may be at most the peer's value.
func limit(r report.Result) report.Result {
	r.Ratio = r.PeerValue / max(r.Value, 1)
	if r.Impl != wg {
		r.Target = 1
	}
	r.Met = r.Ratio >= r.Target
	return r
}

// most is the greater value of both processes of each path.
func (b *bench) most(names []string, of func(pid int) (float64, error)) (map[string]float64, error) {
	most := make(map[string]float64)
	for _, name := range names {
		for _, p := range b.paths[name].processes {
			v, err := of(p.PID)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			most[name] = max(most[name], v)
		}
	}
	return most, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
