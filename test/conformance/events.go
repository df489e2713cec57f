package conformance

import (
	"fmt"

	"espalier/xfrm"
)

var eventCases = []Case{
	{Name: "changes of SAs", ESP: true, Want: "NEWSA UPDSA DELSA NEWSA FLUSHSA", Do: func(e *env) string {
		l := e.listen(xfrm.GroupSA)
		e.add(e.state(0x1000))
		e.must(e.Client.UpdateState(e.ctx, e.state(0x1000)))
		e.must(e.Client.DeleteState(e.ctx, e.id(0x1000)))
		e.add(e.state(0x1001))
		e.must(e.Client.FlushStates(e.ctx, 0))
		return l.of(5)
	}},
	{Name: "changes of larval SAs", Want: "DELSA", Do: func(e *env) string {
		l := e.listen(xfrm.GroupSA)
		_, err := e.larva(0x2000, 0x2000)
		e.must(err)
		e.must(e.Client.DeleteState(e.ctx, e.id(0x2000)))
		return l.of(1)
	}},
	{Name: "changes of policies", Want: "NEWPOLICY UPDPOLICY UPDPOLICY DELPOLICY FLUSHPOLICY", Do: func(e *env) string {
		l := e.listen(xfrm.GroupPolicy)
		e.install(e.elsewhere(1))
		e.must(e.Client.UpdatePolicy(e.ctx, e.elsewhere(1, priority(9))))
		e.must(e.Client.UpdatePolicy(e.ctx, e.elsewhere(2))) // which was not there
		e.must(e.Client.DeletePolicy(e.ctx, e.elsewhere(1).ID()))
		e.must(e.Client.FlushPolicies(e.ctx, xfrm.PolicyMain))
		return l.of(5)
	}},
	{Name: "requests that fail make no event", Want: "-", Do: func(e *env) string {
		e.install(e.elsewhere(1))
		l := e.listen()
		for _, err := range []error{
			e.Client.AddPolicy(e.ctx, e.elsewhere(1)), e.Client.DeletePolicy(e.ctx, e.elsewhere(2).ID()), e.Client.DeleteState(e.ctx, e.id(0x9999)),
		} {
			if err == nil {
				e.Error("a request that has to fail did not")
			}
		}
		return l.of(0)
	}},
	{Name: "what the event of a new policy tells", Want: "priority 5 reqid 7", Do: func(e *env) string {
		l := e.listen(xfrm.GroupPolicy)
		e.install(e.elsewhere(1, priority(5)))
		p := l.next().Policy
		return fmt.Sprintf("priority %d reqid %d", p.Priority, p.Tmpls[0].Reqid)
	}},
	{Name: "what the event of a deleted policy tells", Want: "selector and policy of priority 5", Do: func(e *env) string {
		e.install(e.elsewhere(1, priority(5)))
		l := e.listen(xfrm.GroupPolicy)
		e.must(e.Client.DeletePolicy(e.ctx, e.elsewhere(1).ID()))
		event := l.next()
		if event.Policy == nil || event.Policy.Sel.Dst != e.elsewhere(1).Sel.Dst {
			return fmt.Sprintf("%+v", event)
		}
		return fmt.Sprintf("selector and policy of priority %d", event.Policy.Priority)
	}},
	{Name: "other groups hear nothing", Want: "-", Do: func(e *env) string {
		l := e.listen(xfrm.GroupSA, xfrm.GroupExpire, xfrm.GroupAcquire)
		e.install(e.elsewhere(1))
		return l.of(0)
	}},
}
