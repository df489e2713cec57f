package cli

import (
	"context"
	"slices"

	"espalier/xfrm"
	"espalier/xfrm/client"
)

// batcher is an engine that takes many requests at once.
type batcher interface {
	Batch(context.Context, []client.Request) []error
}

// runSome carries out the first jobs, and returns an error or nil for each. It is one job, or if
// failures do not matter all those at the beginning that are one message each.
func (r *xfrmRun) runSome(ctx context.Context, jobs []job) []error {
	engine, many := r.engine.(batcher)
	var requests []client.Request
	if many && r.force {
		requests = requestsOf(jobs)
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

// requestsOf are the messages that the jobs at the beginning are, as far as they are no more than
// that. An SA is more: its key is looked at before, and its offload behind.
func requestsOf(jobs []job) []client.Request {
	n := slices.IndexFunc(jobs, func(j job) bool { return messageOf(&j) == 0 })
	if n < 0 {
		n = len(jobs)
	}
	requests := make([]client.Request, n)
	for i := range requests {
		switch j := &jobs[i]; messageOf(j) {
		case xfrm.MsgNewPolicy:
			requests[i] = client.AddPolicy(j.Policy)
		case xfrm.MsgUpdPolicy:
			requests[i] = client.UpdatePolicy(j.Policy)
		case xfrm.MsgDelPolicy:
			requests[i] = client.DeletePolicy(*j.PolicyID)
		case xfrm.MsgDelSA:
			requests[i] = client.DeleteState(*j.StateID)
		}
	}
	return requests
}

// messageOf is the type of the message that a job is, 0 if it is more.
func messageOf(j *job) xfrm.MsgType {
	switch {
	case j.Object == xfrm.ObjectPolicy && j.Verb == xfrm.VerbAdd:
		return xfrm.MsgNewPolicy
	case j.Object == xfrm.ObjectPolicy && j.Verb == xfrm.VerbUpdate:
		return xfrm.MsgUpdPolicy
	case j.Object == xfrm.ObjectPolicy && j.Verb == xfrm.VerbDelete:
		return xfrm.MsgDelPolicy
	case j.Object == xfrm.ObjectState && j.Verb == xfrm.VerbDelete:
		return xfrm.MsgDelSA
	}
	return 0
}
