package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"

	"espalier/ipsec"
	"espalier/xfrm"
)

// engineFailure gives an error of an engine its exit code.
func engineFailure(err error) error {
	var coded *exitError
	if errors.As(err, &coded) || errors.Is(err, context.Canceled) {
		return err
	}
	return &exitError{exitXfrmEngine, err}
}

func (r *xfrmRun) runJob(ctx context.Context, j job) error {
	switch j.Object {
	case xfrm.ObjectPolicy:
		return r.runPolicy(ctx, j)
	case xfrm.ObjectMonitor:
		return r.monitor(ctx, j)
	}
	return r.runState(ctx, j)
}

func (r *xfrmRun) runState(ctx context.Context, j job) error {
	switch j.Verb {
	case xfrm.VerbAdd, xfrm.VerbUpdate:
		return r.installState(ctx, j)
	case xfrm.VerbAllocSPI:
		s, err := r.engine.AllocateSPI(ctx, j.SPIRange)
		if err != nil {
			return err
		}
		return r.showStates(j, []*xfrm.State{s})
	case xfrm.VerbDelete:
		return r.done(j, r.engine.DeleteState(ctx, *j.StateID))
	case xfrm.VerbGet:
		s, err := r.engine.GetState(ctx, *j.StateID)
		if err != nil {
			return err
		}
		return r.showStates(j, []*xfrm.State{s})
	case xfrm.VerbList, xfrm.VerbDeleteAll:
		states, err := r.listStates(ctx, *j.StateFilter)
		if err != nil {
			return err
		}
		if j.Verb == xfrm.VerbDeleteAll {
			return r.deleteStates(ctx, j, states)
		}
		return r.showStates(j, states)
	case xfrm.VerbCount:
		return r.countStates(ctx, j)
	case xfrm.VerbFlush:
		return r.done(j, r.engine.FlushStates(ctx, j.FlushProto))
	}
	return fmt.Errorf("%s %s: %w", j.Object, j.Verb, ipsec.ErrUnsupported)
}

func (r *xfrmRun) deviceName(index int) string {
	if name := r.names.name(index); name != "" {
		return name
	}
	return fmt.Sprintf("interface %d", index)
}

// listStates asks for all and filters again: an engine may leave that to the asker.
func (r *xfrmRun) listStates(ctx context.Context, filter xfrm.StateFilter) ([]*xfrm.State, error) {
	var states []*xfrm.State
	for s, err := range r.engine.States(ctx, filter) {
		if err != nil {
			return nil, err
		}
		if filter.Match(s) {
			states = append(states, s)
		}
	}
	return states, nil
}

// deleteStates goes on when one has gone by itself.
func (r *xfrmRun) deleteStates(ctx context.Context, j job, states []*xfrm.State) error {
	for _, s := range states {
		if err := r.engine.DeleteState(ctx, s.ID()); err != nil && !errors.Is(err, ipsec.ErrNotExist) {
			return err
		}
	}
	return r.done(j, nil)
}

func (r *xfrmRun) runPolicy(ctx context.Context, j job) error {
	switch j.Verb {
	case xfrm.VerbAdd:
		return r.done(j, r.engine.AddPolicy(ctx, j.Policy))
	case xfrm.VerbUpdate:
		return r.done(j, r.engine.UpdatePolicy(ctx, j.Policy))
	case xfrm.VerbDelete:
		return r.done(j, r.engine.DeletePolicy(ctx, *j.PolicyID))
	case xfrm.VerbGet:
		p, err := r.engine.GetPolicy(ctx, *j.PolicyID)
		if err != nil {
			return err
		}
		return r.showPolicies(j, []*xfrm.Policy{p})
	case xfrm.VerbList:
		if !r.format.isData() {
			debug.SetGCPercent(lavishGC)
			return r.printPolicies(j, r.policies(ctx, j.PolicyQuery))
		}
		policies, err := r.listPolicies(ctx, j.PolicyQuery)
		if err != nil {
			return err
		}
		return r.showPolicies(j, policies)
	case xfrm.VerbDeleteAll:
		policies, err := r.listPolicies(ctx, j.PolicyQuery)
		if err != nil {
			return err
		}
		return r.deletePolicies(ctx, j, policies)
	case xfrm.VerbCount:
		return r.countPolicies(ctx, j)
	case xfrm.VerbFlush:
		return r.done(j, r.engine.FlushPolicies(ctx, j.FlushType))
	case xfrm.VerbSet:
		return r.done(j, r.engine.SetThresholds(ctx, j.Thresholds))
	case xfrm.VerbSetDefault:
		return r.done(j, r.engine.SetDefaults(ctx, j.Defaults))
	case xfrm.VerbGetDefault:
		d, err := r.engine.Defaults(ctx)
		if err != nil {
			return err
		}
		return r.showDefaults(j, d)
	}
	return fmt.Errorf("%s %s: %w", j.Object, j.Verb, ipsec.ErrUnsupported)
}

// policies are those a query selects, as they come.
func (r *xfrmRun) policies(ctx context.Context, q *xfrm.PolicyQuery) iter.Seq2[*xfrm.Policy, error] {
	return func(yield func(*xfrm.Policy, error) bool) {
		for p, err := range r.engine.Policies(ctx) {
			if (err != nil || q.Match(p)) && !yield(p, err) {
				return
			}
		}
	}
}

func (r *xfrmRun) listPolicies(ctx context.Context, q *xfrm.PolicyQuery) (policies []*xfrm.Policy, err error) {
	for p, err := range r.policies(ctx, q) {
		if err != nil {
			return nil, err
		}
		policies = append(policies, p)
	}
	return policies, nil
}

// deletePolicies leaves those of sockets alone: they cannot be deleted this way.
func (r *xfrmRun) deletePolicies(ctx context.Context, j job, policies []*xfrm.Policy) error {
	for _, p := range policies {
		if p.IsSocket() {
			continue
		}
		id := p.ID()
		id.Index = p.Index
		if err := r.engine.DeletePolicy(ctx, id); err != nil && !errors.Is(err, ipsec.ErrNotExist) {
			return err
		}
	}
	return r.done(j, nil)
}

func (r *xfrmRun) countStates(ctx context.Context, j job) error {
	i, err := r.engine.SADInfo(ctx)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("\t SAD count %d", i.Count)
	if r.stats {
		text += fmt.Sprintf(" (buckets count %d Max %d)", i.HashBuckets, i.HashMax)
	}
	return r.showCount(j, text+"\n", map[string]uint32{"states": i.Count})
}

func (r *xfrmRun) countPolicies(ctx context.Context, j job) error {
	i, err := r.engine.SPDInfo(ctx)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("\t SPD IN  %d OUT %d FWD %d", i.In, i.Out, i.Fwd)
	if r.stats {
		text += fmt.Sprintf(" (Sock: IN %d OUT %d FWD %d)", i.SocketIn, i.SocketOut, i.SocketFwd)
	}
	if r.format == formatOneLine {
		text += "\\"
	}
	return r.showCount(j, text+"\n", map[string]uint32{
		"in": i.In, "out": i.Out, "fwd": i.Fwd,
		"socket_in": i.SocketIn, "socket_out": i.SocketOut, "socket_fwd": i.SocketFwd,
	})
}
