package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"espalier/deploy"
)

// longestWait is for how long a command waits for hosts to come to the end of an earlier change.
const longestWait = 3 * time.Minute

// open is openNow, once hosts can begin a change: one that hears nothing of what its peers came to with an
// earlier one says how long that takes.
func (r *tunnelRun) open(ctx context.Context, path string, text []byte) (*change, error) {
	for left := longestWait; ; {
		c, err := r.openNow(ctx, path, text)
		busy, ok := errors.AsType[*busyError](err)
		if !ok || busy.left == 0 || busy.left > left {
			return c, err
		}
		left -= busy.left
		r.say(busy.host, busy.why+"; waiting for it")
		select {
		case <-time.After(busy.left):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// busyError says that a host has another change under way.
type busyError struct {
	host, why string
	left      time.Duration // until it can begin one; 0: not known
}

func (e *busyError) Error() string { return fmt.Sprintf("%s: %s", e.host, e.why) }

// busy are hosts that cannot begin a change: the one that takes longest, or does not know how long.
func busy(hosts []deploy.Host) error {
	var worst *busyError
	for i := range hosts {
		f := hosts[i].Facts
		if f.Change == "" {
			continue
		}
		one := &busyError{host: hosts[i].Name, why: f.Change}
		if f.ChangeLeft > 0 {
			one.left = f.ChangeLeft.Truncate(time.Second) + time.Second
		}
		if worst == nil || worst.left > 0 && (one.left == 0 || one.left > worst.left) {
			worst = one
		}
	}
	if worst == nil {
		return nil
	}
	return worst
}
