package host

import (
	"slices"

	"espalier/deploy/boot"
	"espalier/deploy/steps"
	"espalier/guard"
	"espalier/ipsec"
	"espalier/xfrm"
)

// owned is what will be owned of a pair; nil if it goes.
func (c *Change) owned(i int) *Owned {
	p, state := &c.Begin.Pairs[i], &c.Pairs[i]
	if leaves(c.Begin.Kind, p) {
		return nil
	}
	o := Owned{Tunnel: p.Tunnel, Origin: c.Begin.Origin, Local: p.Local, Remote: p.Remote, Engine: p.Engine, Device: p.Device,
		Outbound: p.Outbound, Inbound: p.Inbound, Encaps: state.Encaps, Rotate: p.Rotate, Since: c.Since, Begun: c.Begun, BootID: c.BootID,
		Detours: p.Detours}
	if len(p.Inbound) == 0 && state.Was != nil { // the SAs stay
		was := state.Was
		o.Outbound, o.Inbound, o.Encaps = was.Outbound, was.Inbound, was.Encaps
		o.Since, o.Begun, o.BootID = was.Since, was.Begun, was.BootID
	}
	for _, payload := range p.Policies {
		if xp, err := xfrm.DecodePolicy(payload); err == nil { // which Begin has made sure of
			o.Policies = append(o.Policies, Policy{payload, xp.ID().String()})
		}
	}
	return &o
}

// openGuard lets through what will be sent in clear before anybody sends it.
func (r *round) openGuard(c *Change) error {
	var interim []Owned
	opened := false
	for _, o := range r.j.Owned {
		o.Policies = slices.Clone(o.Policies)
		for i := range c.Begin.Pairs {
			p := &c.Begin.Pairs[i]
			if p.Engine != o.Engine {
				continue
			}
			if leaves(c.Begin.Kind, p) && p.Tunnel == o.Tunnel && p.Local == o.Local && p.Remote == o.Remote {
				// All of it goes, also what a boot has taken already and the guard alone still has.
				n := len(o.Policies)
				o.Policies = slices.DeleteFunc(o.Policies, func(have Policy) bool { return !c.wants(p.Engine, policyKey(have.Payload)) })
				opened = opened || len(o.Policies) < n
			}
			for _, payload := range p.Gone {
				key := policyKey(payload)
				n := len(o.Policies)
				o.Policies = slices.DeleteFunc(o.Policies, func(have Policy) bool { return policyKey(have.Payload) == key && !c.wants(p.Engine, key) })
				opened = opened || len(o.Policies) < n
			}
		}
		if len(o.Policies) > 0 {
			interim = append(interim, o)
		}
	}
	if !opened || r.cfg.Boot == nil {
		return nil
	}
	return r.lasting(c, interim)
}

// lasting has a guard for pairs last in the place of the one before.
func (r *round) lasting(c *Change, owned []Owned) error {
	if r.cfg.Boot == nil {
		return nil
	}
	if !c.Guarded {
		c.Guarded = true
		if err := r.write(r.j); err != nil {
			return err
		}
	}
	return r.installGuard(owned)
}

// restoreGuard has the guard last again that is for what is owned; it is tried again if it fails.
func (r *round) restoreGuard(c *Change, owned []Owned) error {
	err := r.installGuard(owned)
	c.Again = err != nil
	return err
}

func (r *round) installGuard(owned []Owned) error {
	if r.cfg.Boot == nil {
		return nil
	}
	pairs, err := bootPairs(owned)
	if err != nil {
		return err
	}
	r.letPass(pairs, owned)
	return r.cfg.Boot.Install(pairs)
}

// BootPairs are the pairs that the guard is for when a host boots, by its journal: those that are owned,
// and those of a change that has not come to its end.
func BootPairs(dir string) ([]boot.Pair, error) {
	j, err := ReadJournal(dir)
	if err != nil {
		return nil, err
	}
	owned := j.Owned
	if j.Change.open() {
		owned = append(slices.Clone(owned), j.after()...)
	}
	return bootPairs(owned)
}

// bootPairs are what is owned, in the words of package boot.
func bootPairs(owned []Owned) ([]boot.Pair, error) {
	var pairs []boot.Pair
	for _, o := range owned {
		if o.Opened {
			continue
		}
		p := boot.Pair{Tunnel: o.Tunnel, Local: o.Local, Remote: o.Remote, Encaps: o.Encaps}
		if o.Engine != kernelEngine {
			p.Device = o.Device
		}
		p.Detours = guardDetours(o.Detours)
		for _, kept := range o.Policies {
			xp, err := xfrm.DecodePolicy(kept.Payload)
			if err != nil {
				return nil, err
			}
			if xp.IfID != 0 {
				continue
			}
			tp, err := steps.PolicyOf(xp)
			if err != nil {
				return nil, err
			}
			p.Policies = append(p.Policies, guard.HostPolicy{Policy: tp.Policy, Device: p.Device,
				Mark: tp.Mark.Value, Mask: tp.Mark.Mask, PacketOffload: tp.Offload.Mode == ipsec.PacketOffload})
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// hold sees to it that the UDP ports are held by which ESP comes to the kernel, and no others. It does not
// take the journal's word for it: a holder may have been killed.
func (r *round) hold() error {
	ports := r.ports()
	if r.cfg.Boot == nil || len(ports) == 0 && len(r.j.Held) == 0 {
		return nil
	}
	for _, port := range ports {
		if !slices.Contains(r.j.Held, port) { // written down first: who has to end it must know of it
			r.j.Held = slices.Concat(r.j.Held, ports)
			slices.Sort(r.j.Held)
			r.j.Held = slices.Compact(r.j.Held)
			if err := r.write(r.j); err != nil {
				return err
			}
			break
		}
	}
	if err := r.cfg.Boot.Hold(r.ctx, ports); err != nil || slices.Equal(ports, r.j.Held) {
		return err
	}
	r.j.Held = ports
	return r.write(r.j)
}

// ports are the UDP ports by which ESP comes to the kernel, or may still come.
func (r *round) ports() (ports []uint16) {
	add := func(engine string, encaps []guard.Encap) {
		for _, e := range encaps {
			if engine == kernelEngine && !slices.Contains(ports, e.Local.Port()) {
				ports = append(ports, e.Local.Port())
			}
		}
	}
	for _, o := range r.j.Owned {
		add(o.Engine, o.Encaps)
	}
	for _, l := range r.j.Lingering {
		add(l.Engine, l.Encaps)
	}
	if c := r.j.Change; c.open() {
		for i := range c.Pairs {
			add(c.Begin.Pairs[i].Engine, c.Pairs[i].Encaps)
			if was := c.Pairs[i].Was; was != nil {
				add(was.Engine, was.Encaps)
			}
		}
	}
	slices.Sort(ports)
	return ports
}

// lost is what does not last any more of what is owned, in words. While a change goes on that is not told:
// what it is to be changes.
func (r *round) lost() []string {
	if r.cfg.Boot == nil || r.j.Change.open() {
		return nil
	}
	pairs, err := bootPairs(r.j.Owned)
	if err != nil {
		return []string{err.Error()}
	}
	r.letPass(pairs, r.j.Owned)
	return r.cfg.Boot.Lost(pairs, r.ports())
}
