package deploy

import (
	"context"
	"fmt"
	"slices"
	"time"

	"espalier/deploy/steps"
)

// forgetWithin is for how long hosts are asked to forget a change. Those that cannot be reached do it by
// themselves, later.
const forgetWithin = 10 * time.Second

// forget tells the hosts that all of them have finished, if they have: none of them has to stay ready then
// for another one that would have to find out.
func (c *change) forget(ctx context.Context) {
	if slices.ContainsFunc(c.parts, func(p *part) bool { return p.stage != steps.Finished }) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetWithin)
	defer cancel()
	c.everywhere(ctx, stride{"forget", func(ctx context.Context, p *part) (string, error) {
		if _, err := ask[steps.Progress](ctx, p.far, steps.Forget, c.question(), forgetWithin); err != nil && c.Kind == steps.Down {
			return fmt.Sprintf("what it noted goes by itself, within %s (%v)", 2*c.Timeout, err), nil
		}
		return "", nil
	}})
}
