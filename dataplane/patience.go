package dataplane

import (
	"time"

	"golang.org/x/sys/unix"
)

// patience is how a worker that finds nothing goes on looking for a while before it sleeps. To be woken
// costs both sides more than a few looks, so that it pays where packets come one after the other. Where
// the last sleep was longer than a worker would have looked it does not, and so an idle device costs
// nothing.
type patience struct {
	began  time.Time // looking; zero: something was found
	slept  time.Time // when; zero: not since
	likely bool      // that more comes soon
}

// looking is for how long a worker looks.
const looking = 30 * time.Microsecond

// found says that there was something.
func (p *patience) found() {
	if !p.slept.IsZero() {
		p.likely = time.Since(p.slept) < 2*looking
		p.slept = time.Time{}
	}
	p.began = time.Time{}
}

// lasts is for a worker that has found nothing. It reports whether to look again, and has let others
// have the CPU before that; else the worker sleeps.
func (p *patience) lasts() bool {
	now := time.Now()
	if p.began.IsZero() {
		p.began = now
	}
	if !p.likely || now.Sub(p.began) >= looking {
		p.slept = now
		return false
	}
	unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	return true
}
