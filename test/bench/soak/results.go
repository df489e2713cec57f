package soak

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"espalier/test/bench/device/hosts"
	"espalier/test/bench/report"
)

// results are what is wanted of a soak: nothing lost, nothing grown.
func (f *findings) results(impl string) []report.Result {
	w := f.witness
	results := []report.Result{
		none("sequence numbers missing", "packets", w.Missing, ""),
		none("sequence numbers out of order or again", "packets", w.Late+w.Again, ""),
		none("SAs by which nothing came", "SAs", uint64(max(f.silent, 0)), ""),
		none("packets the witness could not read", "packets", w.Unread, ""),
		none("packets the witness lost", "packets", w.Lost, "what is missing may be missing to the witness alone"),
		none("packets the cable lost", "packets", f.cable, "before the witness: the receiving host's backlog was full"),
		none("drops of both devices", "packets", total(f.drops), words(f.drops)),
		retransmits(f.control.Retransmits, f.load.Retransmits),
	}
	results[0].Note = fmt.Sprintf("of %d packets under %d SPIs", w.Seen, w.SPIs)
	for i, host := range []string{"sending", "receiving"} {
		results = append(results, growth(host, f.memory[i]))
	}
	results = append(results, report.Result{
		Name: "TCP, one stream", Unit: "Gb/s", Value: f.load.Rate / 1e9, Peer: "without rekeying",
		PeerValue: f.control.Rate / 1e9, Ratio: f.load.Rate / f.control.Rate, Met: true,
	})
	for i := range results {
		results[i].Impl = impl
	}
	return results
}

// none is the result for what must not occur, with a note for when it has.
func none(name, unit string, n uint64, note string) report.Result {
	r := report.Result{Name: name, Unit: unit, Value: float64(n), Peer: "none", Ratio: 1, Target: 1, Met: true}
	if n > 0 {
		r.Ratio, r.Met, r.Note = 0, false, note
	}
	return r
}

// retransmits compares what TCP sent again in each second. What comes without rekeying comes in bursts, so
// the mean may exceed that of the control run by three standard errors of such seconds, which vary by 1
// at least: TCP sends again what is only late. How much the others vary does not count: what rekeying
// costs would come in bursts, too.
func retransmits(without, with []int) report.Result {
	quiet, deviation := spread(without)
	mean, _ := spread(with)
	allowed := quiet
	if len(without) > 0 && len(with) > 0 {
		allowed += 3 * max(deviation, 1) * math.Sqrt(1/float64(len(without))+1/float64(len(with)))
	}
	return atMost(report.Result{
		Name: "retransmissions", Unit: "a second", Value: mean, Peer: "without rekeying", PeerValue: quiet,
	}, allowed)
}

// spread is the mean and the standard deviation, which of fewer than two numbers is 0.
func spread(all []int) (mean, deviation float64) {
	n := float64(len(all))
	for _, v := range all {
		mean += float64(v) / n
	}
	if len(all) < 2 {
		return mean, 0
	}
	squares := 0.0
	for _, v := range all {
		squares += (float64(v) - mean) * (float64(v) - mean)
	}
	return mean, math.Sqrt(squares / (n - 1))
}

// fills is how many seconds a device may take to have touched all of its buffers.
const fills = 30

// growth compares the memory in the last quarter of the time, which is told of every second, with that in
// the second quarter. If the first one is too short for the buffers to fill, there is no target.
func growth(host string, memory []uint64) report.Result {
	early, late := quarter(memory, 1), quarter(memory, 3)
	const some = 1 // MiB
	r := atMost(report.Result{
		Name: "memory, " + host + " host", Unit: "MiB", Value: late, Peer: "second quarter", PeerValue: early,
	}, early*1.02+some)
	if len(memory) < 4*fills {
		r.Target, r.Met, r.Note = 0, true, "too short to tell"
	}
	return r
}

// quarter is the median of one of four quarters, from 0, in MiB; 0 if there is nothing in it.
func quarter(memory []uint64, i int) float64 {
	part := memory[len(memory)*i/4 : len(memory)*(i+1)/4]
	if len(part) == 0 {
		return 0
	}
	return float64(report.Median(part)) / hosts.MiB
}

// atMost completes the result for what is not to exceed a limit that allows for chance.
func atMost(r report.Result, limit float64) report.Result {
	r.Ratio, r.Target = 1, 1
	if r.Value > 0 {
		r.Ratio = limit / r.Value
	}
	r.Met = r.Value <= limit
	r.Note = fmt.Sprintf("at most %.1f", limit)
	return r
}

func total(drops map[string]uint64) (n uint64) {
	for _, d := range drops {
		n += d
	}
	return n
}

func words(drops map[string]uint64) string {
	var s []string
	for _, reason := range slices.Sorted(maps.Keys(drops)) {
		s = append(s, fmt.Sprintf("%s %d", reason, drops[reason]))
	}
	return strings.Join(s, ", ")
}
