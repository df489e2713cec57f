package cli

import (
	"context"

	"espalier/xfrm"
	"espalier/xfrm/client"
)

// batcher is an engine that takes many requests at once.
type batcher interface {
	Batch(context.Context, []client.Request) []error
}

// jobsAtOnce bounds the messages that wait to be sent.
const jobsAtOnce = 512

// runSome carries out the first jobs, and returns an error or nil for each. It is one job, or if
// failures do not matter all those at the beginning that are one message each.
func (r *xfrmRun) runSome(ctx context.Context, jobs []job) []error {
	engine, many := r.engine.(batcher)
	requests := make([]client.Request, 0, min(len(jobs), jobsAtOnce))
	for i := 0; i < len(jobs) && i < jobsAtOnce && many && r.force; i++ {
		request, ok := requestOf(&jobs[i])
		if !ok {
			break
		}
		requests = append(requests, request)
	}
	if len(requests) == 0 {
		return []error{r.runJob(ctx, jobs[0])}
	}
	errs := engine.Batch(ctx, requests)
	for i := range errs {
		errs[i] = r.done(jobs[i], errs[i])
	}
	return errs
}

// requestOf is the message that a job is, if it is no more than that. An SA is more: its key is
// looked at before, and its offload behind.
func requestOf(j *job) (client.Request, bool) {
	switch {
	case j.Object == xfrm.ObjectPolicy && j.Verb == xfrm.VerbAdd:
		return client.AddPolicy(j.Policy), true
	case j.Object == xfrm.ObjectPolicy && j.Verb == xfrm.VerbUpdate:
		return client.UpdatePolicy(j.Policy), true
	case j.Object == xfrm.ObjectPolicy && j.Verb == xfrm.VerbDelete:
		return client.DeletePolicy(*j.PolicyID), true
	case j.Object == xfrm.ObjectState && j.Verb == xfrm.VerbDelete:
		return client.DeleteState(*j.StateID), true
	}
	return client.Request{}, false
}
