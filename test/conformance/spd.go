package conformance

import (
	"fmt"
	"net/netip"
	"strings"

	"espalier/ipsec"
	"espalier/xfrm"
)

func priority(n uint32) func(*xfrm.Policy) { return func(p *xfrm.Policy) { p.Priority = n } }
func index(n uint32) func(*xfrm.Policy)    { return func(p *xfrm.Policy) { p.Index = n } }
func direction(d xfrm.PolicyDir) func(*xfrm.Policy) {
	return func(p *xfrm.Policy) { p.Dir = d }
}

// names are the third octets of the destinations of elsewhere's policies.
func names(all []*xfrm.Policy) string {
	words := []string{}
	for _, p := range all {
		words = append(words, fmt.Sprint(p.Sel.Dst.Addr().As4()[2]))
	}
	return strings.Join(words, " ")
}

var spdCases = []Case{
	{Name: "a policy reads back as it was added", Want: "out 10.77.0.0/16→10.78.1.0/24 proto 17 priority 5 reqid 7, an index of its direction, added", Do: func(e *env) string {
		p := e.elsewhere(1, priority(5))
		e.install(p)
		got := e.read(p.ID())
		words := fmt.Sprintf("out %s priority %d reqid %d", got.Sel.Selector, got.Priority, got.Tmpls[0].Reqid)
		if got.Index != 0 && got.Index&7 == uint32(xfrm.PolicyOut) {
			words += ", an index of its direction"
		}
		if got.Current.AddTime != 0 && got.Current.UseTime == 0 {
			words += ", added"
		}
		return words
	}},
	{Name: "adding a policy twice, with another priority", Want: "ok, EEXIST", Do: func(e *env) string {
		return verdicts(e.Client.AddPolicy(e.ctx, e.elsewhere(1)), e.Client.AddPolicy(e.ctx, e.elsewhere(1, priority(9))))
	}},
	{Name: "the same selector in other directions", Want: "ok, ok, ok", Do: func(e *env) string {
		return verdicts(e.Client.AddPolicy(e.ctx, e.elsewhere(1)), e.Client.AddPolicy(e.ctx, e.elsewhere(1, direction(xfrm.PolicyIn))), e.Client.AddPolicy(e.ctx, e.elsewhere(1, direction(xfrm.PolicyFwd))))
	}},
	{Name: "policies that are not there", Want: "get ENOENT, delete ENOENT, update ok", Do: func(e *env) string {
		p := e.elsewhere(1)
		_, err := e.Client.GetPolicy(e.ctx, p.ID())
		return fmt.Sprintf("get %s, delete %s, update %s", verdict(err), verdict(e.Client.DeletePolicy(e.ctx, p.ID())), verdict(e.Client.UpdatePolicy(e.ctx, p)))
	}},
	{Name: "an update keeps the index", Want: "ok: priority 9, the same index", Do: func(e *env) string {
		p := e.elsewhere(1)
		e.install(p)
		before := e.read(p.ID()).Index
		err := e.Client.UpdatePolicy(e.ctx, e.elsewhere(1, priority(9), index(before+80)))
		after := e.read(p.ID())
		same := "another index"
		if before == after.Index {
			same = "the same index"
		}
		return fmt.Sprintf("%s: priority %d, %s", verdict(err), after.Priority, same)
	}},
	{Name: "by index", Want: "get ok, in another direction ENOENT, delete ok, get ENOENT", Do: func(e *env) string {
		p := e.elsewhere(1)
		e.install(p)
		id := xfrm.PolicyID{Index: e.read(p.ID()).Index, Dir: p.Dir}
		_, got := e.Client.GetPolicy(e.ctx, id)
		wrong := id
		wrong.Dir = xfrm.PolicyIn
		_, other := e.Client.GetPolicy(e.ctx, wrong)
		deleted := e.Client.DeletePolicy(e.ctx, id)
		_, gone := e.Client.GetPolicy(e.ctx, id)
		return fmt.Sprintf("get %s, in another direction %s, delete %s, get %s", verdict(got), verdict(other), verdict(deleted), verdict(gone))
	}},
	{Name: "asking for an index", Want: "ok 8001, taken ok another, of another direction EINVAL", Do: func(e *env) string {
		first, second := e.elsewhere(1, index(8001)), e.elsewhere(2, index(8001))
		e.install(first, second)
		other := "another"
		if e.read(second.ID()).Index == 8001 {
			other = "the same"
		}
		return fmt.Sprintf("ok %d, taken ok %s, of another direction %s", e.read(first.ID()).Index, other, verdict(e.Client.AddPolicy(e.ctx, e.elsewhere(3, index(8002)))))
	}},
	{Name: "host bits of a selector", Want: "10.77.0.9/16", Do: func(e *env) string {
		p := e.elsewhere(1, func(p *xfrm.Policy) { p.Sel.Src = netip.MustParsePrefix("10.77.0.9/16") })
		e.install(p)
		return e.read(p.ID()).Sel.Src.String()
	}},
	{Name: "a policy with a mark", Want: "ok; without it ENOENT, with it ok", Do: func(e *env) string {
		p := e.elsewhere(1, func(p *xfrm.Policy) { p.Mark = &xfrm.Mark{Value: 5, Mask: 0xff} })
		added := e.Client.AddPolicy(e.ctx, p)
		_, without := e.Client.GetPolicy(e.ctx, e.elsewhere(1).ID())
		_, with := e.Client.GetPolicy(e.ctx, p.ID())
		return fmt.Sprintf("%s; without it %s, with it %s", verdict(added), verdict(without), verdict(with))
	}},
	{Name: "a policy with an if_id", Want: "ok; without it ENOENT, with it ok", Do: func(e *env) string {
		p := e.elsewhere(1, func(p *xfrm.Policy) { p.IfID = 5 })
		added := e.Client.AddPolicy(e.ctx, p)
		_, without := e.Client.GetPolicy(e.ctx, e.elsewhere(1).ID())
		_, with := e.Client.GetPolicy(e.ctx, p.ID())
		return fmt.Sprintf("%s; without it %s, with it %s", verdict(added), verdict(without), verdict(with))
	}},
	{Name: "getting an unmarked policy by mark or if_id", Want: "ENOENT, ENOENT", Do: func(e *env) string {
		e.install(e.elsewhere(1))
		_, marked := e.Client.GetPolicy(e.ctx, e.elsewhere(1, func(p *xfrm.Policy) { p.Mark = &xfrm.Mark{Value: 5, Mask: 0xff} }).ID())
		_, tagged := e.Client.GetPolicy(e.ctx, e.elsewhere(1, func(p *xfrm.Policy) { p.IfID = 5 }).ID())
		return verdicts(marked, tagged)
	}},
	{Name: "an optional template", Want: "in tunnel ok, out transport ok, out tunnel EINVAL", Do: func(e *env) string {
		optional := func(mode xfrm.Mode) func(*xfrm.Policy) {
			return func(p *xfrm.Policy) { p.Tmpls[0].Optional, p.Tmpls[0].Mode = true, mode }
		}
		return fmt.Sprintf("in tunnel %s, out transport %s, out tunnel %s",
			verdict(e.Client.AddPolicy(e.ctx, e.elsewhere(1, direction(xfrm.PolicyIn), optional(xfrm.ModeTunnel)))),
			verdict(e.Client.AddPolicy(e.ctx, e.elsewhere(2, optional(xfrm.ModeTransport)))),
			verdict(e.Client.AddPolicy(e.ctx, e.elsewhere(3, optional(xfrm.ModeTunnel)))))
	}},
	{Name: "two templates", Want: "ok", Do: func(e *env) string {
		return verdict(e.Client.AddPolicy(e.ctx, e.elsewhere(1, func(p *xfrm.Policy) { p.Tmpls = append(p.Tmpls, p.Tmpls[0]) })))
	}},
	{Name: "an out tunnel to nowhere", Want: "ok", Do: func(e *env) string {
		return verdict(e.Client.AddPolicy(e.ctx, e.elsewhere(1, func(p *xfrm.Policy) {
			p.Tmpls[0].Mode, p.Tmpls[0].Src, p.Tmpls[0].Dst = xfrm.ModeTunnel, netip.IPv4Unspecified(), netip.IPv4Unspecified()
		})))
	}},
	{Name: "a block policy with a template", Want: "ok, reads back with 1", Do: func(e *env) string {
		p := e.elsewhere(1, func(p *xfrm.Policy) { p.Action = xfrm.PolicyBlock })
		err := e.Client.AddPolicy(e.ctx, p)
		return fmt.Sprintf("%s, reads back with %d", verdict(err), len(e.read(p.ID()).Tmpls))
	}},
	{Name: "flags of a policy", Want: "localok ok, icmp ok", Do: func(e *env) string {
		return fmt.Sprintf("localok %s, icmp %s", verdict(e.Client.AddPolicy(e.ctx, e.elsewhere(1, func(p *xfrm.Policy) { p.Flags = xfrm.PolicyLocalOK }))),
			verdict(e.Client.AddPolicy(e.ctx, e.elsewhere(2, func(p *xfrm.Policy) { p.Flags = xfrm.PolicyICMP }))))
	}},
	{Name: "limits of a policy", Want: "of time ok 10 20 30 40, of packets ok", Do: func(e *env) string {
		p := e.elsewhere(1, func(p *xfrm.Policy) {
			p.Limits.SoftAdd, p.Limits.HardAdd, p.Limits.SoftUse, p.Limits.HardUse = 10, 20, 30, 40
		})
		err := e.Client.AddPolicy(e.ctx, p)
		l := e.read(p.ID()).Limits
		return fmt.Sprintf("of time %s %d %d %d %d, of packets %s", verdict(err), l.SoftAdd, l.HardAdd, l.SoftUse, l.HardUse,
			verdict(e.Client.AddPolicy(e.ctx, e.elsewhere(2, func(p *xfrm.Policy) { p.Limits.HardPackets = 10 }))))
	}},
	{Name: "policies of sub type", Want: "ok", Do: func(e *env) string {
		return verdict(e.Client.FlushPolicies(e.ctx, xfrm.PolicySub))
	}},
	{Name: "a selector with an interface", Want: "ok", Do: func(e *env) string {
		return verdict(e.Client.AddPolicy(e.ctx, e.elsewhere(1, func(p *xfrm.Policy) { p.Sel.Interface = 1 })))
	}},
	{Name: "policies are listed newest first", Want: "2 3 1; after an update of 1: 1 2 3", Do: func(e *env) string {
		e.install(e.elsewhere(1), e.elsewhere(3), e.elsewhere(2, direction(xfrm.PolicyIn)))
		before := names(e.policies())
		e.must(e.Client.UpdatePolicy(e.ctx, e.elsewhere(1, priority(9))))
		return before + "; after an update of 1: " + names(e.policies())
	}},
	{Name: "counting and flushing policies", Want: "2 out 1 in 1 fwd, then ok 0 0 0, again ok without an event", Do: func(e *env) string {
		e.install(e.elsewhere(1), e.elsewhere(2), e.elsewhere(1, direction(xfrm.PolicyIn)), e.elsewhere(1, direction(xfrm.PolicyFwd)))
		before, err := e.Client.SPDInfo(e.ctx)
		e.must(err)
		flushed := e.Client.FlushPolicies(e.ctx, xfrm.PolicyMain)
		after, err := e.Client.SPDInfo(e.ctx)
		e.must(err)
		l := e.listen(xfrm.GroupPolicy)
		again := verdict(e.Client.FlushPolicies(e.ctx, xfrm.PolicyMain))
		if words := l.of(0); words == "-" {
			again += " without an event"
		}
		return fmt.Sprintf("%d out %d in %d fwd, then %s %d %d %d, again %s", before.Out, before.In, before.Fwd, verdict(flushed), after.Out, after.In, after.Fwd, again)
	}},
	{Name: "the default policy", Want: "accept accept accept; set accept ok GETDEFAULT, block ok", Do: func(e *env) string {
		d, err := e.Client.Defaults(e.ctx)
		if err != nil {
			return verdict(err)
		}
		word := func(a xfrm.DefaultAction) string {
			return map[xfrm.DefaultAction]string{xfrm.DefaultAccept: "accept", xfrm.DefaultBlock: "block"}[a]
		}
		l := e.listen(xfrm.GroupPolicy)
		accepted := e.Client.SetDefaults(e.ctx, xfrm.Defaults{Fwd: xfrm.DefaultAccept})
		events := l.of(1)
		blocked := e.Client.SetDefaults(e.ctx, xfrm.Defaults{Fwd: xfrm.DefaultBlock})
		e.must(e.Client.SetDefaults(e.ctx, xfrm.Defaults{Fwd: xfrm.DefaultAccept}))
		return fmt.Sprintf("%s %s %s; set accept %s %s, block %s", word(d.In), word(d.Fwd), word(d.Out), verdict(accepted), events, verdict(blocked))
	}},
}

// reqids are told apart in acquires.
func asks(reqid uint32) func(*xfrm.Policy) {
	return func(p *xfrm.Policy) { p.Tmpls[0].Reqid = reqid }
}

func toPort(n uint16) func(*xfrm.Policy) {
	return func(p *xfrm.Policy) { p.Sel.DstPort = ipsec.Port(n) }
}

// decides says which policy a packet falls under, by the reqid it asks an SA of.
func (e *env) decides(l *listener) uint32 {
	e.Helper()
	e.must(e.Client.FlushStates(e.ctx, 0)) // larval SAs would hold the next back
	e.send(1)
	for {
		if event := l.next(); event.Kind == xfrm.MsgAcquire {
			return event.Policy.Tmpls[0].Reqid
		}
	}
}

var selectionCases = []Case{
	{Name: "the lowest priority number decides", Want: "2", Do: func(e *env) string {
		e.install(e.policy(priority(20), asks(1)), e.policy(priority(10), asks(2), toPort(port)), e.policy(priority(30), asks(3), func(p *xfrm.Policy) { p.Sel.Protocol = 0 }))
		return fmt.Sprint(e.decides(e.listen(xfrm.GroupAcquire)))
	}},
	{Name: "of equal priority the first added decides", Want: "1, after its update with the same priority 1, with a larger one 2", Do: func(e *env) string {
		first, second := e.policy(priority(10), asks(1)), e.policy(priority(10), asks(2), toPort(port))
		e.install(first, second)
		l := e.listen(xfrm.GroupAcquire)
		before := e.decides(l)
		e.must(e.Client.UpdatePolicy(e.ctx, first))
		same := e.decides(l)
		first.Priority = 11
		e.must(e.Client.UpdatePolicy(e.ctx, first))
		return fmt.Sprintf("%d, after its update with the same priority %d, with a larger one %d", before, same, e.decides(l))
	}},
	{Name: "a block policy asks for no SA", Want: "-", Do: func(e *env) string {
		e.install(e.policy(func(p *xfrm.Policy) { p.Action, p.Tmpls = xfrm.PolicyBlock, nil }))
		l := e.listen(xfrm.GroupAcquire)
		e.send(1)
		return l.of(0)
	}},
	{Name: "an allow policy before a protecting one", Want: "-", Do: func(e *env) string {
		e.install(e.policy(priority(20)), e.policy(priority(10), toPort(port), func(p *xfrm.Policy) { p.Tmpls = nil }))
		l := e.listen(xfrm.GroupAcquire)
		e.send(1)
		return l.of(0)
	}},
	{Name: "an optional template asks for an SA too", Want: "ACQUIRE", Do: func(e *env) string {
		e.install(e.policy(func(p *xfrm.Policy) { p.Tmpls[0].Optional = true }))
		l := e.listen(xfrm.GroupAcquire)
		e.send(1)
		return l.of(1)
	}},
	{Name: "the use of a policy is told", Want: "unused, used", Do: func(e *env) string {
		p := e.policy(func(p *xfrm.Policy) { p.Action, p.Tmpls = xfrm.PolicyBlock, nil })
		e.install(p)
		word := func() string {
			if e.read(p.ID()).Current.UseTime == 0 {
				return "unused"
			}
			return "used"
		}
		before := word()
		e.send(1)
		return before + ", " + e.eventually(word, "used")
	}},
	{Name: "the newest SA sends", ESP: true, Want: "1000: 0, 1001: 1", Do: func(e *env) string {
		e.install(e.policy())
		e.add(e.state(0x1000), e.state(0x1001))
		e.send(1)
		return e.eventually(func() string { return fmt.Sprintf("1000: %d, 1001: %d", e.carried(0x1000), e.carried(0x1001)) }, "1000: 0, 1001: 1")
	}},
	{Name: "a newer SA takes over from one in use", ESP: true, Want: "1000: 1, 1001: 1", Do: func(e *env) string {
		e.install(e.policy())
		e.add(e.state(0x1000))
		e.send(1)
		e.settle(0x1000, 1)
		e.add(e.state(0x1001))
		e.send(1)
		return e.eventually(func() string { return fmt.Sprintf("1000: %d, 1001: %d", e.carried(0x1000), e.carried(0x1001)) }, "1000: 1, 1001: 1")
	}},
	{Name: "SAs of the CPUs send, not one for all that is newer", ESP: true, Want: "of the CPUs 8, for all 0; without them for all 3", Do: func(e *env) string {
		e.install(e.policy())
		cpus := e.addForCPUs(0x2000)
		e.add(e.state(0x1000, outbound))
		ofCPUs := func() (n uint64) {
			for i := range cpus {
				n += e.carried(0x2000 + ipsec.SPI(i))
			}
			return n
		}
		e.send(8)
		with := e.eventually(func() string { return fmt.Sprintf("of the CPUs %d, for all %d", ofCPUs(), e.carried(0x1000)) }, "of the CPUs 8, for all 0")
		for i := range cpus {
			e.must(e.Client.DeleteState(e.ctx, e.id(0x2000+ipsec.SPI(i))))
		}
		e.send(3)
		return with + "; without them " + e.eventually(func() string { return fmt.Sprintf("for all %d", e.carried(0x1000)) }, "for all 3")
	}},
	{Name: "an SA beyond its soft limit is not preferred", ESP: true, Want: "1000: 1, 1001: 2", Do: func(e *env) string {
		e.install(e.policy())
		l := e.listen(xfrm.GroupExpire)
		e.add(e.state(0x1000), e.state(0x1001, func(s *xfrm.State) { s.Limits.SoftPackets = 1 }))
		e.send(2) // the second finds the limit reached
		l.next()
		e.settle(0x1001, 2)
		e.send(1)
		return e.eventually(func() string { return fmt.Sprintf("1000: %d, 1001: %d", e.carried(0x1000), e.carried(0x1001)) }, "1000: 1, 1001: 2")
	}},
	{Name: "reqid 0 of a template is no wildcard", ESP: true, Want: "ACQUIRE", Do: func(e *env) string {
		e.install(e.policy(asks(0)))
		e.add(e.state(0x1000))
		l := e.listen(xfrm.GroupAcquire)
		e.send(1)
		return l.of(1)
	}},
	{Name: "an SA whose selector does not hold the packet", ESP: true, Want: "ACQUIRE, 0 packets", Do: func(e *env) string {
		e.install(e.policy())
		e.add(e.state(0x1000, func(s *xfrm.State) {
			s.Sel = e.policy(toPort(port + 1)).Sel
		}))
		l := e.listen(xfrm.GroupAcquire)
		e.send(1)
		return fmt.Sprintf("%s, %d packets", l.of(1), e.carried(0x1000))
	}},
	{Name: "a template that names an SPI", ESP: true, Want: "1000: 1, 1001: 0", Do: func(e *env) string {
		e.install(e.policy(func(p *xfrm.Policy) { p.Tmpls[0].SPI = 0x1000 }))
		e.add(e.state(0x1000), e.state(0x1001))
		e.send(1)
		return e.eventually(func() string { return fmt.Sprintf("1000: %d, 1001: %d", e.carried(0x1000), e.carried(0x1001)) }, "1000: 1, 1001: 0")
	}},
	{Name: "a tunnel by its end points", ESP: true, Want: "1000: 1", Do: func(e *env) string {
		e.install(e.policy(func(p *xfrm.Policy) { p.Tmpls[0].Mode = xfrm.ModeTunnel }))
		e.add(e.state(0x1000, func(s *xfrm.State) { s.Mode = xfrm.ModeTunnel }))
		e.send(1)
		return e.eventually(func() string { return fmt.Sprintf("1000: %d", e.carried(0x1000)) }, "1000: 1")
	}},
}
