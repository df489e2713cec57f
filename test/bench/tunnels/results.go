package tunnels

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"espalier/test/bench/report"
)

// results are what is wanted of rotations: nothing lost.
func (f *findings) results(rotations int) []report.Result {
	w := f.witness
	results := []report.Result{
		none("sequence numbers missing", "packets", w.Missing, ""),
		none("sequence numbers out of order or again", "packets", w.Late+w.Again, ""),
		none("packets the witness lost or could not read", "packets", w.Lost+w.Unread, ""),
		none("packets the cable lost", "packets", f.cable, "before the witness: the receiving host's backlog was full"),
		none("drops of both devices", "packets", total(f.drops), words(f.drops)),
		f.datagrams(),
		{Name: "TCP, one stream", Unit: "Gb/s", Value: f.load.rate() / 1e9, Peer: "without rotating", PeerValue: f.control.rate() / 1e9,
			Ratio: f.load.rate() / f.control.rate(), Met: true},
		{Name: "TCP segments sent again", Unit: "a rotation", Value: float64(f.load.retransmits) / float64(rotations), Peer: "without, as long",
			PeerValue: float64(f.control.retransmits) / float64(rotations), Ratio: 1, Met: true},
		{Name: "rotate", Unit: "s", Value: report.Median(f.took), Peer: "the longest", PeerValue: slices.Max(f.took), Ratio: 1, Met: true,
			Note: fmt.Sprintf("%s of it the grace", grace)},
	}
	results[0].Note = fmt.Sprintf("of %d packets under %d SPIs", w.Seen, w.SPIs)
	for i := range results {
		results[i].Impl = fmt.Sprintf("%d rotations", rotations)
	}
	return results
}

// onTheWay are the datagrams that did not come.
func (s *sum) onTheWay() int { return max(s.lost-int(s.unread), 0) }

func (s *sum) rate() float64 { return s.bits / s.seconds }

// datagrams compares what was lost of them on the way: no more than without rotating. What came, and the
// program that received was too slow to read, says how busy the machine was.
func (f *findings) datagrams() report.Result {
	share := func(s *sum) float64 { return 1e6 * float64(s.onTheWay()) / float64(max(s.sent, 1)) }
	r := report.Result{Name: "UDP datagrams lost", Unit: "of a million", Value: share(&f.load), Peer: "without rotating", PeerValue: share(&f.control), Ratio: 1, Target: 1,
		Note: fmt.Sprintf("%d of %d, %d more unread; %d of %d, %d unread", f.load.onTheWay(), f.load.sent, f.load.unread,
			f.control.onTheWay(), f.control.sent, f.control.unread)}
	if r.Value > 0 {
		r.Ratio = r.PeerValue / r.Value
	}
	r.Met = r.Ratio >= 1
	return r
}

// none is the result for what must not occur, with a note for when it has.
func none(name, unit string, n uint64, note string) report.Result {
	r := report.Result{Name: name, Unit: unit, Value: float64(n), Peer: "none", Ratio: 1, Target: 1, Met: true}
	if n > 0 {
		r.Ratio, r.Met, r.Note = 0, false, note
	}
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
