package dataplane

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"espalier/ipsec"
)

// carriage is what an SA has carried and how much it may. The packet path asks mayCarry before it
// carries and tells carried afterwards; all else is the keeper's.
type carriage struct {
	bytes, packets atomic.Uint64
	used, last     atomic.Int64 // first and last use in Unix seconds, 0: never

	// No limit is reached before one of these is.
	untilBytes, untilPackets atomic.Uint64
}

// lifetime is how long it may.
type lifetime struct {
	mu     sync.Mutex // held to change what follows
	limits *ipsec.Limits
	added  time.Time
	told   bool // of the soft limit
}

// unlimited are the limits of most SAs.
var unlimited ipsec.Limits

// start begins a life with these limits. New limits for a live SA begin it anew, but for the time
// it was added and what it has carried.
func (a *association) start(limits ipsec.Limits) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limits, a.told = &unlimited, false
	if !limits.IsZero() {
		a.limits = &limits
	}
	a.blemishes.clear(dying)
	a.watch()
}

// watch sets when a packet has to look again. a.mu is held.
func (a *association) watch() {
	bytes, packets := orNever(a.limits.HardBytes), orNever(a.limits.HardPackets)
	if !a.blemishes.has(dying) {
		bytes, packets = min(bytes, orNever(a.limits.SoftBytes)), min(packets, orNever(a.limits.SoftPackets))
	}
	a.untilBytes.Store(bytes)
	a.untilPackets.Store(packets)
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
func (a *association) mayCarry() (ok, look bool) {
	if a.packets.Load() < a.untilPackets.Load() && a.bytes.Load() < a.untilBytes.Load() {
		return true, false
	}
	return a.reach()
}

// reach sorts out which limit was reached.
func (a *association) reach() (ok, look bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	packets, bytes := a.packets.Load(), a.bytes.Load()
	if packets >= orNever(a.limits.HardPackets) || bytes >= orNever(a.limits.HardBytes) {
		return false, !a.blemishes.add(spent)
	}
	if packets < orNever(a.limits.SoftPackets) && bytes < orNever(a.limits.SoftBytes) {
		return true, false // another queue has found it before
	}
	look = !a.blemishes.add(dying)
	a.watch()
	return true, look
}

// ahead is how many of n packets of so many bytes together are surely within all limits. It is
// at least 1, for which mayCarry has to be asked.
func (a *association) ahead(n, bytes int) int {
	if a.packets.Load()+uint64(n) <= a.untilPackets.Load() && a.bytes.Load()+uint64(bytes) <= a.untilBytes.Load() {
		return n
	}
	return 1
}

// carried counts packets that were sent or delivered, and their ESP payload. It reports whether
// they were the first. now is in Unix seconds.
func (a *association) carried(packets, bytes int, now int64) (first bool) {
	a.packets.Add(uint64(packets))
	a.bytes.Add(uint64(bytes))
	if a.last.Load() == now {
		return false
	}
	a.last.Store(now)
	return a.used.Load() == 0 && a.used.CompareAndSwap(0, now)
}

// verdict is what the keeper finds.
type verdict struct {
	soft, hard bool      // reached now
	next       time.Time // when to look again; zero: not for the time's sake
}

// examine finds limits that were reached and not told. Times are those since the SA was added
// and first used; a soft limit is told once.
func (a *association) examine(now time.Time) verdict {
	a.mu.Lock()
	defer a.mu.Unlock()
	used := unixTime(a.used.Load())
	if a.blemishes.has(spent) || reached(a.added, a.limits.HardTime, now) || reached(used, a.limits.HardIdle, now) {
		a.blemishes.add(spent)
		return verdict{hard: true}
	}
	if reached(a.added, a.limits.SoftTime, now) || reached(used, a.limits.SoftIdle, now) {
		a.blemishes.add(dying)
		a.watch()
	}
	v := verdict{soft: a.blemishes.has(dying) && !a.told}
	a.told = a.told || v.soft
	v.next = earliest(later(a.added, a.limits.HardTime), later(used, a.limits.HardIdle))
	if !a.blemishes.has(dying) {
		v.next = earliest(v.next, later(a.added, a.limits.SoftTime), later(used, a.limits.SoftIdle))
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

// notBefore is when something was used that was added at a time: packets are dated by the keeper's clock,
// which is up to a second behind.
func notBefore(added, used time.Time) time.Time {
	if !used.IsZero() && used.Before(added) {
		return added
	}
	return used
}

func unixTime(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}
