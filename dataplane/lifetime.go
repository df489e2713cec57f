package dataplane

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"espalier/ipsec"
)

// lifetime is what an SA has carried and how long it may. The packet path asks mayCarry before
// it carries and tells carried afterwards; all else is the keeper's.
type lifetime struct {
	bytes, packets atomic.Uint64
	used, last     atomic.Int64 // first and last use in Unix seconds, 0: never

	// No limit is reached before one of these is.
	untilBytes, untilPackets atomic.Uint64
	dying                    atomic.Bool // a soft limit was reached: others are preferred
	spent                    atomic.Bool // a hard limit was: it carries nothing more

	mu     sync.Mutex // held to change what follows
	limits ipsec.Limits
	added  time.Time
	told   bool // of the soft limit
}

// start begins a life with these limits. New limits for a live SA begin it anew, but for the time
// it was added and what it has carried.
func (l *lifetime) start(limits ipsec.Limits) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.limits, l.told = limits, false
	l.dying.Store(false)
	l.watch()
}

// watch sets when a packet has to look again. l.mu is held.
func (l *lifetime) watch() {
	bytes, packets := orNever(l.limits.HardBytes), orNever(l.limits.HardPackets)
	if !l.dying.Load() {
		bytes, packets = min(bytes, orNever(l.limits.SoftBytes)), min(packets, orNever(l.limits.SoftPackets))
	}
	l.untilBytes.Store(bytes)
	l.untilPackets.Store(packets)
}

func orNever(limit uint64) uint64 {
	if limit == 0 {
		return math.MaxUint64
	}
	return limit
}

// mayCarry reports whether the next packet may be carried, and whether the keeper has to look.
// As in Linux a limit is judged by what was carried before: a hard limit of n packets lets n
// pass, and the one after them makes the SA expire and is dropped.
func (l *lifetime) mayCarry() (ok, look bool) {
	if l.packets.Load() < l.untilPackets.Load() && l.bytes.Load() < l.untilBytes.Load() {
		return true, false
	}
	return l.reach()
}

// reach sorts out which limit was reached.
func (l *lifetime) reach() (ok, look bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	packets, bytes := l.packets.Load(), l.bytes.Load()
	if packets >= orNever(l.limits.HardPackets) || bytes >= orNever(l.limits.HardBytes) {
		return false, !l.spent.Swap(true)
	}
	if packets < orNever(l.limits.SoftPackets) && bytes < orNever(l.limits.SoftBytes) {
		return true, false // another queue has found it before
	}
	look = !l.dying.Swap(true)
	l.watch()
	return true, look
}

// ahead is how many of n packets of so many bytes together are surely within all limits. It is
// at least 1, for which mayCarry has to be asked.
func (l *lifetime) ahead(n, bytes int) int {
	if l.packets.Load()+uint64(n) <= l.untilPackets.Load() && l.bytes.Load()+uint64(bytes) <= l.untilBytes.Load() {
		return n
	}
	return 1
}

// carried counts packets that were sent or delivered, and their ESP payload. It reports whether
// they were the first. now is in Unix seconds.
func (l *lifetime) carried(packets, bytes int, now int64) (first bool) {
	l.packets.Add(uint64(packets))
	l.bytes.Add(uint64(bytes))
	if l.last.Load() == now {
		return false
	}
	l.last.Store(now)
	return l.used.Load() == 0 && l.used.CompareAndSwap(0, now)
}

// verdict is what the keeper finds.
type verdict struct {
	soft, hard bool      // reached now
	next       time.Time // when to look again; zero: not for the time's sake
}

// examine finds limits that were reached and not told. Times are those since the SA was added
// and first used; a soft limit is told once.
func (l *lifetime) examine(now time.Time) verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	used := unixTime(l.used.Load())
	if l.spent.Load() || reached(l.added, l.limits.HardTime, now) || reached(used, l.limits.HardIdle, now) {
		l.spent.Store(true)
		return verdict{hard: true}
	}
	if reached(l.added, l.limits.SoftTime, now) || reached(used, l.limits.SoftIdle, now) {
		l.dying.Store(true)
		l.watch()
	}
	v := verdict{soft: l.dying.Load() && !l.told}
	l.told = l.told || v.soft
	v.next = earliest(later(l.added, l.limits.HardTime), later(used, l.limits.HardIdle))
	if !l.dying.Load() {
		v.next = earliest(v.next, later(l.added, l.limits.SoftTime), later(used, l.limits.SoftIdle))
	}
	return v
}

// later is the end of a limit that began at from; zero where it has not begun or is none.
func later(from time.Time, limit time.Duration) time.Time {
	if from.IsZero() || limit == 0 {
		return time.Time{}
	}
	return from.Add(limit)
}

func reached(from time.Time, limit time.Duration, now time.Time) bool {
	end := later(from, limit)
	return !end.IsZero() && !now.Before(end)
}

// earliest is the first of the times that are set.
func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if first.IsZero() || !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}

func unixTime(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}
