package client

import (
	"context"
	"errors"
	"iter"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

// Listen joins multicast groups (xfrm.Group…; none means all) and iterates over their
// events, from this call on: what happens before the iteration starts is kept for it. It
// is for one iteration, and its socket is freed when that or ctx ends.
//
// The end of ctx ends the iteration with its error. unix.ENOBUFS says that events were
// lost; that, and an event that does not decode, leave the iteration usable.
func (c *Client) Listen(ctx context.Context, groups ...uint32) iter.Seq2[xfrm.Event, error] {
	q := call{op: "listen for events"}
	if len(groups) == 0 {
		for g := xfrm.GroupAcquire; g <= xfrm.GroupMapping; g++ {
			groups = append(groups, g)
		}
	}
	failed := func(err error) iter.Seq2[xfrm.Event, error] {
		return func(yield func(xfrm.Event, error) bool) { yield(xfrm.Event{}, q.fail(err)) }
	}
	conn, err := c.engine.dial()
	if err != nil {
		return failed(err)
	}
	if err := c.engine.join(ctx, conn, groups); err != nil {
		conn.Close()
		return failed(err)
	}
	ctx, cancel := c.withLife(ctx)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	return func(yield func(xfrm.Event, error) bool) {
		defer func() {
			stop()
			cancel()
			conn.Close()
		}()
		for {
			msgs, err := conn.Receive()
			if ctx.Err() != nil {
				yield(xfrm.Event{}, q.fail(context.Cause(ctx)))
				return
			}
			if err != nil {
				if yield(xfrm.Event{}, q.fail(err)) && errors.Is(err, unix.ENOBUFS) {
					continue
				}
				return
			}
			for _, m := range msgs {
				e, err := xfrm.DecodeEvent(m)
				if err != nil {
					err = q.fail(err)
				}
				if !yield(e, err) {
					return
				}
			}
		}
	}
}
