package device

import (
	"context"
	"time"

	"espalier/test/bench/device/traffic"
)

// measure is something that is measured of several paths.
type measure struct {
	name  string
	size  int // of a packet in bytes, 0 if it is as it comes
	unit  string
	less  bool // is better
	turns int  // in each run; 0 for one
	paths []string
	take  func(ctx context.Context, p *path, seconds int) (value, error)
	also  *measure // is taken together with this one
}

// value is what was measured, with the share of packets that were lost, where that is known, and the
// value of the measure that was taken together with this one.
type value struct{ value, loss, also float64 }

var (
	one     = &measure{name: "TCP, one stream", unit: "Gb/s", paths: append(append([]string{cable, wg}, devices...), bares...), take: tcp(1, false)}
	four    = &measure{name: "TCP, four streams", unit: "Gb/s", paths: []string{udp4, esp4}, take: tcp(4, false)}
	both    = &measure{name: "TCP, both directions", unit: "Gb/s", paths: []string{wg, udp4, esp4}, take: tcp(1, true)}
	large   = &measure{name: "UDP datagrams", size: 1400, unit: "k/s", paths: []string{wg, udp4, esp4}, take: udp(1400)}
	small   = &measure{name: "UDP datagrams", size: 64, unit: "k/s", paths: []string{wg, udp4, esp4}, take: udp(64)}
	late    = &measure{name: "idle latency, 99th percentile", unit: "µs", less: true}
	typical = &measure{name: "idle latency, median", unit: "µs", less: true, turns: 5, paths: []string{wg, udp4, esp4}, take: latency, also: late}

	measures = []*measure{one, four, both, large, small, typical}
)

func tcp(streams int, both bool) func(context.Context, *path, int) (value, error) {
	return func(ctx context.Context, p *path, seconds int) (value, error) {
		s, err := traffic.TCP(ctx, p.A, p.B, p.to, seconds, streams, both)
		return value{value: s.Rate / 1e9}, err
	}
}

func udp(size int) func(context.Context, *path, int) (value, error) {
	return func(ctx context.Context, p *path, seconds int) (value, error) {
		d, err := traffic.UDP(ctx, p.A, p.B, p.to, seconds, size)
		return value{value: d.PerSecond / 1e3, loss: d.Loss}, err
	}
}

func latency(ctx context.Context, p *path, _ int) (value, error) {
	const pings = 300
	trips, err := traffic.Ping(ctx, p.A, p.to, pings)
	if err != nil {
		return value{}, err
	}
	micros := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	return value{value: micros(traffic.Percentile(trips, 0.5)), also: micros(traffic.Percentile(trips, 0.99))}, nil
}
