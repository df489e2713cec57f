package verify

import (
	"context"
	"fmt"

	"espalier/verdict"
	"espalier/verdict/observe"
)

// Watcher is a Session's Watch that has an observer gather the evidence.
func Watcher(o *observe.Observer, f Flow) func(context.Context, func() error) (verdict.Judgement, error) {
	return func(ctx context.Context, during func() error) (verdict.Judgement, error) {
		seen, err := o.During(ctx, func(context.Context) error { return during() })
		if err != nil {
			return verdict.Judgement{}, err
		}
		for i, s := range seen.States {
			if s.SPI == f.SA.SPI && s.Dst == f.SA.Dst && s.Proto == f.SA.Proto {
				return seen.Judgements[i], nil
			}
		}
		return verdict.Judgement{}, fmt.Errorf("%s has gone meanwhile", f.SA.ID())
	}
}
