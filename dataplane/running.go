package dataplane

import (
	"context"
	"errors"
	"os"
	"sync"
)

// errorGroup joins the goroutines of a Run. Unlike the usual ones it may grow while it
// runs: an SA with UDP encapsulation brings a socket, and its reader, at any time. Readers that
// are asked for before Run begins wait for it.
type errorGroup struct {
	mu      sync.Mutex
	ctx     context.Context
	cancel  context.CancelFunc
	waiting []func(context.Context) error
	wg      sync.WaitGroup
	errs    []error
}

func (g *errorGroup) begin(ctx context.Context, cancel context.CancelFunc) {
	g.mu.Lock()
	g.ctx, g.cancel = ctx, cancel
	waiting := g.waiting
	g.waiting = nil
	g.mu.Unlock()
	for _, f := range waiting {
		g.start(f)
	}
}

// start runs f. An error of f other than os.ErrClosed ends the whole group.
func (g *errorGroup) start(f func(context.Context) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ctx == nil {
		g.waiting = append(g.waiting, f)
		return
	}
	if g.ctx.Err() != nil {
		return
	}
	g.wg.Go(func() {
		if err := f(g.ctx); err != nil && !errors.Is(err, os.ErrClosed) {
			g.mu.Lock()
			g.errs = append(g.errs, err)
			g.mu.Unlock()
			g.cancel()
		}
	})
}

func (g *errorGroup) wait() error {
	g.wg.Wait()
	return errors.Join(g.errs...)
}
