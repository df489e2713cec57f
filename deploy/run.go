package deploy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"espalier/config"
	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/tunnel"
)

// Options of a change.
type Options struct {
	Kind        steps.Kind
	Coordinator string        // this host's name, for people
	Origin      string        // under which hosts own what they get, see steps.BeginQuestion
	Timeout     time.Duration // until hosts undo it by themselves
	Grace       time.Duration // how long old SAs are kept once the new ones are confirmed
	// Say is told what a host has done. It may be called by several goroutines.
	Say func(host, done string)
}

// Run carries out what a plan changes. hosts are those of the plan, in its order. The error is nil if
// the change is confirmed on all of them, or there is nothing to change; the report is there in any
// case, and the connections of hosts that take part have ended. If ctx ends before hosts were told to confirm, the change is undone.
func Run(ctx context.Context, plan *tunnel.Plan, hosts []Host, opt Options) (*Report, error) {
	r := reportOf(plan)
	if !plan.Changes() {
		return r, nil
	}
	c, err := newChange(plan, hosts, opt)
	if err != nil {
		r.Result = RolledBack
		return r.failed(err)
	}
	defer c.end()
	err = c.prepare(ctx)
	c.wipe()
	plan.Wipe()
	if err == nil {
		err = c.confirm(ctx)
		if err != nil && !errors.Is(err, errUndone) {
			r.Result = Unclear
			r.add(c.parts)
			return r.failed(fmt.Errorf("unclear: %w\nThe others have confirmed it. Hosts that hear of each other agree by themselves; %s after they confirmed it they can be given the same command again in any case", err, c.Timeout+steps.GivesWay))
		}
	}
	if err != nil {
		r.Result = RolledBack
		if _, unmet := errors.AsType[*Unmet](err); unmet {
			r.Result = NotMet
		}
		left := c.undo(ctx, c.patience(ctx))
		r.add(c.parts)
		return r.failed(errors.Join(fmt.Errorf("rolled back: %w", err), left))
	}
	r.Result = Confirmed
	left := c.finish(ctx)
	c.forget(ctx)
	r.add(c.parts)
	if left != nil {
		r.Why = left.Error()
		if c.Kind == steps.Down {
			return r, left
		}
	}
	return r, nil
}

func (r *Report) failed(err error) (*Report, error) {
	r.Why = err.Error()
	return r, err
}

// patience is how long an undo may take. A host that has confirmed, or may have, does not do it by
// itself when its time is over. A person who has interrupted it does not wait for long.
func (c *change) patience(ctx context.Context) time.Duration {
	for _, p := range c.parts {
		if p.stage == steps.Confirmed || p.silent {
			return 2 * c.Timeout
		}
	}
	if ctx.Err() != nil {
		return min(c.Timeout, 10*time.Second)
	}
	return min(c.Timeout, 30*time.Second)
}

// newChange gives each host its part, with SPIs and keys.
func newChange(plan *tunnel.Plan, hosts []Host, opt Options) (*change, error) {
	if opt.Say == nil {
		opt.Say = func(string, string) {}
	}
	id := make([]byte, 12)
	rand.Read(id) // never fails (crypto/rand)
	c := &change{Options: opt, id: hex.EncodeToString(id)}
	if err := plan.Fill(rand.Reader); err != nil {
		return nil, err
	}
	for i := range hosts {
		p, err := c.partOf(plan, i, &hosts[i])
		if err != nil {
			c.wipe()
			plan.Wipe()
			return nil, err
		}
		if p != nil {
			c.parts = append(c.parts, p)
		}
	}
	return c, nil
}

// partOf is a host's part; nil if it has none.
func (c *change) partOf(plan *tunnel.Plan, i int, h *Host) (*part, error) {
	ends, err := steps.PairEnds(plan, i)
	if err != nil || len(ends) == 0 {
		return nil, err
	}
	p := &part{far: &far{name: h.Name, reach: h.Dial, knock: h.Knock, conn: h.Conn}}
	p.begin = steps.BeginQuestion{
		Change: c.id, Kind: c.Kind, Coordinator: c.Coordinator, Origin: c.Origin, Timeout: c.Timeout, Grace: c.Grace, Pairs: ends,
	}
	for direction, b := range map[ipsec.Direction]*batch{ipsec.Inbound: &p.inbound, ipsec.Outbound: &p.outbound} {
		if b.payloads, err = steps.SAs(plan, i, direction); err != nil {
			p.wipe()
			return nil, err
		}
	}
	for e, pair := range plan.EndsOf(i) {
		require := pair.Of != nil && pair.Of.Offload == config.RequireOffload
		p.inbound.expect(p.name, pair.Tunnel, "in", e.Engine, e.Inbound, require)
		p.outbound.expect(p.name, pair.Tunnel, "out", e.Engine, e.Outbound, require)
	}
	return p, nil
}

func (b *batch) expect(host, name, direction, engine string, sas []tunnel.SA, require bool) {
	for i := range sas {
		b.sas = append(b.sas, SAReport{
			Host: host, Tunnel: name, Direction: direction, SPI: sas[i].SPI.String(), Src: sas[i].Src, Dst: sas[i].Dst, engine: engine,
		})
		b.require = append(b.require, require)
	}
}

func (p *part) wipe() {
	p.inbound.wipe()
	p.outbound.wipe()
}

// wipe overwrites the keys that were not sent.
func (c *change) wipe() {
	for _, p := range c.parts {
		p.wipe()
	}
}

// end ends the connections, all at once: one that is dead takes its time.
func (c *change) end() {
	var all sync.WaitGroup
	for _, p := range c.parts {
		all.Go(p.end)
	}
	all.Wait()
}
