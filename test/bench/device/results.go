package device

import (
	"fmt"

	"espalier/test/bench/report"
)

// comparison of a measurement of a path with the best of its peers in the same run.
type comparison struct {
	measure *measure
	own     string
	against *measure
	peers   []string
	target  float64
}

var comparisons = []comparison{
	{one, udp4, one, []string{wg}, 2},
	{one, udp4, one, []string{cable}, 0.28},
	{one, esp4, one, []string{wg}, 1},
	{one, esp4, one, bares, 0.8},
	{one, udp6, one, []string{udp4}, 0.9},
	{one, esp6, one, []string{esp4}, 0.9},
	{four, udp4, one, []string{udp4}, 1},
	{four, esp4, one, []string{esp4}, 1},
	{both, udp4, both, []string{wg}, 2},
	{both, esp4, both, []string{wg}, 1},
	{large, udp4, large, []string{wg}, 1},
	{large, esp4, large, []string{wg}, 1},
	{small, udp4, small, []string{wg}, 1},
	{small, esp4, small, []string{wg}, 1},
	{typical, udp4, typical, []string{wg}, 1},
	{typical, esp4, typical, []string{wg}, 1},
	{late, udp4, late, []string{wg}, 1},
	{late, esp4, late, []string{wg}, 1},
}

// compare makes results of what was measured.
func (b *bench) compare() []report.Result {
	var results []report.Result
	for _, c := range comparisons {
		results = append(results, b.result(c))
	}
	return results
}

func (b *bench) result(c comparison) report.Result {
	own := b.samples[sample{c.measure, c.own}]
	var peer, ratios []float64
	best := ""
	for run := range own {
		best = c.peers[0]
		for _, p := range c.peers[1:] {
			if c.against.better(b.samples[sample{c.against, p}][run], b.samples[sample{c.against, best}][run]) {
				best = p
			}
		}
		v := b.samples[sample{c.against, best}][run]
		peer = append(peer, v)
		if c.measure.less {
			ratios = append(ratios, v/own[run])
		} else {
			ratios = append(ratios, own[run]/v)
		}
	}
	ratio := report.Median(ratios)
	r := report.Result{
		Name: c.measure.name, Impl: c.own, Size: c.measure.size, Unit: c.measure.unit, Value: report.Median(own),
		Peer: best, PeerValue: report.Median(peer), Ratio: ratio, Target: c.target, Met: ratio >= c.target,
	}
	if c.against != c.measure {
		r.Peer += ", " + c.against.name
	}
	if c.measure.size > 0 {
		r.Note = fmt.Sprintf("lost %.1f %%, peer %.1f %%",
			100*report.Median(b.loss[sample{c.measure, c.own}]), 100*report.Median(b.loss[sample{c.against, best}]))
	}
	return r
}

func (m *measure) better(a, b float64) bool {
	if m.less {
		return a < b
	}
	return a > b
}
