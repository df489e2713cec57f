package ipsec

import (
	"context"
	"time"
)

// Notice says when an engine tells of an SA's Progress. A zero field is never.
type Notice struct {
	Every uint32        // sequence numbers since the last time
	After time.Duration // since the last time, if the numbers have moved
}

// Checkpoint is the part of a live SA that can be set: what another host that had the SA
// before has told of its Progress. A nil field leaves what is.
type Checkpoint struct {
	Numbers *Numbers
	Usage   *Usage
	Every   *uint32        // Notice.Every
	After   *time.Duration // Notice.After
}

// Numbers are the sequence numbers of an SA and its anti-replay window, as in Counters.
type Numbers struct {
	Sent, Received uint64
	Bitmap         []uint32
}

// Usage is what an SA has carried, as in Counters.
type Usage struct {
	Bytes, Packets uint64
	Added, Used    time.Time
}

// Checkpointer is offered by engines whose live SAs can be set to what another host has told.
type Checkpointer interface {
	// SetCheckpoint sets sequence numbers, usage and notice of a live SA. ErrNotExist without
	// one; ErrInvalid if it is larval, if the window does not fit, or if numbers that were
	// sent could be sent again.
	SetCheckpoint(context.Context, SAID, Checkpoint) error
}
