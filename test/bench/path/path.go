// Package path measures the whole packet path of the userspace device in memory, on one CPU: outbound
// from TUN frames to sealed packets, inbound from sealed packets to TUN frames, with all that is
// between but I/O.
//
// The peer is DPDK's ipsec-secgw, between null devices; where it cannot be built, figures that were
// taken elsewhere. Both use one SA of AES-GCM-128 in tunnel mode and look up the SPD for each packet.
// Samples alternate, and count the CPU time of one thread; of a run's samples the fastest counts, of
// the runs the median.
package path

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"espalier/test/bench/contest"
	"espalier/test/bench/report"
	"espalier/test/bench/secgw"
)

const (
	few, many = 10, 100_000 // SAs

	sample = 25 * time.Millisecond

	minRatio  = 1.5     // to the gateway
	hotAtMost = 1 / 1.2 // of the rate with few SAs
)

var sizes = []int{64, 1400} // of an IP packet in bytes

// Run measures both directions at both sizes.
func Run(o report.Options) ([]report.Result, error) {
	b := &bench{runs: o.Runs, samples: 20, many: many}
	if o.Quick {
		b.samples, b.many = 4, 1000
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var results []report.Result
	for _, direction := range []string{"outbound", "inbound"} {
		r, err := b.direction(direction)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", direction, err)
		}
		results = append(results, r...)
		runtime.GC()
	}
	return results, nil
}

type bench struct {
	runs, samples, many int
}

// direction measures one direction, with few and with many SAs.
func (b *bench) direction(name string) ([]report.Result, error) {
	small, err := newDevice(name, few)
	if err != nil {
		return nil, err
	}
	defer small.close()
	large, err := newDevice(name, b.many)
	if err != nil {
		return nil, err
	}
	defer large.close()
	runtime.GC()

	var results []report.Result
	for _, size := range sizes {
		r, err := b.size(name, size, small, large)
		if err != nil {
			return nil, fmt.Errorf("%d bytes: %w", size, err)
		}
		results = append(results, r...)
	}
	return results, nil
}

// size measures packets of one size.
func (b *bench) size(direction string, size int, small, large *device) ([]report.Result, error) {
	ofFew, err := small.traffic(size)
	if err != nil {
		return nil, err
	}
	ofMany, err := large.traffic(size)
	if err != nil {
		return nil, err
	}
	all := []*contest.Contestant{{Name: "few", Time: ofFew}, {Name: "many", Time: ofMany}}
	peers, end, err := gateways(size)
	if err != nil {
		return nil, err
	}
	defer end()
	unpin, err := contest.Pin()
	if err != nil {
		return nil, err
	}
	defer unpin()
	all = append(all, peers...)

	var own, peer, peerRatios, hot, hotRatios []float64
	fastest := ""
	for range b.runs {
		best, err := contest.Fastest(all, b.samples, sample)
		if err != nil {
			return nil, err
		}
		fastest = ""
		for _, p := range peers {
			if fastest == "" || best[p.Name] < best[fastest] {
				fastest = p.Name
			}
		}
		own, hot = append(own, 1e3/best["few"]), append(hot, 1e3/best["many"])
		hotRatios = append(hotRatios, best["few"]/best["many"])
		peer, peerRatios = append(peer, 1e3/best[fastest]), append(peerRatios, best[fastest]/best["few"])
	}
	name := "whole path, " + direction
	return []report.Result{
		result(name, "device", size, own, fastest, peer, peerRatios, minRatio),
		result(fmt.Sprintf("%s, one hot SA of %d", name, b.many), "device", size, hot, fmt.Sprintf("%d SAs", few), own, hotRatios, hotAtMost),
	}, nil
}

func result(name, impl string, size int, own []float64, peer string, peers, ratios []float64, target float64) report.Result {
	ratio := report.Median(ratios)
	return report.Result{
		Name: name, Impl: impl, Size: size, Unit: "Mpps", Value: report.Median(own),
		Peer: peer, PeerValue: report.Median(peers), Ratio: ratio, Target: target, Met: ratio >= target,
	}
}

// elsewhere are figures of ipsec-secgw in nanoseconds, for machines on which it cannot be built: of
// one core of Zen 5, by size.
var elsewhere = map[int]float64{64: 1e3 / 5.7, 1400: 1e3 / 3.6}

// gateways are the peers: each mode of ipsec-secgw that works here. They use the CPU to which the
// caller is going to keep.
func gateways(size int) (peers []*contest.Contestant, end func(), err error) {
	cpu, err := contest.CPU()
	if err != nil {
		return nil, nil, err
	}
	var started []*secgw.Gateway
	end = func() {
		for _, g := range started {
			g.Close()
		}
	}
	for _, mode := range secgw.Modes {
		g, err := secgw.Start(mode, cpu, packet(flow(0), size))
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench path: %v\n", err)
			continue
		}
		started = append(started, g)
		peers = append(peers, &contest.Contestant{Name: g.Name, Time: func(int) (float64, error) { return g.Sample(sample) }})
	}
	if len(peers) == 0 {
		peers = append(peers, &contest.Contestant{
			Name: "ipsec-secgw (not the same run)",
			Time: func(int) (float64, error) { return elsewhere[size], nil },
		})
	}
	return peers, end, nil
}
