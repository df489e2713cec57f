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

// change is a change under way.
type change struct {
	Options
	id       string
	parts    []*part
	deadline time.Time // when the first host undoes it, unless it is confirmed
}

// part is a host's part of the change. Each is used by one goroutine at a time.
type part struct {
	*far
	begin             steps.BeginQuestion
	inbound, outbound batch

	unsendable []steps.Seen // probes of its that cannot be sent
	missed     bool         // probes of its peers had not come at first

	// When it undoes the change by itself, at the earliest and at the latest.
	earliest, latest time.Time

	stage   steps.Stage // as far as the host has said
	silent  bool        // it could not be asked any more
	problem string      // that the host told of
}

// batch is SAs that are added by one question.
type batch struct {
	payloads [][]byte // with keys, until they are added
	sas      []SAReport
	require  []bool // of each: it must be offloaded
}

func (b *batch) wipe() {
	for _, p := range b.payloads {
		clear(p)
	}
	b.payloads = nil
}

// stride is something that all hosts do before any of them goes on.
type stride struct {
	name string // for errors
	do   func(context.Context, *part) (said string, err error)
}

// everywhere has all hosts do something at once, and returns when all have, or cannot.
func (c *change) everywhere(ctx context.Context, s stride) error {
	errs := make([]error, len(c.parts))
	var all sync.WaitGroup
	for i, p := range c.parts {
		all.Go(func() {
			said, err := s.do(ctx, p)
			switch {
			case err != nil:
				errs[i] = fmt.Errorf("%s: %w", s.name, err)
			case said != "":
				c.Say(p.name, said)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// prepare carries the change out as far as every host is ready to confirm it.
func (c *change) prepare(ctx context.Context) error {
	// The first host begins to count a little later.
	c.deadline = time.Now().Add(c.Timeout)
	ctx, cancel := context.WithDeadlineCause(ctx, c.deadline, fmt.Errorf("the time to confirm it, %s, is over", c.Timeout))
	defer cancel()
	for _, s := range c.strides() {
		err := c.everywhere(ctx, s)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// headStart is how long the hosts that are reached by ssh may take for an undo before this one begins.
const headStart = 2 * time.Second

// undo takes the change back on all hosts. The error is about those that have not said that they did.
// This host is the last: once it has undone a change, it may not reach those any more that have not,
// where ssh goes by the very addresses that are protected. Nor may it hear before that they have: so
// it does not wait for them for long.
func (c *change) undo(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	var others sync.WaitGroup
	for _, p := range c.parts {
		if p.knock != nil {
			others.Add(1)
		}
	}
	answered := make(chan struct{})
	go func() {
		others.Wait()
		close(answered)
	}()
	return c.everywhere(ctx, stride{"undo", func(ctx context.Context, p *part) (string, error) {
		if p.knock != nil {
			defer others.Done()
			return c.undoOn(ctx, p)
		}
		select {
		case <-answered:
		case <-time.After(min(headStart, within/2)):
		}
		return c.undoOn(ctx, p)
	}})
}

func (c *change) undoOn(ctx context.Context, p *part) (string, error) {
	began := p.stage != steps.None
	answer, err := ask[steps.Progress](ctx, p.far, steps.Undo, c.question(), oneCall)
	if _, refused := errors.AsType[*remote.Failure](err); refused {
		if stage, asked := c.stageOf(ctx, p); asked && (stage == steps.None || stage == steps.Undone) {
			answer, err = steps.Progress{Stage: stage}, nil // it has not even begun
		}
	}
	// A host that confirmed long ago may be the last to do so: it asks its peers' packets first.
	for err == nil && answer.Stage == steps.Confirmed {
		select {
		case <-ctx.Done():
			err = fmt.Errorf("%s: it has confirmed the change, and has not undone it yet", p.name)
		case <-time.After(time.Second):
			var asked bool
			if answer.Stage, asked = c.stageOf(ctx, p); !asked {
				err = fmt.Errorf("%s: it has confirmed the change, and cannot be asked any more", p.name)
			}
		}
	}
	if err != nil {
		p.silent = true
		if p.stage != steps.Confirmed {
			// It has begun to count when it was told to begin, and that may have taken dialWithin.
			left := max(0, time.Until(c.deadline)) + dialWithin
			err = fmt.Errorf("%w; it undoes the change by itself, within %s", err, left.Round(time.Second))
		}
		p.problem = err.Error()
		return "", err
	}
	p.stage, p.problem = answer.Stage, answer.Problem
	if !began || answer.Stage == steps.None {
		return "", nil
	}
	return but(string(answer.Stage), answer.Problem), nil
}

// stageOf asks how far a host has come with the change: None if it knows of none, or of another one.
func (c *change) stageOf(ctx context.Context, p *part) (stage steps.Stage, asked bool) {
	answer, err := ask[steps.Progress](ctx, p.far, steps.State, struct{}{}, oneCall)
	if err != nil {
		return steps.None, false
	}
	if answer.Change != c.id {
		return steps.None, true
	}
	p.problem = answer.Problem
	return answer.Stage, true
}

func (c *change) question() steps.Question { return steps.Question{Change: c.id} }

// but tells what was done, and what was wrong with it.
func but(done, problem string) string {
	if problem == "" {
		return done
	}
	return done + ", but: " + problem
}
