package deploy

import (
	"context"
	"errors"
	"sync"
)

// Alone tries whether hosts let this one in as a timer asks, that has neither an ssh-agent nor somebody at
// a terminal. The error is about those that do not.
func Alone(ctx context.Context, hosts []Host) error {
	ctx, cancel := context.WithTimeout(ctx, oneCall)
	defer cancel()
	errs := make([]error, len(hosts))
	places := make(chan struct{}, atMost)
	var all sync.WaitGroup
	for i := range hosts {
		if hosts[i].Alone == nil {
			continue
		}
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			errs[i] = hosts[i].Alone(ctx)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
