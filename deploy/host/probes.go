package host

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"espalier/deploy/steps"
	"espalier/tunnel"
	"espalier/xfrm"
)

const (
	// probing is how often probes are sent: one may be lost, or wait until a neighbour is found.
	probing = 200 * time.Millisecond
	// looking is how often it is looked for the peers'.
	looking = 20 * time.Millisecond
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
}

// Probe sends probes inside all selectors, and waits until the inbound SAs have opened the peers'. Only
// who has their keys can make them do so.
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
	for sent, missing := -probing, len(lanes); missing > 0 && clock.Now() < deadline; {
		if clock.Now()-sent >= probing {
			sent = clock.Now()
			for _, l := range lanes {
				if l.unable != nil {
					continue
				}
				if err := h.cfg.Send(ctx, l.flow); err != nil {
					l.seen.Why = err.Error()
				}
			}
		}
		if err := clock.Sleep(ctx, looking); err != nil {
			return a, err
		}
		if missing, err = h.count(lanes); err != nil {
			return a, err
		}
	}
	for _, l := range lanes {
		if l.unable == nil && l.seen.Packets == 0 {
			a.Missing = append(a.Missing, l.seen)
			continue
		}
		if l.unable == nil {
			l.seen.Why = ""
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
		inbound := p.Inbound
		if was := c.Pairs[i].Was; len(inbound) == 0 && was != nil {
			inbound = was.Inbound
		}
		some, err := r.lanesOf(p, inbound, own)
		if err != nil {
			return nil, err
		}
		lanes = append(lanes, some...)
	}
	return lanes, nil
}

// lanesOf are those of one pair, by the request IDs that its policies and its SAs have in common.
func (r *round) lanesOf(p *steps.PairEnd, inbound []tunnel.SAID, own []netip.Addr) (lanes []*lane, err error) {
	e, err := r.engines.get(p.Engine)
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
		begun[id] = s.Current.Packets
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
		l := &lane{seen: steps.Seen{Tunnel: p.Tunnel, Remote: p.Remote, RequestID: reqid}, engine: p.Engine, inbound: by[reqid], begun: begun}
		if l.flow, l.unable = flowOf(xp, p, own); l.unable == nil && len(l.inbound) == 0 {
			l.unable = errors.New("no SA of this request ID receives")
		}
		if l.unable != nil {
			l.seen.Why = l.unable.Error()
		}
		lanes = append(lanes, l)
	}
	return lanes, nil
}

// count counts what has come since the lanes were made, and of how many lanes nothing has.
func (h *Host) count(lanes []*lane) (missing int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), roundPatience)
	defer cancel()
	all := h.engines()
	defer all.close()
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
		}
		if l.seen.Packets == 0 {
			missing++
		}
	}
	return missing, nil
}
