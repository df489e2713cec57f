package cli

import (
	"math"
	"time"

	"espalier/ipsec"
	"espalier/verdict"
	"espalier/xfrm"
)

// budget is something that an SA has only so much of.
type budget struct {
	// What is sequence, packets, bytes, age (since the add), use (since the first use); nonces, of an SA whose
	// numbers may wrap; low-half, the lower 32 bits of an ESN SA's numbers on a NIC.
	What  string `json:"what"`
	Hard  bool   `json:"hard"`  // the SA ends with it; false: it is told, so that somebody can replace the SA
	Used  uint64 `json:"used"`  // seconds for age and use
	Limit uint64 `json:"limit"` // the same unit
	// Left is in how many seconds it is used up, at the rate of the interval; null: never, at this rate.
	Left *float64 `json:"exhausted_in_seconds" jsonschema:"nullable"`
}

// share is how much of it is used, 0 to 1.
func (b *budget) share() float64 { return float64(b.Used) / float64(max(b.Limit, 1)) }

// budgets are those of a state. Rates are a second's: of sequence numbers, bytes, and packets as limits
// count them.
func budgets(s *xfrm.State, e *verdict.SA, numbers, bytes, packets float64, now time.Time) []budget {
	all := []budget{}
	if e.Direction == ipsec.Outbound && !s.IsLarval() {
		all = append(all, numbering(s, e, numbers)...)
	}
	l := &s.Limits
	for _, b := range []struct {
		what       string
		soft, hard uint64
		none       uint64
		used       uint64
		rate       float64
	}{
		{"bytes", l.SoftBytes, l.HardBytes, xfrm.Infinity, s.Current.Bytes, bytes},
		{"packets", l.SoftPackets, l.HardPackets, xfrm.Infinity, s.Current.Packets, packets},
		{"age", l.SoftAdd, l.HardAdd, 0, since(s.Current.AddTime, now), 1},
		{"use", l.SoftUse, l.HardUse, 0, since(s.Current.UseTime, now), 1},
	} {
		if b.what == "use" && s.Current.UseTime == 0 {
			b.rate = 0 // it has not begun
		}
		if b.soft != b.none {
			all = append(all, spend(b.what, false, b.used, b.soft, b.rate))
		}
		if b.hard != b.none {
			all = append(all, spend(b.what, true, b.used, b.hard, b.rate))
		}
	}
	return all
}

// numbering are the budgets of sequence numbers: 2^32, or 2^64 with ESN. With oseq-may-wrap Linux goes on with
// 0 and the same nonces, which AES-GCM does not survive. What a NIC with crypto offload does when the lower
// half of ESN wraps nobody has shown to be right.
func numbering(s *xfrm.State, e *verdict.SA, rate float64) []budget {
	used := e.After.Sequence
	switch {
	case s.Flags&xfrm.FlagESN == 0 && s.ExtraFlags&xfrm.ExtraOSeqMayWrap != 0:
		return []budget{spend("nonces", false, used, math.MaxUint32, rate)}
	case s.Flags&xfrm.FlagESN == 0:
		return []budget{spend("sequence", true, used, math.MaxUint32, rate)}
	}
	all := []budget{spend("sequence", true, used, math.MaxUint64, rate)}
	if e.Offload.Mode == ipsec.CryptoOffload && used <= math.MaxUint32 {
		all = append(all, spend("low-half", false, used, math.MaxUint32, rate))
	}
	return all
}

// lived is how long an SA has counted what it did in an interval that took so long, at the most: one that was
// added within it since then. It is 0 if that is not known.
func lived(s *xfrm.State, e *verdict.SA, took time.Duration, now time.Time) time.Duration {
	if !e.Changed {
		return took
	}
	age := now.Sub(time.Unix(int64(s.Current.AddTime), 0))
	if s.Current.AddTime == 0 || age <= 0 || age > took+time.Second { // it is told in whole seconds
		return 0
	}
	return min(age, took)
}

func since(unix uint64, now time.Time) uint64 {
	if n := now.Unix(); unix != 0 && n > int64(unix) {
		return uint64(n) - unix
	}
	return 0
}

// spend makes a budget that is used up at a rate.
func spend(what string, hard bool, used, limit uint64, rate float64) budget {
	b := budget{What: what, Hard: hard, Used: used, Limit: limit}
	if rate > 0 || used >= limit {
		left := 0.0
		if used < limit {
			left = math.Floor(float64(limit-used) / rate)
		}
		b.Left = &left
	}
	return b
}

// soonest is the budget that ends first of those that end the SA, or tell that its end is near; nil
// if none does at this rate.
func soonest(all []budget, hard bool) *budget {
	var first *budget
	for i := range all {
		if b := &all[i]; b.Hard == hard && b.Left != nil && (first == nil || *b.Left < *first.Left) {
			first = b
		}
	}
	return first
}
