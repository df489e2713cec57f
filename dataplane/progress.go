package dataplane

import (
	"math"
	"sync/atomic"
	"time"

	"espalier/ipsec"
)

// defaultNotice is what Linux tells by default: net.core.xfrm_aevent_rseqth, xfrm_aevent_etime.
var defaultNotice = ipsec.Notice{Every: 2, After: time.Second}

// progress finds out when there is something to tell of an SA's sequence numbers. As in Linux it
// is told when Every numbers were used, and when After has passed since it was told the last
// time, or the SA was added; if none were used in that time, it is told with the next one.
type progress struct {
	// The keeper wants to look once one of these numbers is reached.
	sentAt, receivedAt atomic.Uint64
	notice             atomic.Pointer[ipsec.Notice]

	// What follows is guarded by Device.control.
	on             bool
	sent, received uint64    // as told the last time
	until          time.Time // end of After; zero: it has passed without anything to tell, or there is none
	overdue        bool      // the next number is to be told
}

func (p *progress) start(sent, received uint64, on bool) {
	p.on, p.sent, p.received = on, sent, received
	p.begin(time.Now())
}

// notify says when to tell; nil: as by default.
func (p *progress) notify(n *ipsec.Notice) {
	given := &defaultNotice
	if n != nil {
		own := *n
		given = &own
	}
	p.notice.Store(given)
}

// set changes when to tell. A time that runs goes on.
func (p *progress) set(n ipsec.Notice, now time.Time) {
	p.notice.Store(&n)
	p.begin(now)
}

func (p *progress) begin(now time.Time) {
	n := p.notice.Load()
	if p.until.IsZero() && !p.overdue {
		p.until = later(now, n.After)
	}
	p.look(p.on)
}

// look sets the numbers from which the packet path calls the keeper.
func (p *progress) look(on bool) {
	p.on = on
	step := uint64(p.notice.Load().Every)
	if p.overdue {
		step = 1
	}
	if !on || step == 0 {
		p.sentAt.Store(math.MaxUint64)
		p.receivedAt.Store(math.MaxUint64)
		return
	}
	p.sentAt.Store(p.sent + step)
	p.receivedAt.Store(p.received + step)
}

// examine reports whether there is something to tell, and when to look again.
func (p *progress) examine(now time.Time, sent, received uint64) (tell bool, cause ipsec.ProgressCause, next time.Time) {
	if !p.on {
		return false, 0, time.Time{}
	}
	moved := sent != p.sent || received != p.received
	every := uint64(p.notice.Load().Every)
	enough := every != 0 && (sent-p.sent >= every || received-p.received >= every)
	timeout := !p.until.IsZero() && !now.Before(p.until)
	switch {
	case enough:
		cause = ipsec.ByNumbers
	case moved && (timeout || p.overdue):
		cause = ipsec.ByTime
	default:
		if timeout {
			p.until, p.overdue = time.Time{}, true
		}
		p.look(true)
		return false, 0, p.until
	}
	p.told(now, sent, received)
	return true, cause, p.until
}

// told remembers what was told, and begins the time anew.
func (p *progress) told(now time.Time, sent, received uint64) {
	p.sent, p.received, p.overdue = sent, received, false
	p.until = later(now, p.notice.Load().After)
	p.look(p.on)
}
