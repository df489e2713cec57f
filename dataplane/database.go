package dataplane

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"espalier/guard"
	"espalier/ipsec"
)

var (
	_ ipsec.Database   = (*Device)(nil)
	_ ipsec.Accounting = (*Device)(nil)
)

// AddSA implements ipsec.SAD.
func (d *Device) AddSA(_ context.Context, sa ipsec.SA) error {
	d.control.Lock()
	defer d.control.Unlock()
	defer sa.Key.Wipe() // the ciphers have their own copies
	a, err := d.addSA(sa)
	if err != nil {
		return saError("add", sa.Src, sa.ID(), err)
	}
	if a.in != nil && sa.Window == 0 {
		d.log.Warn("SA without anti-replay: captured packets can be sent again; use a window of 64", "spi", sa.SPI, "src", sa.Src, "dst", sa.Dst)
	}
	return nil
}

func (d *Device) addSA(sa ipsec.SA) (*association, error) {
	if err := d.checkSA(&sa); err != nil {
		return nil, err
	}
	a, err := d.sad.add(sa)
	if err != nil || sa.Encap == nil {
		return a, err
	}
	if err := d.openEncap(a); err != nil {
		d.sad.remove(sa.ID())
		a.retire()
		return nil, err
	}
	return a, nil
}

// openEncap opens the socket of an SA with UDP encapsulation and lets its packets through
// the guard.
func (d *Device) openEncap(a *association) error {
	local, _ := d.encapEnds(a)
	if err := d.udp.acquire(portOf(local)); err != nil {
		return err
	}
	if err := d.applyGuard(d.spd.list()); err != nil {
		return errors.Join(err, d.udp.release(portOf(local)))
	}
	return nil
}

// encapEnds are the UDP ends of an SA, seen from this host.
func (d *Device) encapEnds(a *association) (local, remote netip.AddrPort) {
	e := a.encap.Load()
	src, dst := netip.AddrPortFrom(a.sa.Src, e.SrcPort), netip.AddrPortFrom(a.sa.Dst, e.DstPort)
	if a.out == nil || a.in != nil && d.locals.has(a.sa.Dst) {
		return dst, src
	}
	return src, dst
}

// UpdateSA implements ipsec.SAD: it moves the ports of a live SA with UDP encapsulation. As in
// Linux nothing else of a live SA changes.
func (d *Device) UpdateSA(_ context.Context, sa ipsec.SA) error {
	d.control.Lock()
	defer d.control.Unlock()
	if err := d.updateSA(sa); err != nil {
		return saError("update", sa.Src, sa.ID(), err)
	}
	return nil
}

func (d *Device) updateSA(sa ipsec.SA) error {
	a := d.sad.inbound(sa.ID())
	if a == nil {
		return ipsec.ErrNotExist
	}
	if err := d.checkSA(&sa); err != nil {
		return err
	}
	old := a.encap.Load()
	switch {
	case (old == nil) != (sa.Encap == nil):
		return fmt.Errorf("%w: UDP encapsulation of a live SA cannot be turned on or off: add a new SA", ipsec.ErrInvalid)
	case old == nil || *old == *sa.Encap:
		return nil
	}
	before, _ := d.encapEnds(a)
	a.setEncap(sa.Encap)
	if err := d.openEncap(a); err != nil {
		a.setEncap(old)
		return err
	}
	return d.udp.release(portOf(before))
}

// DeleteSA implements ipsec.SAD.
func (d *Device) DeleteSA(_ context.Context, id ipsec.SAID) error {
	d.control.Lock()
	defer d.control.Unlock()
	a, err := d.sad.remove(id)
	if err != nil {
		return saError("delete", netip.Addr{}, id, err)
	}
	if err := d.retire(a); err != nil {
		return saError("delete", netip.Addr{}, id, err)
	}
	return nil
}

// retire ends SAs that have left the SAD.
func (d *Device) retire(all ...*association) error {
	var errs []error
	encapsulated := false
	for _, a := range all {
		a.retire()
		if a.encap.Load() != nil {
			encapsulated = true
			local, _ := d.encapEnds(a)
			errs = append(errs, d.udp.release(portOf(local)))
		}
	}
	if encapsulated {
		errs = append(errs, d.applyGuard(d.spd.list()))
	}
	return errors.Join(errs...)
}

// LookupSA implements ipsec.SAD.
func (d *Device) LookupSA(_ context.Context, id ipsec.SAID) (ipsec.SA, error) {
	if a := d.sad.inbound(id); a != nil {
		return a.read(), nil
	}
	return ipsec.SA{}, saError("get", netip.Addr{}, id, ipsec.ErrNotExist)
}

// SAs implements ipsec.SAD.
func (d *Device) SAs(ctx context.Context) iter.Seq2[ipsec.SA, error] {
	return func(yield func(ipsec.SA, error) bool) {
		for _, a := range d.sad.list() {
			if err := ctx.Err(); err != nil {
				yield(ipsec.SA{}, err)
				return
			}
			if !yield(a.read(), nil) {
				return
			}
		}
	}
}

// FlushSAs implements ipsec.SAD.
func (d *Device) FlushSAs(context.Context) error {
	d.control.Lock()
	defer d.control.Unlock()
	return d.retire(d.sad.flush()...)
}

// AddPolicy implements ipsec.SPD: the guard closes, the routes steer, the SPD decides.
func (d *Device) AddPolicy(_ context.Context, p ipsec.Policy) error {
	d.control.Lock()
	defer d.control.Unlock()
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
func (d *Device) setPolicy(p ipsec.Policy, old *ipsec.Policy) error {
	if err := checkPolicy(&p); err != nil {
		return err
	}
	before := d.spd.list()
	after := []ipsec.Policy{p}
	for _, q := range before {
		if old == nil || q.ID() != old.ID() {
			after = append(after, q)
		}
	}
	if err := d.applyGuard(after); err != nil {
		return err
	}
	if err := d.steer(&p); err != nil {
		return errors.Join(err, d.unsteer(&p), d.applyGuard(before))
	}
	if old == nil {
		return d.spd.add(p)
	}
	d.spd.replace(old, p)
	return d.unsteer(old)
}

// DeletePolicy implements ipsec.SPD.
func (d *Device) DeletePolicy(_ context.Context, id ipsec.PolicyID) error {
	d.control.Lock()
	defer d.control.Unlock()
	p, err := d.spd.remove(id)
	if err != nil {
		return policyError("delete", id, err)
	}
	d.guard.Disinherit(p.ID())
	if err := errors.Join(d.unsteer(p), d.applyGuard(d.spd.list())); err != nil {
		return policyError("delete", id, err)
	}
	return nil
}

// LookupPolicy implements ipsec.SPD.
func (d *Device) LookupPolicy(_ context.Context, id ipsec.PolicyID) (ipsec.Policy, error) {
	p, err := d.spd.get(id)
	if err != nil {
		return ipsec.Policy{}, policyError("get", id, err)
	}
	return *p, nil
}

// Policies implements ipsec.SPD.
func (d *Device) Policies(ctx context.Context) iter.Seq2[ipsec.Policy, error] {
	return func(yield func(ipsec.Policy, error) bool) {
		for _, p := range d.spd.list() {
			if err := ctx.Err(); err != nil {
				yield(ipsec.Policy{}, err)
				return
			}
			if !yield(p, nil) {
				return
			}
		}
	}
}

// FlushPolicies implements ipsec.SPD. It also ends what the guard inherited.
func (d *Device) FlushPolicies(context.Context) error {
	d.control.Lock()
	defer d.control.Unlock()
	d.spd.flush()
	d.guard.DisinheritAll()
	return errors.Join(d.steering.clear(), d.applyGuard(nil))
}

// applyGuard closes the guard for these policies, but for the UDP encapsulation of the
// present SAs.
func (d *Device) applyGuard(policies []ipsec.Policy) error {
	var encaps []guard.Encap
	for _, a := range d.sad.list() {
		if a.encap.Load() != nil {
			local, remote := d.encapEnds(a)
			encaps = append(encaps, guard.Encap{Local: local, Remote: remote})
		}
	}
	return d.guard.Apply(policies, encaps)
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
	return fmt.Errorf("%s policy %s: %w", op, id, err)
}
