package dataplane

import (
	"slices"
	"time"

	"espalier/ipsec"
)

// probing finds paths on which long packets vanish without a word, in the manner of RFC 8899: while
// an SA carries large packets it asks now and then whether one of the present size comes through. If
// it does not and one of the least size does, it looks for what comes through. If nothing is answered
// at all, the other end does not answer, and nothing is known.
//
// What comes through is found in rounds, each of up to roundSizes sizes at once, and each size of it
// up to tries times. All sizes are those of outer packets, and multiples of 4, as ESP is.
type probing struct {
	counting bool // large packets; in between they pass without notice
	counted  int
	due      bool // enough were counted

	round          []int // sizes in the air, ascending; nil: none
	passed, failed int   // the largest size known to come through; the smallest that does not
	tried          int
	wider          bool      // more than the present size is tried
	next           time.Time // when to go on; zero: packets will tell
	rtt            time.Duration
}

const (
	// largeEnough is how many large packets are worth a probe. A TCP connection whose large packets
	// all vanish begins with as many (RFC 6928).
	largeEnough = 10
	roundSizes  = 16
	tries       = 3

	// leastPatience is for an end that is busy.
	leastPatience = 200 * time.Millisecond
)

// large is the size beyond which packets count as large, of a path with this MTU.
func large(mtu, least int) int {
	if mtu > least {
		return least
	}
	return least / 4 * 3
}

// count reports whether enough large packets were sent.
func (g *probing) count(packets int) bool {
	if g.counted += packets; g.counted < largeEnough {
		return false
	}
	g.counting, g.due = false, true
	return true
}

// stop gives a round up: what it was to find out does not matter any more.
func (g *probing) stop() { g.round = nil }

// rest has nothing done for a while.
func (g *probing) rest(now time.Time, times *pathTimes) {
	g.counting, g.due, g.round, g.next = false, false, nil, now.Add(times.interval)
}

// answered takes note of an answer. It reports whether there is reason to go on at once.
func (g *probing) answered(size int, rtt time.Duration) bool {
	if len(g.round) == 0 || size > g.round[len(g.round)-1] {
		return false // of a round before
	}
	g.passed, g.rtt = max(g.passed, size), rtt
	return g.passed == g.round[len(g.round)-1]
}

// probe goes on, and returns the sizes to be sent now. Once it knows what comes through, it has
// learned that, and returns it. path.mu is held.
func (a *association) probe(now time.Time, times *pathTimes) (send []int, found int) {
	g := &a.path.probing
	switch {
	case times.interval <= 0 || g.counting:
		return nil, 0
	case g.round != nil:
	case g.due:
		g.begin(a.sizesToTry(now, times))
	case now.Before(g.next):
		return nil, 0
	case g.next.IsZero(): // it was stopped
		g.rest(now, times)
		return nil, 0
	default:
		g.counting, g.counted, g.next = true, 0, time.Time{}
		return nil, 0
	}
	send, found, done := g.goOn(now, times)
	if !done {
		return send, 0
	}
	g.rest(now, times)
	if found != 0 {
		a.found(found, now)
	}
	return nil, found
}

// sizesToTry are the least size and the present one; and what the route allows, if it is time to see
// whether a path that was found to be narrow has become wider.
func (a *association) sizesToTry(now time.Time, times *pathTimes) []int {
	p := &a.path
	p.probing.wider = p.learned.probed && times.age > 0 && reached(p.learned.at, times.age, now)
	sizes := []int{minPathMTU(a.sa.Dst), a.longest(int(a.pmtu.value.Load()))}
	if p.probing.wider {
		sizes = append(sizes, a.longest(p.ceiling))
	}
	slices.Sort(sizes)
	return slices.Compact(sizes)
}

// longest is the longest packet worth asking for on a path with this MTU. A tunnel has none longer than
// what fills the TUN: the answer would only come back in fragments.
func (a *association) longest(mtu int) int {
	if a.mode == ipsec.Tunnel {
		inner := tunMTU(a.path.link)
		mtu = min(mtu, outside(a, nil)+a.out.Len(inner))
	}
	return mtu &^ 3
}

// found takes note of what comes through.
func (a *association) found(size int, now time.Time) {
	p := &a.path
	switch {
	case size >= a.longest(p.ceiling):
		p.learned = learned{}
	case size != a.longest(int(a.pmtu.value.Load())):
		p.learned = learned{mtu: size, probed: true, at: now}
	case p.probing.wider:
		p.learned.at = now
	}
}

// begin starts with the first round.
func (g *probing) begin(sizes []int) {
	g.due, g.round, g.tried, g.next = false, sizes, 0, time.Time{}
	g.passed, g.failed = 0, sizes[len(sizes)-1]+4
}

// goOn sends a round, waits for it, and makes the next one of what came of it.
func (g *probing) goOn(now time.Time, times *pathTimes) (send []int, found int, done bool) {
	for {
		g.round = slices.DeleteFunc(g.round, func(size int) bool { return size <= g.passed })
		switch {
		case len(g.round) == 0:
		case now.Before(g.next):
			return nil, 0, false
		case g.tried < tries:
			g.tried++
			g.next = now.Add(g.patience(times))
			return slices.Clone(g.round), 0, false
		default:
			g.failed = g.round[0]
		}
		if g.passed == 0 {
			return nil, 0, true
		}
		g.round, g.tried, g.next = between(g.passed, g.failed), 0, time.Time{}
		if len(g.round) == 0 {
			return nil, g.passed, true
		}
	}
}

// patience is how long to wait for answers.
func (g *probing) patience(times *pathTimes) time.Duration {
	if g.rtt == 0 {
		return times.patience
	}
	return min(max(4*g.rtt, leastPatience), times.patience)
}

// between are sizes between two others, evenly spread.
func between(passed, failed int) (sizes []int) {
	n := min((failed-passed)/4-1, roundSizes)
	for i := 1; i <= n; i++ {
		sizes = append(sizes, (passed+(failed-passed)*i/(n+1))&^3)
	}
	return sizes
}
