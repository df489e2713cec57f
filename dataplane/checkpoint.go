package dataplane

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"espalier/ipsec"
)

var (
	_ ipsec.Checkpointer = (*Device)(nil)
	_ ipsec.Observable   = (*Device)(nil)
)

// SetCheckpoint implements ipsec.Checkpointer. It is told as Progress.
func (d *Device) SetCheckpoint(_ context.Context, id ipsec.SAID, c ipsec.Checkpoint) error {
	d.control.Lock()
	defer d.control.Unlock()
	if err := d.setCheckpoint(id, &c); err != nil {
		return saError("set", netip.Addr{}, id, err)
	}
	return nil
}

func (d *Device) setCheckpoint(id ipsec.SAID, c *ipsec.Checkpoint) error {
	a := d.sad.inbound(id)
	switch {
	case d.closed:
		return errClosed
	case a == nil:
		return ipsec.ErrNotExist
	case a.sa.Larval:
		return fmt.Errorf("%w: SA must be in VALID state", ipsec.ErrInvalid)
	}
	if err := a.setNumbers(c.Numbers); err != nil {
		return err
	}
	if c.Usage != nil {
		a.setUsage(c.Usage)
	}
	n := *a.progress.notice.Load()
	if c.Every != nil {
		n.Every = *c.Every
	}
	if c.After != nil {
		n.After = *c.After
	}
	a.progress.set(n, time.Now())
	d.keeper.ask(&a.errand)
	d.observers.tell(ipsec.Progress{SA: a.read(), Cause: ipsec.BySetting})
	return nil
}

// setNumbers sets both halves or none.
func (a *association) setNumbers(n *ipsec.Numbers) error {
	if n == nil {
		return nil
	}
	if a.out != nil {
		if err := a.out.MaySkip(n.Sent); err != nil {
			return err
		}
	}
	if a.in != nil {
		if err := a.in.Restore(n.Received, n.Bitmap); err != nil {
			return err
		}
	}
	if a.out != nil {
		return a.out.Skip(n.Sent)
	}
	return nil
}

func (a *association) setUsage(u *ipsec.Usage) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bytes.Store(u.Bytes)
	a.packets.Store(u.Packets)
	if a.used.Store(unixSeconds(u.Used)); u.Used.IsZero() {
		a.last.Store(0) // so that the next packet counts as the first
	}
	if !u.Added.IsZero() {
		a.added = u.Added
	}
}

func unixSeconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}
