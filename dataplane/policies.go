package dataplane

import (
	"context"
	"errors"
	"iter"
	"net/netip"

	"espalier/guard"
	"espalier/ipsec"
)

// AddPolicy implements ipsec.SPD: the guard closes, the routes steer, the SPD decides.
func (d *Device) AddPolicy(_ context.Context, p ipsec.Policy) error {
	d.control.Lock()
	defer d.control.Unlock()
	if d.closed {
		return errClosed
	}
	if _, err := d.spd.get(p.ID()); err == nil {
		return policyError("add", p.ID(), ipsec.ErrExist)
	}
	if err := d.setPolicy(p, nil); err != nil {
		return policyError("add", p.ID(), err)
	}
	return nil
}

// UpdatePolicy implements ipsec.SPD.
func (d *Device) UpdatePolicy(_ context.Context, p ipsec.Policy) error {
	d.control.Lock()
	defer d.control.Unlock()
	if d.closed {
		return errClosed
	}
	old, err := d.spd.get(p.ID())
	if err != nil {
		old = nil
	}
	if err := d.setPolicy(p, old); err != nil {
		return policyError("update", p.ID(), err)
	}
	return nil
}

// setPolicy installs p, in place of old if that is not nil. If it fails, what was before
// stands.
func (d *Device) setPolicy(p ipsec.Policy, old *policy) error {
	if err := checkPolicy(&p); err != nil {
		return err
	}
	q := d.spd.prepare(&p, old)
	if err := d.guard.Change(idsOf(old), []guard.Policy{guarded(q)}); err != nil {
		return err
	}
	if err := d.steer(&p); err != nil {
		return errors.Join(err, d.unsteer(&p), d.unguard(q, old))
	}
	d.spd.put(q, old)
	if q.timed() {
		d.keeper.ask(&q.errand)
	}
	if old == nil {
		return nil
	}
	old.end()
	return d.unsteer(&old.Policy)
}

// guarded is a policy as the guard takes it.
func guarded(p *policy) guard.Policy { return guard.Policy{Policy: &p.Policy, Order: p.place} }

// unguard undoes what the guard was told when p was to take the place of old.
func (d *Device) unguard(p, old *policy) error {
	if old == nil {
		return d.guard.Change(idsOf(p), nil)
	}
	return d.guard.Change(idsOf(p), []guard.Policy{guarded(old)})
}

func idsOf(p *policy) []ipsec.PolicyID {
	if p == nil {
		return nil
	}
	return []ipsec.PolicyID{p.ID()}
}

// timed reports whether p has limits.
func (p *policy) timed() bool {
	return p.Limits.SoftTime|p.Limits.HardTime|p.Limits.SoftIdle|p.Limits.HardIdle != 0
}

// end keeps the keeper from a policy that has left the SPD.
func (p *policy) end() {
	p.gone = true
	if p.timer != nil {
		p.timer.Stop()
	}
}

// DeletePolicy implements ipsec.SPD.
func (d *Device) DeletePolicy(_ context.Context, id ipsec.PolicyID) error {
	d.control.Lock()
	defer d.control.Unlock()
	if d.closed {
		return errClosed
	}
	p, err := d.spd.get(id)
	if err == nil {
		err = d.removePolicy(p)
	}
	if err != nil {
		return policyError("delete", id, err)
	}
	return nil
}

// removePolicy undoes what setPolicy did.
func (d *Device) removePolicy(p *policy) error {
	d.spd.drop(p)
	p.end()
	return errors.Join(d.unsteer(&p.Policy), d.guard.Change(idsOf(p), nil))
}

// LookupPolicy implements ipsec.SPD.
func (d *Device) LookupPolicy(_ context.Context, id ipsec.PolicyID) (ipsec.Policy, error) {
	p, err := d.spd.get(id)
	if err != nil {
		return ipsec.Policy{}, policyError("get", id, err)
	}
	return p.read(), nil
}

// Policies implements ipsec.SPD.
func (d *Device) Policies(ctx context.Context) iter.Seq2[ipsec.Policy, error] {
	return func(yield func(ipsec.Policy, error) bool) {
		for _, p := range d.spd.newestFirst() {
			if err := ctx.Err(); err != nil {
				yield(ipsec.Policy{}, err)
				return
			}
			if !yield(p.read(), nil) {
				return
			}
		}
	}
}

// FlushPolicies implements ipsec.SPD. It also ends what the guard inherited.
func (d *Device) FlushPolicies(context.Context) error {
	d.control.Lock()
	defer d.control.Unlock()
	if d.closed {
		return errClosed
	}
	for _, p := range d.spd.flush() {
		p.end()
	}
	d.guard.DisinheritAll()
	return errors.Join(d.steering.clear(), d.guard.Apply(nil, d.encapsulations()))
}

// steer brings what an outbound policy protects or discards into the TUN.
func (d *Device) steer(p *ipsec.Policy) error {
	for _, dst := range steered(p) {
		if err := d.steering.add(dst, p.Selector.Src); err != nil {
			return err
		}
	}
	return nil
}

func (d *Device) unsteer(p *ipsec.Policy) error {
	var errs []error
	for _, dst := range steered(p) {
		errs = append(errs, d.steering.remove(dst))
	}
	return errors.Join(errs...)
}

func steered(p *ipsec.Policy) []netip.Prefix {
	switch {
	case p.Direction != ipsec.Outbound || p.Action == ipsec.Bypass:
		return nil
	case p.Selector.Dst.IsValid():
		return []netip.Prefix{p.Selector.Dst}
	}
	all4, all6 := netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	switch {
	case p.Selector.Is4():
		return []netip.Prefix{all4}
	case p.Selector.Is6():
		return []netip.Prefix{all6}
	}
	return []netip.Prefix{all4, all6}
}

func policyError(op string, id ipsec.PolicyID, err error) error {
	return &ipsec.OpError{Op: op + " policy", Object: id.String(), Err: err}
}
