// Package esp compares package espalier/esp with the bare AES-GCM it is made of: batches of 32
// packets in memory, from payload to sealed ESP packet and back, with all of RFC 4303 between.
//
// The bare rate is that of espalier/aesgcm for the same texts in the same memory, in the same
// run. Samples alternate; of a run's samples the fastest counts, of the runs the median.
package esp

import (
	"fmt"
	"runtime/debug"
	"time"

	"espalier/test/bench/contest"
	"espalier/test/bench/report"
)

// what is measured at a time.
type what struct {
	open    bool
	keyBits int
	esn     bool
	size    int // of the payload, in bytes
}

func (w what) String() string {
	name, numbers := "encapsulate", ""
	if w.open {
		name = "decapsulate"
	}
	if w.esn {
		numbers = ", ESN"
	}
	return fmt.Sprintf("ESP %s, AES-%d%s", name, w.keyBits, numbers)
}

const (
	minRatio = 0.85 // to the bare rate, at 1400 bytes and more
	minMpps  = 12   // at 64 bytes
)

// Run measures both directions.
func Run(o report.Options) ([]report.Result, error) {
	unpin, err := contest.Pin()
	if err != nil {
		return nil, err
	}
	defer unpin()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	samples := 40
	if o.Quick {
		samples = 4
	}
	var results []report.Result
	for _, keyBits := range []int{128, 256} {
		for _, open := range []bool{false, true} {
			for _, esn := range []bool{false, true} {
				for _, size := range []int{64, 256, 576, 1400, 8960} {
					r, err := measure(what{open, keyBits, esn, size}, o.Runs, samples)
					if err != nil {
						return nil, err
					}
					results = append(results, r...)
				}
			}
		}
	}
	return results, nil
}

// measure compares with the bare rate, and at 64 bytes with the rate that is aimed at.
func measure(w what, runs, samples int) ([]report.Result, error) {
	p, err := newPackets(w)
	if err != nil {
		return nil, err
	}
	all := []*contest.Contestant{{Name: "esp", Time: p.timeESP}, {Name: "bare", Time: p.timeBare}}
	var own, bare, ratios []float64
	for range runs {
		best, err := contest.Fastest(all, samples, time.Millisecond)
		if err != nil {
			return nil, fmt.Errorf("%s, %d bytes: %w", w, w.size, err)
		}
		own, bare = append(own, best["esp"]), append(bare, best["bare"])
		ratios = append(ratios, best["bare"]/best["esp"])
	}
	ratio := report.Median(ratios)
	r := report.Result{
		Name: w.String(), Impl: p.aead.Name(), Size: w.size, Unit: "ns/packet", Value: report.Median(own),
		Peer: "bare AES-GCM", PeerValue: report.Median(bare), Ratio: ratio,
	}
	if w.size >= 1400 {
		r.Target = minRatio
	}
	r.Met = r.Ratio >= r.Target
	if w.size > 64 {
		return []report.Result{r}, nil
	}
	mpps := 1e3 / r.Value
	rate := report.Result{
		Name: r.Name, Impl: r.Impl, Size: w.size, Unit: "Mpps", Value: mpps,
		Peer: "what is aimed at", PeerValue: minMpps, Ratio: mpps / minMpps, Target: 1, Met: mpps >= minMpps,
	}
	return []report.Result{r, rate}, nil
}
