package cli

import (
	"fmt"
	"slices"

	"espalier/verdict"
)

const (
	// manyPairs are more than one screen has room for.
	manyPairs = 20
	// mostExceptions of them are listed, and mostFindings.
	mostExceptions, mostFindings = 10, 5
)

// group is how the SAs of a direction are alike.
type group struct {
	verdict           verdict.Verdict
	reason, direction string
	dev               string // "" for those that are not offloaded
}

// many tells how many SAs there are of each kind, and lists the pairs that are an exception: those that are
// neither the NIC's, or the device's, nor idle, and those that refused packets in the interval.
func (t *statusText) many(v *statusView) {
	counts := map[group]int{}
	var groups []group
	var exceptions []*pairView
	for i := range v.Pairs {
		p := &v.Pairs[i]
		if exceptional(p) {
			exceptions = append(exceptions, p)
		}
		for _, sa := range p.sas() {
			g := group{sa.Verdict, string(sa.Reason), sa.Direction, ""}
			if sa.Offload != nil {
				g.dev = sa.Offload.Dev
			}
			if counts[g] == 0 {
				groups = append(groups, g)
			}
			counts[g]++
		}
	}
	slices.SortStableFunc(groups, func(a, b group) int { return counts[b] - counts[a] })
	rows := [][]string{}
	for _, g := range groups {
		to := "no offload"
		if g.dev != "" {
			to = "offloaded to " + g.dev
		}
		rows = append(rows, []string{fmt.Sprint(counts[g]), g.direction, string(g.verdict), g.reason, to})
	}
	t.b.WriteByte('\n')
	t.rows(rows)
	if len(exceptions) > 0 {
		t.b.WriteByte('\n')
	}
	for i, p := range exceptions {
		if i == mostExceptions {
			t.line(0, "and %d pairs more", len(exceptions)-i)
			break
		}
		why := ""
		for _, sa := range p.sas() {
			if sa.Verdict == p.Verdict || why == "" {
				why = sa.Direction + ": " + sa.Why
			}
			if line := refused(sa); line != "" {
				why = line
			}
		}
		t.line(0, "%s ↔ %s: %s, %s", p.Local, p.Peer, t.paint(colourOf(p.Verdict), string(p.Verdict)), why)
	}
	t.b.WriteByte('\n')
	t.line(0, "-o wide lists all %d pairs", len(v.Pairs))
}

func exceptional(p *pairView) bool {
	for _, sa := range p.sas() {
		if sa.Interval.Replayed+sa.Interval.Late+sa.Interval.Forged > 0 {
			return true
		}
	}
	return !slices.Contains([]verdict.Verdict{verdict.Hardware, verdict.Emulated, verdict.Idle}, p.Verdict)
}
