package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"espalier/ipsec"
	"espalier/xfrm"
)

// runAtomic runs a batch that takes back what it has done if it fails midway. SAs can only be
// deleted at its end, when all else is done: to bring one back would be to repeat its nonces.
func (r *xfrmRun) runAtomic(ctx context.Context, jobs []job) error {
	if err := r.checkAtomic(ctx, jobs); err != nil {
		return err
	}
	var undos []func(context.Context) error
	for _, j := range jobs {
		undo, err := r.undoOf(ctx, j)
		if err == nil {
			err = r.runJob(ctx, j)
		}
		if err != nil {
			return r.takeBack(ctx, r.fail(j, engineFailure(err)), undos, deletesSA(j))
		}
		if undo != nil {
			undos = append(undos, undo)
		}
	}
	return nil
}

// checkAtomic refuses, before anything is done, a batch that could not be taken back.
func (r *xfrmRun) checkAtomic(ctx context.Context, jobs []job) error {
	last := len(jobs)
	for last > 0 && deletesSA(jobs[last-1]) {
		last--
	}
	for i, j := range jobs {
		var err error
		switch {
		case i >= last:
			// What can be known to fail should do so now.
			if _, missing := r.engine.GetState(ctx, *j.StateID); missing != nil {
				err = engineFailure(missing)
			}
		case deletesSA(j):
			err = &exitError{exitXfrmSemantic, errors.New("with --atomic SAs are deleted at the end: a deleted SA cannot come back without repeating its nonces")}
		case !undoable(j):
			err = &exitError{exitXfrmSemantic, fmt.Errorf("%s %s cannot be undone: it has no place in an --atomic batch", j.Object, j.Verb)}
		}
		if err != nil {
			return r.fail(j, fmt.Errorf("%w; nothing was done", err))
		}
	}
	return nil
}

func deletesSA(j job) bool { return j.Object == xfrm.ObjectState && j.Verb == xfrm.VerbDelete }

func undoable(j job) bool {
	switch j.Verb {
	case xfrm.VerbAdd, xfrm.VerbUpdate, xfrm.VerbGet, xfrm.VerbList, xfrm.VerbCount, xfrm.VerbGetDefault, xfrm.VerbSetDefault:
		return j.Object != xfrm.ObjectMonitor
	case xfrm.VerbDelete:
		return j.Object == xfrm.ObjectPolicy
	}
	return false
}

// undoOf gives what takes a job back, nil if there is nothing to take. It is asked before the job
// is run: it may have to know what was there.
func (r *xfrmRun) undoOf(ctx context.Context, j job) (undo func(context.Context) error, err error) {
	switch {
	case j.Object == xfrm.ObjectState && (j.Verb == xfrm.VerbAdd || j.Verb == xfrm.VerbUpdate):
		id := j.State.ID()
		if j.Verb == xfrm.VerbUpdate {
			old, err := r.engine.GetState(ctx, id)
			if err != nil {
				return nil, err
			}
			if !old.IsLarval() {
				return func(ctx context.Context) error { return r.engine.UpdateState(ctx, old) }, nil
			}
		}
		return func(ctx context.Context) error { return r.engine.DeleteState(ctx, id) }, nil
	case j.Object == xfrm.ObjectPolicy && (j.Verb == xfrm.VerbAdd || j.Verb == xfrm.VerbUpdate):
		id := j.Policy.ID()
		if j.Verb == xfrm.VerbUpdate {
			old, err := r.engine.GetPolicy(ctx, id)
			if err == nil {
				return func(ctx context.Context) error { return r.engine.UpdatePolicy(ctx, old) }, nil
			}
			if !errors.Is(err, ipsec.ErrNotExist) {
				return nil, err
			}
		}
		return func(ctx context.Context) error { return r.engine.DeletePolicy(ctx, id) }, nil
	case j.Object == xfrm.ObjectPolicy && j.Verb == xfrm.VerbDelete:
		old, err := r.engine.GetPolicy(ctx, *j.PolicyID)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return r.engine.AddPolicy(ctx, old) }, nil
	case j.Verb == xfrm.VerbSetDefault:
		old, err := r.engine.Defaults(ctx)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return r.engine.SetDefaults(ctx, *old) }, nil
	}
	return nil, nil
}

// takeBack undoes in reverse order, also when the user has interrupted the batch. Once SAs are
// being deleted all else is done, and stays.
func (r *xfrmRun) takeBack(ctx context.Context, cause error, undos []func(context.Context) error, deleting bool) error {
	if deleting {
		return fmt.Errorf("%w; all before it is done, and stays", cause)
	}
	ctx = context.WithoutCancel(ctx)
	var failed []error
	for _, undo := range slices.Backward(undos) {
		if err := undo(ctx); err != nil && !errors.Is(err, ipsec.ErrNotExist) {
			failed = append(failed, fmt.Errorf("could not be undone: %w", err))
		}
	}
	if failed != nil {
		return errors.Join(append([]error{cause}, failed...)...)
	}
	return fmt.Errorf("%w; what was done before has been undone", cause)
}
