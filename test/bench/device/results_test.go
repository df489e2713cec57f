package device

import (
	"maps"
	"testing"

	"espalier/test/bench/report"
)

// measured is a bench whose paths have all got value but those named.
func measured(runs int, value float64, but map[sample][]float64) *bench {
	b := &bench{runs: runs, samples: make(map[sample][]float64), loss: make(map[sample][]float64)}
	for _, m := range measures {
		for _, p := range m.paths {
			for range runs {
				b.samples[sample{m, p}] = append(b.samples[sample{m, p}], value)
				b.loss[sample{m, p}] = append(b.loss[sample{m, p}], 0.25)
				if m.also != nil {
					b.samples[sample{m.also, p}] = append(b.samples[sample{m.also, p}], value)
				}
			}
		}
	}
	maps.Copy(b.samples, but)
	return b
}

// Whatever is compared is measured, of all runs.
func TestComparisonsAreMeasured(t *testing.T) {
	for _, r := range measured(3, 5, nil).compare() {
		if r.Ratio != 1 || r.Met != (r.Target <= 1) || r.Peer == "" || r.Impl == "" || r.Unit == "" {
			t.Errorf("got %+v", r)
		}
	}
}

func TestTheBestBarePairOfARunCounts(t *testing.T) {
	b := measured(3, 1, map[sample][]float64{
		{one, esp4}:       {8, 8, 8},
		{one, bareRaw}:    {10, 4, 2},
		{one, barePacket}: {5, 16, 4},
	})
	r := b.result(comparison{one, esp4, one, bares, 0.8})
	want := report.Result{
		Name: one.name, Impl: esp4, Unit: "Gb/s", Value: 8, Peer: barePacket, PeerValue: 10, Ratio: 0.8, Target: 0.8, Met: true,
	}
	if r != want {
		t.Errorf("got %+v, want %+v", r, want)
	}
}

func TestLessLatencyIsBetter(t *testing.T) {
	b := measured(1, 100, map[sample][]float64{{typical, udp4}: {50}, {typical, esp4}: {200}})
	for own, want := range map[string]float64{udp4: 2, esp4: 0.5} {
		r := b.result(comparison{typical, own, typical, []string{wg}, 1})
		if r.Ratio != want || r.Met != (want >= 1) {
			t.Errorf("%s: got %+v", own, r)
		}
	}
}

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		impl        string
		value, peer float64
		ratio       float64
		met         bool
	}{
		{esp4, 32, 64, 2, true}, {esp4, 64, 64, 1, true}, {esp4, 128, 64, 0.5, false},
		{esp4, 0, 1, 1, true}, {esp4, 1, 1, 1, true}, {esp4, 2, 1, 0.5, false},
		{wg, 128, 64, 0.5, true},
	} {
		r := limit(report.Result{Impl: c.impl, Value: c.value, PeerValue: c.peer})
		if r.Ratio != c.ratio || r.Met != c.met {
			t.Errorf("%s, %v of %v: got %+v", c.impl, c.value, c.peer, r)
		}
	}
}
