package host

import (
	"time"

	"espalier/deploy/steps"
)

// What a host does by itself follows from these times.
const (
	// lateUndo is how long after the last deadline of its hosts a confirmed change may be undone at a
	// coordinator's word. The peers decide by themselves only after that, see margin.
	lateUndo = 5 * time.Second
	// margin is what is added to the time-out until everyone must have confirmed or undone a change:
	// the confirmation was under way, and keepers look once a second.
	margin = 10 * time.Second
	// onlyOld is how long packets have to come by old SAs alone to say that the peer has undone it.
	onlyOld = 5 * time.Second
	// silence is how long nothing has to come to say so, where there is no older generation. An outage of
	// the network that is as long cannot be told from it.
	silence = 2 * time.Minute
	// farewell is how long nothing has to come to say that the peer keeps a pair no more, which is to go
	// here: it does not hurt to wait.
	farewell = 10 * time.Minute
	// quiet is how long nothing must have come by an SA that lingers before it is deleted.
	quiet = 30 * time.Second
	// longest is how long an SA lingers at most whose peer was never heard again.
	longest = 24 * time.Hour
)

// overdue reports whether a change has to be undone by its time. A clock that has gone backwards is
// not the one its deadline was set by.
func overdue(c *Change, now time.Duration) bool {
	return c.Stage == steps.Open && (now >= c.Deadline || now < c.Begun)
}

// takesUndo reports whether a coordinator may have the change undone.
func takesUndo(c *Change, now time.Duration) bool {
	return c.Stage == steps.Open || c.Stage == steps.Confirmed && now >= c.Begun && now < c.Deadline+c.Later+lateUndo
}

// decidesFrom is when a host that was confirmed and told nothing more looks for itself: every peer has
// confirmed or undone the change by then. Each had begun before this one could be confirmed.
func decidesFrom(c *Change) time.Duration { return c.Confirmed + c.Begin.Timeout + margin }

// speaksUntil is how long a host goes on sending heartbeats for its peers to hear, once the change is
// over: they may have to decide without a coordinator, and later.
func speaksUntil(c *Change) time.Duration {
	decided := 2*c.Begin.Timeout + margin + silence
	switch {
	case c.Settled:
		return 0
	case c.Stage == steps.Undone && c.Begin.Kind == steps.Down:
		return c.Ended + decided + farewell
	case c.Stage == steps.Undone:
		return c.Ended + decided
	case c.Stage == steps.Finished && c.Begin.Kind != steps.Down:
		return c.Confirmed + decided
	case c.Stage == steps.Finished: // nobody speaks; but a coordinator may ask again what has become of it
		return c.Ended + 2*c.Begin.Timeout
	}
	return 0
}

// view is what a host knows of a pair that was confirmed, when nobody tells it more.
type view struct {
	now   time.Duration
	since time.Duration // decidesFrom
	// leaves says that the pair is to go: there is no new generation, and packets by the present one
	// say that the peer keeps it.
	leaves bool
	hasNew bool
	hasOld bool
	// Of the SAs of a generation: when one was seen to receive after since, first and last; 0: never.
	newest            time.Duration
	oldFirst, oldLast time.Duration
}

// verdict is what to do with a pair.
type verdict string

const (
	hold   verdict = "hold"
	finish verdict = "finish"
	undo   verdict = "undo"
)

// decide judges by what has come from the peer. Only who has the keys can make it come.
func (v view) decide() verdict {
	old := v.oldFirst > 0 && v.oldLast-v.oldFirst >= onlyOld
	switch {
	case v.now < v.since:
		return hold
	case v.leaves && old:
		return undo
	case v.leaves && v.now >= max(v.since, v.oldLast)+farewell:
		return finish
	case v.leaves:
		return hold
	case !v.hasNew: // SAs stay: both ways of going on work with them
		return finish
	case v.newest > 0:
		return finish
	case old:
		return undo
	case !v.hasOld && v.now >= v.since+silence:
		return undo
	}
	return hold
}

// gone reports whether an SA that lingers may be deleted: heard is whether the peer sends by an older
// generation again, last is when a packet came by the SA, or when it was first looked at.
func (l *Lingering) gone(now, last time.Duration) bool {
	age := now - l.Since
	switch {
	case age < 0: // a clock that has gone backwards tells nothing
		return false
	case age < 2*l.Timeout || now-last < quiet:
		return false
	}
	return len(l.Old) == 0 || l.Heard || age >= longest
}
