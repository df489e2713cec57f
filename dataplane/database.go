package dataplane

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"

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
	if d.closed {
		return nil, errClosed
	}
	if err := d.checkSA(&sa); err != nil {
		return nil, err
	}
	a, err := d.sad.add(sa, d.encapsulationOf(&sa))
	if err != nil {
		return nil, err
	}
	if err := d.openEncap(a.encap.Load()); err != nil {
		d.sad.remove(sa.ID())
		a.retire()
		return nil, err
	}
	return a, nil
}

var errClosed = errors.New("the device is closing")

// openEncap opens the socket of an SA with UDP encapsulation and lets its packets through
// the guard.
func (d *Device) openEncap(e *encapsulation) error {
	if e == nil {
		return nil
	}
	if err := d.udp.acquire(portOf(e.ends.Local)); err != nil {
		return err
	}
	d.encaps[e.ends]++
	if d.encaps[e.ends] > 1 {
		return nil // another SA between the same ends has let them through
	}
	if err := d.applyGuard(d.spd.list()); err != nil {
		return errors.Join(err, d.closeEncap(e))
	}
	return nil
}

// closeEncap is the reverse of openEncap. An opening in the guard that cannot be closed is
// closed with its next change.
func (d *Device) closeEncap(e *encapsulation) error {
	if e == nil {
		return nil
	}
	err := d.udp.release(portOf(e.ends.Local))
	if d.encaps[e.ends]--; d.encaps[e.ends] > 0 {
		return err
	}
	delete(d.encaps, e.ends)
	return errors.Join(err, d.applyGuard(d.spd.list()))
}

// UpdateSA implements ipsec.SAD: it moves the ports of a live SA with UDP encapsulation. As in
// Linux nothing else of a live SA changes.
func (d *Device) UpdateSA(_ context.Context, sa ipsec.SA) error {
	d.control.Lock()
	defer d.control.Unlock()
	defer sa.Key.Wipe()
	if err := d.updateSA(sa); err != nil {
		return saError("update", sa.Src, sa.ID(), err)
	}
	return nil
}

func (d *Device) updateSA(sa ipsec.SA) error {
	if d.closed {
		return errClosed
	}
	a := d.sad.inbound(sa.ID())
	if a == nil {
		return ipsec.ErrNotExist
	}
	if err := d.checkSA(&sa); err != nil {
		return err
	}
	was, is := a.encap.Load(), d.encapsulationOf(&sa)
	switch {
	case (was == nil) != (is == nil):
		return fmt.Errorf("%w: UDP encapsulation of a live SA cannot be turned on or off: add a new SA", ipsec.ErrInvalid)
	case was == nil || *was == *is:
		return nil
	}
	if err := d.openEncap(is); err != nil {
		return err
	}
	a.encap.Store(is)
	return d.closeEncap(was)
}

// DeleteSA implements ipsec.SAD.
func (d *Device) DeleteSA(_ context.Context, id ipsec.SAID) error {
	d.control.Lock()
	defer d.control.Unlock()
	if d.closed {
		return errClosed
	}
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
	for _, a := range all {
		a.retire()
		errs = append(errs, d.closeEncap(a.encap.Load()))
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
	if d.closed {
		return errClosed
	}
	return d.retire(d.sad.flush()...)
}

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
func (d *Device) setPolicy(p ipsec.Policy, old *ipsec.Policy) error {
	if err := checkPolicy(&p); err != nil {
		return err
	}
	before := d.spd.list()
	after := slices.DeleteFunc(slices.Clone(before), func(q ipsec.Policy) bool { return old != nil && q.ID() == old.ID() })
	after = append(after, p) // of equal priority the last, as in the SPD
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
	if d.closed {
		return errClosed
	}
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
	if d.closed {
		return errClosed
	}
	d.spd.flush()
	d.guard.DisinheritAll()
	return errors.Join(d.steering.clear(), d.applyGuard(nil))
}

// applyGuard closes the guard for these policies, but for the UDP encapsulation of the
// present SAs.
func (d *Device) applyGuard(policies []ipsec.Policy) error {
	return d.guard.Apply(policies, slices.Collect(maps.Keys(d.encaps)))
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
