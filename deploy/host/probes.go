package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"espalier/deploy/steps"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tunnel"
	"espalier/xfrm"
)

const (
	// probing is how often probes are sent: one may be lost, or wait until a neighbour is found.
	probing = 200 * time.Millisecond
	// looking is how often it is looked for the peers'.
	looking = 20 * time.Millisecond
	// spreadRounds is how often flows are sent besides the probe, so that SAs of all queues carry one.
	spreadRounds = 2
	// longestProbe bounds the wait for the peers'.
	longestProbe = 5 * time.Minute
)

// lane is what is probed by itself: a policy that sends, and the SAs for the same traffic from the peer.
type lane struct {
	seen    steps.Seen
	engine  string
	inbound []tunnel.SAID
	flow    Flow
	unable  error
	begun   map[tunnel.SAID]uint64 // packets when the waiting began
	first   bool                   // nothing has been seen yet by its SAs, which are new
	unsent  error                  // nothing can be sent from here; the peer may
	mute    bool                   // it is not even tried
	spread  int                    // how many other flows are sent besides, for SAs of several queues
	carried map[tunnel.SAID]bool   // something has come since
	out     ipsec.Selector         // of what is sent
	excused string                 // why nothing will come, although it might be sent; "": it will

	// policies decide on what comes of the lane, where its SAs serve other lanes as well; used is when they
	// last did as the waiting began.
	policies []xfrm.PolicyID
	used     []uint64

	spreadBy Flow // what is sent besides, from ports that are free
}

// Probe sends probes inside all selectors, and waits until the inbound SAs have opened the peers'. Only
// who has their keys can make them do so. Until some have been seen, what new SAs have opened before counts.
func (h *Host) Probe(ctx context.Context, q steps.ProbeQuestion) (a steps.ProbeAnswer, err error) {
	var lanes []*lane
	err = h.under(ctx, func(r *round) (err error) {
		c, err := r.openChange(q.Change)
		if err == nil {
			lanes, err = r.lanes(c)
		}
		return err
	})
	if err != nil {
		return a, err
	}
	clock := h.cfg.Clock
	deadline := clock.Now() + min(q.Within, longestProbe)
	enough := clock.Now()
	for _, l := range lanes {
		l.excuse(q.Excused)
		// The peer may begin to count a little later, and what came before does not count; and other SAs of a pair
		// take a few flows more.
		if !l.first || l.spread > 0 {
			enough = min(clock.Now()+2*probing, deadline)
		}
	}
	engines := h.engines()
	defer engines.close()
	rounds := 0
	for sent, missing := -probing, len(lanes); clock.Now() < enough || missing > 0 && clock.Now() < deadline; {
		if clock.Now()-sent >= probing {
			sent = clock.Now()
			for _, l := range lanes {
				if l.unable != nil || l.mute {
					continue
				}
				if rounds < spreadRounds {
					l.sendSpread(ctx, h.cfg.Send)
				}
				if err := h.cfg.Send(ctx, l.flow); errors.Is(err, unix.EADDRINUSE) {
					l.unsent = err
				} else if err != nil {
					l.seen.Why = err.Error()
				}
			}
			rounds++
		}
		pause := looking
		if missing == 0 {
			pause = min(probing, enough-clock.Now())
		}
		if err := clock.Sleep(ctx, pause); err != nil {
			return a, err
		}
		if missing, err = count(engines, slices.DeleteFunc(slices.Clone(lanes), (*lane).arrived)); err != nil {
			return a, err
		}
	}
	if _, err := count(engines, lanes); err != nil {
		return a, err
	}
	for _, l := range lanes {
		if l.unsent != nil {
			said := l.seen
			said.Selector, said.Packets, said.Why = l.out.String(), 0, l.unsent.Error()
			a.Unsendable = append(a.Unsendable, said)
		}
		switch {
		case l.unable != nil:
		case l.seen.Packets == 0 && l.excused == "":
			a.Missing = append(a.Missing, l.seen)
			continue
		case l.seen.Packets == 0:
			l.seen.Why = l.excused
		default:
			l.seen.Why = l.idle()
		}
		a.Seen = append(a.Seen, l.seen)
	}
	if len(a.Missing) > 0 {
		return a, nil
	}
	return a, h.under(ctx, func(r *round) error {
		c, err := r.openChange(q.Change)
		if err != nil || c.Probed {
			return err
		}
		c.Probed = true
		return r.write(r.j)
	})
}

// excuse looks for a lane among those that the peer cannot send by.
func (l *lane) excuse(all []steps.Seen) {
	for _, e := range all {
		if e.Tunnel == l.seen.Tunnel && e.Local == l.seen.Remote && e.Remote == l.seen.Local && e.Selector == l.seen.Selector {
			l.excused = fmt.Sprintf("nothing can be tried from %s to %s: %s", e.Local, e.Remote, e.Why)
		}
	}
}

// mostFlows are sent besides a probe at most.
const mostFlows = 256

// spreadOver has flows sent for each of several SAs that send, if there is more than one flow of UDP inside the selector:
// which queue sends a packet, and so by which SA, goes by its flow.
func (l *lane) spreadOver(s ipsec.Selector, sas int) {
	if sas > 1 && (s.Protocol == 0 || s.Protocol == inet.ProtoUDP && s.SrcPort.Any()) {
		l.spread = min(4*sas, mostFlows)
	}
}

// sendSpread sends datagrams of several flows, from ports that are free.
func (l *lane) sendSpread(ctx context.Context, send func(context.Context, Flow) error) {
	for range l.spread {
		if send(ctx, l.spreadBy) != nil {
			return // it is only tried
		}
	}
}

// idle tells how many of several SAs have carried nothing.
func (l *lane) idle() string {
	n := 0
	for _, id := range l.inbound {
		if !l.carried[id] {
			n++
		}
	}
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d SAs from %s have carried nothing yet: what other CPUs or queues send goes by them", n, len(l.inbound), l.seen.Remote)
}

// lanes are those of all pairs of a change that stay.
func (r *round) lanes(c *Change) (lanes []*lane, err error) {
	own, err := r.cfg.Addresses()
	if err != nil {
		return nil, err
	}
	for i := range c.Begin.Pairs {
		p := &c.Begin.Pairs[i]
		if leaves(c.Begin.Kind, p) {
			continue
		}
		inbound, outbound := p.Inbound, p.Outbound
		if was := c.Pairs[i].Was; len(inbound) == 0 && was != nil {
			inbound, outbound = was.Inbound, was.Outbound
		}
		some, err := r.lanesOf(p, inbound, len(outbound), own, !c.Probed && len(p.Inbound) > 0)
		if err != nil {
			return nil, err
		}
		lanes = append(lanes, some...)
	}
	return lanes, nil
}

// lanesOf are those of one pair, by the request IDs that its policies and its SAs have in common. sending is
// how many SAs it sends by.
func (r *round) lanesOf(p *steps.PairEnd, inbound []tunnel.SAID, sending int, own []netip.Addr, first bool) (lanes []*lane, err error) {
	e, err := r.engines.get(p.Engine)
	if err != nil {
		return nil, err
	}
	all, err := r.engines.sending(r.ctx, p.Engine)
	if err != nil {
		return nil, err
	}
	by := map[uint32][]tunnel.SAID{}
	begun := map[tunnel.SAID]uint64{}
	for _, id := range inbound {
		s, err := e.GetState(r.ctx, stateID(id))
		if err != nil {
			return nil, err
		}
		s.WipeKeys()
		by[s.Reqid] = append(by[s.Reqid], id)
		if !first {
			begun[id] = s.Current.Packets
		}
	}
	for _, payload := range p.Policies {
		xp, err := xfrm.DecodePolicy(payload)
		if err != nil {
			return nil, err
		}
		if xp.Dir != xfrm.PolicyOut || xp.Action != xfrm.PolicyAllow || len(xp.Tmpls) == 0 {
			continue
		}
		reqid := xp.Tmpls[0].Reqid
		l := &lane{
			seen:   steps.Seen{Tunnel: p.Tunnel, Local: p.Local, Remote: p.Remote, Selector: mirrored(xp.Sel.Selector).String(), RequestID: reqid},
			engine: p.Engine, inbound: by[reqid], begun: begun, first: first, carried: map[tunnel.SAID]bool{}, out: xp.Sel.Selector,
		}
		live := livePolicy(xp)
		l.flow, l.unable = flowOf(&live.Policy, p, own, r.cfg.Interface, all)
		if _, ok := errors.AsType[*noInterface](l.unable); ok || errors.Is(l.unable, tunnel.ErrElsewhere) {
			l.unable, l.unsent, l.mute = nil, l.unable, true
		}
		if l.unable == nil && len(l.inbound) == 0 {
			l.unable = errors.New("no SA of this request ID receives")
		}
		if l.spreadOver(xp.Sel.Selector, sending); l.spread > 0 {
			if l.spreadBy, err = flowOf(&live.Policy, p, own, r.cfg.Interface, all, inet.ProtoUDP); err != nil {
				l.spread = 0
			}
		}
		if l.unable != nil {
			l.seen.Why = l.unable.Error()
		}
		lanes = append(lanes, l)
	}
	for _, l := range lanes {
		shares := func(other *lane) bool { return other != l && other.seen.RequestID == l.seen.RequestID }
		if l.unable != nil || !slices.ContainsFunc(lanes, shares) {
			continue
		}
		if err := r.watchPolicies(e, p, l); err != nil {
			return nil, err
		}
	}
	return lanes, nil
}

// watchPolicies has a lane tell its packets from those of others that come by the same SAs: by when the
// policies for them were used. A NIC that has the policies does not tell.
func (r *round) watchPolicies(e Engine, p *steps.PairEnd, l *lane) error {
	l.first = false // policies may be older than SAs
	for _, payload := range p.Policies {
		xp, err := xfrm.DecodePolicy(payload)
		if err != nil {
			return err
		}
		if !receives(xp) || xp.Offload != nil || xp.Tmpls[0].Reqid != l.seen.RequestID || xp.Sel.Selector != mirrored(l.out) {
			continue
		}
		there, err := e.GetPolicy(r.ctx, xp.ID())
		if err != nil {
			return err
		}
		l.policies, l.used = append(l.policies, xp.ID()), append(l.used, there.Current.UseTime)
	}
	return nil
}

// mirrored is the selector of what is sent the other way. Types and codes of ICMP stay where they are.
func mirrored(s ipsec.Selector) ipsec.Selector {
	s.Src, s.Dst = s.Dst, s.Src
	if s.Protocol != inet.ProtoICMP && s.Protocol != inet.ProtoICMPv6 {
		s.SrcPort, s.DstPort = s.DstPort, s.SrcPort
	}
	return s
}

// arrived reports whether something has come since the lane was made.
func (l *lane) arrived() bool { return l.unable != nil || l.seen.Packets > 0 }

// count counts what has come since the lanes were made, and of how many lanes nothing has.
func count(all *engines, lanes []*lane) (missing int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), roundPatience)
	defer cancel()
	for _, l := range lanes {
		if l.unable != nil {
			continue
		}
		e, err := all.get(l.engine)
		if err != nil {
			return 0, err
		}
		l.seen.Packets = 0
		for _, id := range l.inbound {
			n, err := received(ctx, e, id)
			if err != nil {
				return 0, err
			}
			l.seen.Packets += n - min(n, l.begun[id])
			l.carried[id] = n > l.begun[id]
		}
		if l.seen.Packets > 0 {
			inside, err := l.inside(ctx, e)
			if err != nil {
				return 0, err
			}
			if !inside {
				l.seen.Packets, l.seen.Why = 0, "what comes by its SAs is of other selectors than "+l.seen.Selector
			}
		}
		if l.seen.Packets == 0 && l.excused == "" {
			missing++
		}
	}
	return missing, nil
}

// inside reports whether something has come inside the lane's selector.
func (l *lane) inside(ctx context.Context, e Engine) (bool, error) {
	for i, id := range l.policies {
		p, err := e.GetPolicy(ctx, id)
		if err != nil {
			return false, err
		}
		if p.Current.UseTime != l.used[i] {
			return true, nil
		}
	}
	return len(l.policies) == 0, nil
}
