package client

import (
	"context"
	"iter"
	"sync"
)

// handful is how many objects of a dump are handed over at a time.
const handful = 1024

// decoded makes objects of a dump's messages, in a goroutine of its own: while the caller looks at
// some, others are decoded, and the engine is at those behind them. decode may wipe the message.
func decoded[T any](ctx context.Context, c *Client, q call, decode func(payload []byte) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		ctx, stop := context.WithCancel(ctx)
		made := make(chan []T, 2)
		var failure error
		var maker sync.WaitGroup
		maker.Go(func() {
			defer close(made)
			failure = decodeAll(ctx, c, q, decode, made)
		})
		defer maker.Wait()
		defer stop()
		for some := range made {
			for _, object := range some {
				if !yield(object, nil) {
					return
				}
			}
		}
		if failure != nil {
			var none T
			yield(none, failure)
		}
	}
}

// decodeAll hands over the objects of a dump until it ends, or ctx does.
func decodeAll[T any](ctx context.Context, c *Client, q call, decode func([]byte) (T, error), made chan<- []T) error {
	some := make([]T, 0, handful)
	handOver := func() {
		select {
		case made <- some:
		case <-ctx.Done():
		}
		some = make([]T, 0, handful)
	}
	for m, err := range c.dump(ctx, q) {
		var object T
		if err == nil {
			if object, err = decode(m.Data); err != nil {
				err = q.fail(err)
			}
		}
		if err != nil {
			handOver() // what was whole before it
			return err
		}
		if some = append(some, object); len(some) == handful {
			handOver()
		}
	}
	handOver()
	return nil
}
