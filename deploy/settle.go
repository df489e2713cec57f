package deploy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"espalier/deploy/steps"
	"espalier/remote"
)

// errUndone is why a change is taken back although it was about to be confirmed.
var errUndone = errors.New("a host has undone it")

// confirm has all hosts confirm. Once it has begun only hosts decide: it waits for their word as long
// as it takes them to decide by themselves, also if the user does not want to any more. Errors that
// wrap errUndone say that some host has not confirmed; others, that it is not known what some came to.
func (c *change) confirm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*c.Timeout)
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	errs := make([]error, len(c.parts))
	var all sync.WaitGroup
	for i, p := range c.parts {
		all.Go(func() {
			if errs[i] = c.confirmOn(ctx, p); errors.Is(errs[i], errUndone) {
				giveUp(errUndone) // what the others say no longer matters
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// confirmOn has one host confirm.
func (c *change) confirmOn(ctx context.Context, p *part) error {
	q := steps.Question{Change: c.id, Later: c.later(p)}
	answer, err := ask[steps.Progress](ctx, p.far, steps.Confirm, q, oneCall)
	if _, refused := errors.AsType[*remote.Failure](err); refused {
		stage, asked := c.stageOf(ctx, p)
		if !asked {
			p.silent = true
			return err
		}
		if stage != steps.Confirmed && stage != steps.Finished { // open: it is undone when its time is over, if not before
			return fmt.Errorf("%w: %w", errUndone, err)
		}
		answer.Stage, err = stage, nil
	}
	if err != nil {
		p.silent = true
		return err
	}
	p.stage = answer.Stage
	switch answer.Stage {
	case steps.Confirmed, steps.Finished:
		c.Say(p.name, "confirmed")
		return nil
	}
	return fmt.Errorf("%w: %s", errUndone, p.name)
}

// later is how much later than p the last host undoes the change by itself, for all that is known: rather too
// little, for peers of p decide by themselves soon after that.
func (c *change) later(p *part) (most time.Duration) {
	for _, other := range c.parts {
		most = max(most, other.earliest.Sub(p.latest))
	}
	return most
}

// finish has all hosts delete what is old. They do so by themselves, too, later.
func (c *change) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*c.Timeout+c.Grace)
	defer cancel()
	return c.everywhere(ctx, stride{"finish", func(ctx context.Context, p *part) (string, error) {
		answer, err := ask[steps.Progress](ctx, p.far, steps.Finish, c.question(), c.Grace+addWithin)
		if _, refused := errors.AsType[*remote.Failure](err); err != nil && !refused {
			err = fmt.Errorf("%w; it finishes by itself", err)
		}
		if err != nil {
			return "", err
		}
		p.stage, p.problem = answer.Stage, answer.Problem
		old := 0
		for _, pair := range p.begin.Pairs {
			old += len(pair.Old)
		}
		done := "finished"
		switch {
		case old > 0 && c.Kind == steps.Down:
			done = fmt.Sprintf("policies and %s deleted", count(old, "SA"))
		case old > 0:
			done = fmt.Sprintf("%s deleted", count(old, "old SA"))
		}
		return but(done, answer.Problem), nil
	}})
}
