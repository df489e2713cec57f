package changes

import (
	"context"
	"sync/atomic"
	"time"
)

// clock is a host's that can be put forward.
type clock struct {
	started time.Time
	ahead   atomic.Int64
}

func (c *clock) Now() time.Duration {
	return time.Hour + time.Since(c.started) + time.Duration(c.ahead.Load())
}
func (c *clock) BootID() string  { return "this one" }
func (c *clock) Wall() time.Time { return time.Now() }
func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
