package observe

import (
	"net/netip"

	"espalier/lint"
	"espalier/xfrm"
	"espalier/xfrm/pair"
)

// relations are what follows from SAs and policies but for what SAs count. As they seldom change, they are
// found while the interval runs, and need not be at its end.
type relations struct {
	states   []*xfrm.State
	matching *pair.Matching
	findings []lint.Finding
}

func relate(states []*xfrm.State, f *facts) *relations {
	var local func(netip.Addr) bool
	if f.local != nil {
		local = func(a netip.Addr) bool { return f.local[a] }
	}
	m := pair.Match(states, f.policies, local)
	return &relations{states, m, lint.Check(states, f.policies, m, f.defaults)}
}

// hold reports whether they are the relations of these states, too, one by one in the same order.
func (r *relations) hold(states []*xfrm.State) bool {
	if r == nil || len(states) != len(r.states) {
		return false
	}
	for i, s := range states {
		if !alike(s, r.states[i]) {
			return false
		}
	}
	return true
}

// alike reports whether two states are one SA, and the same for all that relations come from.
func alike(a, b *xfrm.State) bool {
	return a.SPI == b.SPI && a.Dst == b.Dst && a.Src == b.Src && a.Proto == b.Proto && a.Mode == b.Mode &&
		a.Reqid == b.Reqid && a.Current.AddTime == b.Current.AddTime && a.Dir == b.Dir && a.IfID == b.IfID &&
		a.ReplayWindow == b.ReplayWindow && a.IsLarval() == b.IsLarval() && equal(a.Mark, b.Mark) && equal(a.OutputMark, b.OutputMark) && a.Sel == b.Sel &&
		equal(a.Offload, b.Offload) && used(a) == used(b)
}

func equal[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// used are the directions in which an SA has numbers, by which its own is told if by nothing else.
func used(s *xfrm.State) (directions [2]bool) {
	if r := s.Replay; r != nil {
		directions = [2]bool{r.Seq|r.SeqHi != 0, r.OSeq|r.OSeqHi != 0}
	}
	return directions
}
