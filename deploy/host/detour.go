package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"espalier/deploy/boot"
	"espalier/deploy/steps"
	"espalier/guard"
	"espalier/ipsec"
	"espalier/tunnel"
	"espalier/xfrm"
)

// Detour is ssh of this host's that goes outside of a tunnel for a while: its policies are there, and the guard lets
// it pass.
type Detour struct {
	Tunnel   string      `json:"tunnel"`
	Engine   string      `json:"engine"`
	Local    netip.Addr  `json:"local"` // of the pair
	Remote   netip.Addr  `json:"remote"`
	Policies []Policy    `json:"policies"`
	For      []processID `json:"for"` // it ends with the last of them
}

// processID is a process that no other one is taken for.
type processID struct {
	PID   int    `json:"pid"`
	Begun string `json:"begun"` // in clock ticks of the boot
	Boot  string `json:"boot"`
}

// Detour has ssh to peers go outside of their tunnels, or go through them again. Where a pair has no policies here
// nothing is needed for it: its guard lets ssh pass already.
func (h *Host) Detour(ctx context.Context, q steps.DetourQuestion) (a steps.DetourAnswer, err error) {
	err = h.under(ctx, func(r *round) error {
		me := processID{os.Getpid(), begun(os.Getpid()), r.cfg.Clock.BootID()}
		if q.End {
			return r.endDetours(func(d *Detour) {
				if slices.Contains(q.Remotes, d.Remote) {
					d.For = slices.DeleteFunc(d.For, func(p processID) bool { return p == me })
				}
			})
		}
		if c := r.j.Change; c.open() && !(c.Stage == steps.Confirmed && r.yieldsIn(c) == 0) {
			return nil // what is to be guarded is about to change; if the peer has lost its SAs this will be undone
		}
		owned, err := inPlan(r.j.Owned, r.cfg.Clock)
		if err != nil {
			return err
		}
		var errs []error
		for i := range owned {
			if !slices.Contains(q.Remotes, owned[i].Remote) || r.j.Owned[i].Opened || r.bare(&r.j.Owned[i]) {
				continue
			}
			made, err := r.detour(&r.j.Owned[i], &owned[i], me)
			if errs = append(errs, err); made {
				a.Tunnels = append(a.Tunnels, owned[i].Tunnel)
			}
		}
		err = errors.Join(errs...)
		if err != nil {
			err = errors.Join(err, r.endDetours(func(d *Detour) { d.For = slices.DeleteFunc(d.For, func(p processID) bool { return p == me }) }))
		}
		if r.nothing() { // asking leaves nothing behind
			r.clean()
		}
		return err
	})
	return a, err
}

// detour has ssh of a pair go outside of it; o and planned are the same. made: there is some.
func (r *round) detour(o *Owned, planned *tunnel.Owned, me processID) (made bool, err error) {
	d := Detour{Tunnel: o.Tunnel, Engine: o.Engine, Local: o.Local, Remote: o.Remote, For: []processID{me}}
	for _, way := range o.Detours {
		if way.Serves {
			continue
		}
		for _, p := range way.Policies(planned.Policies) {
			payload, err := steps.EncodePolicy(&p)
			if err != nil {
				return false, err
			}
			d.Policies = append(d.Policies, Policy{payload, p.ID().String()})
		}
	}
	if len(d.Policies) == 0 {
		return false, nil
	}
	e, err := r.engines.get(d.Engine)
	if err != nil {
		return false, err
	}
	if i := r.j.detour(o); i >= 0 {
		d.For = with(r.j.Detours[i].For, me)
		r.j.Detours[i] = d
	} else {
		for _, p := range d.Policies {
			if err := r.mustBeFree(e, p); err != nil {
				return false, err
			}
		}
		r.j.Detours = append(r.j.Detours, d)
	}
	if err := errors.Join(r.write(r.j), r.keep()); err != nil { // who takes it away must know of it
		return false, err
	}
	for _, p := range d.Policies {
		xp, err := xfrm.DecodePolicy(p.Payload)
		if err == nil {
			err = put(r.ctx, e, xp)
		}
		if err != nil {
			return false, err
		}
	}
	return true, r.installGuard(r.j.guarded())
}

func (r *round) mustBeFree(e Engine, p Policy) error {
	xp, err := xfrm.DecodePolicy(p.Payload)
	if err != nil {
		return err
	}
	if _, err = e.GetPolicy(r.ctx, xp.ID()); errors.Is(err, ipsec.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("policy %s is there already", p.Text)
	}
	return err
}

// endDetours ends those that are for nobody any more, after forsake had a look at each.
func (r *round) endDetours(forsake func(*Detour)) error {
	var errs []error
	var left []Detour
	forsaken := false
	for _, d := range r.j.Detours {
		n := len(d.For)
		d.For = slices.Clone(d.For)
		forsake(&d)
		forsaken = forsaken || len(d.For) < n
		if len(d.For) == 0 {
			err := r.endDetour(&d)
			if err == nil {
				continue
			}
			errs = append(errs, err) // it is tried again
		}
		left = append(left, d)
	}
	ended := len(left) < len(r.j.Detours)
	r.j.Detours = left
	switch c := r.j.Change; {
	case !ended && !forsaken:
		return errors.Join(errs...)
	case c.open():
		c.Guarded = true // whatever it comes to, the guard is made anew
	case ended:
		errs = append(errs, r.installGuard(r.j.Owned))
	}
	return errors.Join(append(errs, r.write(r.j))...)
}

func (r *round) endDetour(d *Detour) error {
	e, err := r.engines.get(d.Engine)
	if err != nil {
		return nil // the device has stopped, and its policies with it
	}
	var errs []error
	for _, p := range d.Policies {
		xp, err := xfrm.DecodePolicy(p.Payload)
		if err == nil {
			err = take(r.ctx, e, xp.ID())
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// forsaken takes those off that have ended.
func (r *round) forsaken(d *Detour) {
	d.For = slices.DeleteFunc(d.For, func(p processID) bool {
		return p.Boot != r.cfg.Clock.BootID() || p.Begun == "" || begun(p.PID) != p.Begun
	})
}

// rejoin ends the detours of the pairs of a change: from here on their peers have SAs.
func (r *round) rejoin(c *Change) error {
	return r.endDetours(func(d *Detour) {
		if slices.ContainsFunc(c.Begin.Pairs, func(p steps.PairEnd) bool {
			return p.Tunnel == d.Tunnel && p.Local == d.Local && p.Remote == d.Remote
		}) {
			d.For = nil
		}
	})
}

// detour finds that of a pair; -1 if there is none.
func (j *Journal) detour(o *Owned) int {
	return slices.IndexFunc(j.Detours, func(d Detour) bool {
		return d.Tunnel == o.Tunnel && d.Local == o.Local && d.Remote == o.Remote
	})
}

// guarded is what is to be guarded now.
func (j *Journal) guarded() []Owned {
	if j.Change.open() {
		return j.after()
	}
	return j.Owned
}

// anyBare reports whether ssh is to pass the guard because of what was lost here.
func (r *round) anyBare() bool {
	return slices.ContainsFunc(r.j.Owned, func(o Owned) bool { return len(o.Detours) > 0 && !o.Opened && r.bare(&o) })
}

// letPass says of the pairs of a guard which of them let ssh pass: those that have lost their policies here, and
// those that it goes outside of. pairs are of owned, in its order.
func (r *round) letPass(pairs []boot.Pair, owned []Owned) {
	for i := range pairs {
		p := &pairs[i]
		k := slices.IndexFunc(owned, func(o Owned) bool { return o.Tunnel == p.Tunnel && o.Local == p.Local && o.Remote == p.Remote })
		p.Open = len(p.Detours) > 0 && k >= 0 && (r.j.detour(&owned[k]) >= 0 || r.bare(&owned[k]))
	}
}

// bare reports whether a pair that is owned has no policy any more by which anything is sent: since a boot, or since
// its device was started anew.
func (r *round) bare(o *Owned) bool {
	e, err := r.engines.get(o.Engine)
	if err != nil {
		return true
	}
	lost := false
	for _, kept := range o.Policies {
		p, err := xfrm.DecodePolicy(kept.Payload)
		if err != nil || !sends(p) {
			continue
		}
		if _, err := e.GetPolicy(r.ctx, p.ID()); !errors.Is(err, ipsec.ErrNotExist) {
			return false
		}
		lost = true
	}
	return lost
}

// Bare tells which pairs of a guard have neither policies nor SAs, as the host boots. done is called when nothing more
// is asked. Nobody knows without the journal: all have them then.
func (h *Host) Bare(ctx context.Context) (bare func(boot.Pair) bool, done func()) {
	j, err := ReadJournal(h.cfg.Dir)
	if err != nil {
		return nil, func() {}
	}
	owned := slices.Clone(j.Owned)
	if j.Change.open() {
		owned = append(j.after(), owned...)
	}
	r := &round{Host: h, ctx: ctx, j: j, engines: h.engines()}
	return func(p boot.Pair) bool {
		pairs := []boot.Pair{p}
		r.letPass(pairs, owned)
		return pairs[0].Open
	}, r.engines.close
}

// guardDetours are detours in the guard's words.
func guardDetours(detours []tunnel.Detour) (all []guard.Detour) {
	for _, d := range detours {
		all = append(all, guard.Detour{Local: d.Local, Remote: d.Remote, Port: d.Port, Serves: d.Serves})
	}
	return all
}

// begun is when a process began, as proc_pid_stat(5) has it; "" if there is none.
func begun(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // the third is the first of them
	const starttime = 22 - 3
	if len(fields) <= starttime || fields[0] == "Z" {
		return ""
	}
	return fields[starttime]
}
