// Package device measures the real thing: two processes `espalier dataplane` on two hosts joined by a
// cable, and their peers on hosts of their own: wireguard-go, the cable itself, and a program that
// carries packets by protocol 50 and does nothing else to them.
//
// All of them are up all the time, and take turns: in each run every measurement is made of all that it
// compares, of some several times. Of the values, and of the ratios in each turn, the medians count.
package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"espalier/test/bench/device/hosts"
	"espalier/test/bench/device/traffic"
	"espalier/test/bench/device/wireguard"
	"espalier/test/bench/report"
)

// Run measures until it is done or interrupted. It takes root and iperf3.
func Run(o report.Options) (_ []report.Result, err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces take root")
	}
	if err := traffic.Tools(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "espalier-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	programs, err := build(ctx, dir)
	if err != nil {
		return nil, err
	}
	b := &bench{seconds: 4, runs: o.Runs, samples: make(map[sample][]float64), loss: make(map[sample][]float64)}
	if o.Quick {
		b.seconds = 1
	}
	defer wireguard.Clean()
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.open(ctx, dir, programs); err != nil {
		return nil, err
	}
	for run := range b.runs {
		if err := b.run(ctx, run); err != nil {
			return nil, fmt.Errorf("run %d: %w", run+1, err)
		}
	}
	costs, err := b.costs(ctx)
	if err != nil {
		return nil, err
	}
	return append(b.compare(), costs...), nil
}

// programs are the paths of what is measured.
type programs struct{ espalier, bare, wireguard string }

func build(ctx context.Context, dir string) (p programs, err error) {
	progress("building the programs")
	if p.espalier, err = hosts.Build(ctx, dir, "espalier/cmd/espalier"); err != nil {
		return p, err
	}
	if p.bare, err = hosts.Build(ctx, dir, "espalier/test/bench/device/bare"); err != nil {
		return p, err
	}
	p.wireguard, err = wireguard.Build(ctx)
	return p, err
}

// bench is what has been set up and measured.
type bench struct {
	seconds, runs int
	paths         map[string]*path
	samples, loss map[sample][]float64 // by run and turn
}

// sample is a measurement of a path.
type sample struct {
	measure *measure
	path    string
}

// run makes every measurement once, or as often as its turns say.
func (b *bench) run(ctx context.Context, run int) error {
	for _, m := range measures {
		for range max(m.turns, 1) {
			if err := b.turn(ctx, run, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// turn measures each path once.
func (b *bench) turn(ctx context.Context, run int, m *measure) error {
	for _, name := range m.paths {
		v, err := m.take(ctx, b.paths[name], b.seconds)
		if err := errors.Join(err, b.paths[name].alive()); err != nil {
			return fmt.Errorf("%s: %s: %w", m.name, name, err)
		}
		key := sample{m, name}
		b.samples[key] = append(b.samples[key], v.value)
		b.loss[key] = append(b.loss[key], v.loss)
		if m.also != nil {
			key.measure = m.also
			b.samples[key] = append(b.samples[key], v.also)
		}
		progress("run %d of %d: %s: %s: %.4g %s", run+1, b.runs, m.name, name, v.value, m.unit)
	}
	return nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench device: "+format+"\n", args...)
}
