package dataplane

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"espalier/guard"
	"espalier/ipsec"
)

var (
	_ ipsec.Database   = (*Device)(nil)
	_ ipsec.Accounting = (*Device)(nil)
	_ ipsec.Countable  = (*Device)(nil)
)

// AddSA implements ipsec.SAD.
func (d *Device) AddSA(_ context.Context, sa ipsec.SA) error {
	d.control.Lock()
	defer d.control.Unlock()
	defer sa.Key.Wipe() // the ciphers have their own copies
	if err := d.addSA(sa); err != nil {
		return saError("add", sa.Src, sa.ID(), err)
	}
	return nil
}

func (d *Device) addSA(sa ipsec.SA) error {
	if d.closed {
		return errClosed
	}
	larva := d.sad.awaiting(&sa)
	if _, err := d.installSA(sa, nil); err != nil {
		return err
	}
	if larva == nil {
		return nil
	}
	d.sad.drop(larva)
	return d.retire(larva)
}

// installSA adds an SA, in the place of the larval one given, if that is not nil.
func (d *Device) installSA(sa ipsec.SA, larva *association) (*association, error) {
	if err := d.checkSA(&sa); err != nil {
		return nil, err
	}
	e := d.encapsulationOf(&sa)
	if err := d.openEncap(e); err != nil {
		return nil, err
	}
	a, err := d.sad.add(sa, e, larva)
	if err != nil {
		return nil, errors.Join(err, d.closeEncap(e))
	}
	if a.in != nil && sa.Window == 0 {
		d.log.Warn("SA without anti-replay: captured packets can be sent again; use a window of 64", "spi", sa.SPI, "src", sa.Src, "dst", sa.Dst)
	}
	d.followTapped(a)
	d.begin(a)
	return a, nil
}

// begin has the keeper look at an SA that has just come, if it will expire, keeps a NAT open or is
// watched.
func (d *Device) begin(a *association) {
	if l := a.limits; d.sad.watch || a.keepalive.interval != 0 || l.SoftTime|l.HardTime|l.SoftIdle|l.HardIdle != 0 {
		d.keeper.ask(&a.errand)
	}
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
	if err := d.guard.AddEncap(e.ends); err != nil {
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
	return errors.Join(err, d.guard.RemoveEncap(e.ends))
}

// UpdateSA implements ipsec.SAD: it completes a larval SA, or sets the limits and moves the ports
// of a live SA. As in Linux nothing else of a live SA changes.
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
	switch {
	case a == nil:
		return ipsec.ErrNotExist
	case a.sa.Direction != sa.Direction && !(a.sa.Larval && sa.Direction == ipsec.AnyDirection):
		return fmt.Errorf("there is one of direction %s: %w", a.sa.Direction, ipsec.ErrNotExist)
	case a.sa.Larval:
		if _, err := d.installSA(sa, a); err != nil {
			return err
		}
		return d.retire(a)
	case a.blemishes.has(spent):
		return fmt.Errorf("%w: the SA has reached a hard limit", ipsec.ErrInvalid)
	}
	if err := d.checkSA(&sa); err != nil {
		return err
	}
	if err := d.moveEncap(a, d.encapsulationOf(&sa)); err != nil {
		return err
	}
	a.start(sa.Limits)
	if a.queue != 0 {
		d.sad.redecide() // it may be the best again
	}
	d.keeper.ask(&a.errand)
	return nil
}

// moveEncap moves the ports of a live SA with UDP encapsulation.
func (d *Device) moveEncap(a *association, is *encapsulation) error {
	was := a.encap.Load()
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
	a.mapping.forget()
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
	errs := []error{d.untap(all...)}
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

// SAs implements ipsec.SAD. What events have told of is among them.
func (d *Device) SAs(ctx context.Context) iter.Seq2[ipsec.SA, error] {
	return func(yield func(ipsec.SA, error) bool) {
		d.control.Lock()
		all := d.sad.list()
		d.control.Unlock()
		for _, a := range all {
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

// Census implements ipsec.Countable.
func (d *Device) Census(context.Context) (ipsec.Census, error) {
	return ipsec.Census{SAs: d.sad.len(), Policies: d.spd.directions()}, nil
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

// encapsulations are those of the present SAs.
func (d *Device) encapsulations() []guard.Encap { return slices.Collect(maps.Keys(d.encaps)) }
