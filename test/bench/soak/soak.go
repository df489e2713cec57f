// Package soak keeps the userspace device at full load for a long time while its SAs are replaced every
// few seconds, and looks for what that costs: packets, first of all.
//
// For half of the time each, ESP goes in UDP and as protocol 50, in transport mode between two hosts of
// package hosts; before that comes a control run of half that length without any rekeying. A witness at
// the receiving host's end of the cable follows the sequence numbers of every SPI, both ways.
package soak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"espalier/test/bench/device/hosts"
	"espalier/test/bench/device/traffic"
	"espalier/test/bench/report"
	"espalier/test/bench/sequence"
)

const (
	usual = 10 * time.Minute
	quick = 30 * time.Second
	least = 16 * time.Second

	interval = 10 * time.Second // of rekeying, and of what is printed
)

// Run soaks until it is done or interrupted. It takes root and iperf3.
func Run(o report.Options) ([]report.Result, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	duration := o.Duration
	switch {
	case duration == 0 && o.Quick:
		duration = quick
	case duration == 0:
		duration = usual
	case duration < least:
		return nil, fmt.Errorf("--duration %s: a soak takes %s at least", duration, least)
	}
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
	progress("building espalier")
	espalier, err := hosts.Build(ctx, dir, "espalier/cmd/espalier")
	if err != nil {
		return nil, err
	}
	var results []report.Result
	for _, x := range []struct {
		name string
		udp  bool
	}{{"ESP in UDP", true}, {"protocol 50", false}} {
		s := &soak{name: x.name, length: duration / 2, every: min(interval, duration/8)}
		f, err := s.run(ctx, filepath.Join(dir, x.name), espalier, x.udp)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.name, err)
		}
		results = append(results, f.results(x.name)...)
	}
	return results, nil
}

// soak is one encapsulation's.
type soak struct {
	name   string
	length time.Duration // of the load
	every  time.Duration // there is a rekeying

	tunnel  *tunnel
	devices []*hosts.Process
	witness *sequence.Witness
}

// findings are what came of it.
type findings struct {
	control, load traffic.Stream
	witness       sequence.Testimony
	silent        int               // SPIs without any packet
	cable         uint64            // packets that the cable lost
	drops         map[string]uint64 // of both devices, by reason
	memory        [2][]uint64       // of both devices over time, in bytes
}

func (s *soak) run(ctx context.Context, dir, espalier string, udp bool) (f findings, err error) {
	progress("setting up %s", s.name)
	pair, err := hosts.New(dir)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, pair.Close()) }()
	if s.devices, err = pair.StartDevices(ctx, espalier); err != nil {
		return f, err
	}
	s.tunnel = &tunnel{Pair: pair, udp: udp, grace: s.every / 5}
	err = pair.B.Do(func() (err error) {
		s.witness, err = sequence.Watch(hosts.Device)
		return err
	})
	if err != nil {
		return f, err
	}
	f, err = s.load(ctx, udp)
	seen, stopErr := s.witness.Stop()
	f.witness = seen
	f.silent = 2*int(s.tunnel.generation) - seen.SPIs
	if err = errors.Join(err, stopErr); err == nil && seen.Seen == 0 {
		err = errors.New("the witness has seen no ESP")
	}
	return f, err
}
