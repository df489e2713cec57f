// Package aesgcm compares package espalier/aesgcm with intel-ipsec-mb and crypto/cipher.
//
// A sample is a millisecond of batches of 32 packets on one CPU. Samples of all contestants
// alternate, so that each has the same weather; of a run's samples the fastest counts, and of
// the runs the median.
package aesgcm

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	ours "espalier/aesgcm"
	"espalier/test/bench/contest"
	"espalier/test/bench/ipsecmb"
	"espalier/test/bench/report"
)

// what is measured at a time.
type what struct {
	open    bool
	keyBits int
	size    int
}

func (w what) String() string {
	if w.open {
		return fmt.Sprintf("AES-%d-GCM open", w.keyBits)
	}
	return fmt.Sprintf("AES-%d-GCM seal", w.keyBits)
}

// target is the ratio to intel-ipsec-mb that is aimed at: short packets gain by batching.
func (w what) target() float64 {
	if w.size <= 256 {
		return 1.3
	}
	return 1
}

// Run measures every implementation that this CPU has.
func Run(o report.Options) ([]report.Result, error) {
	unpin, err := contest.Pin()
	if err != nil {
		return nil, err
	}
	defer unpin()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	peer, err := ipsecmb.Start()
	if err != nil {
		return nil, err
	}
	defer peer.Close()

	own, err := implementations()
	if err != nil {
		return nil, err
	}
	samples := 20
	if o.Quick {
		samples = 4
	}
	var results []report.Result
	for _, keyBits := range []int{128, 256} {
		for _, open := range []bool{false, true} {
			for _, size := range []int{64, 256, 576, 1408, 8960} {
				w := what{open: open, keyBits: keyBits, size: size}
				r, err := measure(w, own, peer, o.Runs, samples)
				if err != nil {
					return nil, err
				}
				results = append(results, r...)
			}
		}
	}
	return results, nil
}

// implementations of ours that are not the standard library's.
func implementations() ([]string, error) {
	var names []string
	for _, name := range []string{"vaes512", "vaes256"} {
		_, err := newAEAD(name, 128)
		if errors.Is(err, errors.ErrUnsupported) {
			continue
		}
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, errors.New("this CPU has no VAES: there is nothing of ours to measure")
	}
	return names, nil
}

func newAEAD(name string, keyBits int) (ours.AEAD, error) {
	defer os.Setenv(ours.EnvImplementation, os.Getenv(ours.EnvImplementation))
	os.Setenv(ours.EnvImplementation, name)
	return ours.New(make([]byte, keyBits/8), 16)
}

// measure compares all implementations with both peers. The library's faster interface
// counts.
func measure(w what, own []string, peer *ipsecmb.Peer, runs, samples int) ([]report.Result, error) {
	var all []*contest.Contestant
	for _, api := range []string{"burst", "direct"} {
		all = append(all, &contest.Contestant{Name: peer.Name, Time: func(packets int) (float64, error) {
			return peer.Sample(api, w.open, w.keyBits, w.size, packets)
		}})
	}
	std, err := newStandard(w)
	if err != nil {
		return nil, err
	}
	all = append(all, &contest.Contestant{Name: "crypto/cipher", Time: std.time})
	for _, name := range own {
		b, err := newBatches(name, w)
		if err != nil {
			return nil, err
		}
		all = append(all, &contest.Contestant{Name: name, Time: b.time})
	}

	values, ratios := map[string][]float64{}, map[[2]string][]float64{}
	peers := []string{peer.Name, "crypto/cipher"}
	for range runs {
		best, err := contest.Fastest(all, samples, time.Millisecond)
		if err != nil {
			return nil, fmt.Errorf("%s, %d bytes: %w", w, w.size, err)
		}
		for name, ns := range best {
			values[name] = append(values[name], ns)
		}
		for _, name := range own {
			for _, p := range peers {
				ratios[[2]string{name, p}] = append(ratios[[2]string{name, p}], best[p]/best[name])
			}
		}
	}
	var results []report.Result
	for _, name := range own {
		for _, p := range peers {
			ratio := report.Median(ratios[[2]string{name, p}])
			results = append(results, report.Result{
				Name: w.String(), Impl: name, Size: w.size, Unit: "ns/packet", Value: report.Median(values[name]),
				Peer: p, PeerValue: report.Median(values[p]),
				Ratio: ratio, Target: w.target(), Met: ratio >= w.target(),
			})
		}
	}
	return results, nil
}
