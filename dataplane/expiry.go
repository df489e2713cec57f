package dataplane

import (
	"time"

	"espalier/ipsec"
)

// policyReminder is after how long a policy beyond its soft limit is told of again
// (XFRM_KM_TIMEOUT).
const policyReminder = 30 * time.Second

// tendSA carries out what an SA's limits ask for, tells of its progress and of where its peer is,
// and keeps NATs from forgetting it.
func (d *Device) tendSA(a *association) {
	d.control.Lock()
	defer d.control.Unlock()
	if d.closed || a.gone {
		return
	}
	now := time.Now()
	v := a.examine(now)
	if v.hard {
		d.expireSA(a)
		return
	}
	if v.soft {
		d.log.Info("SA has reached a soft limit: install a new one", "spi", a.sa.SPI, "src", a.sa.Src, "dst", a.sa.Dst)
		d.observers.tell(ipsec.SAExpired{SA: a.read()})
	}
	sent, received := a.numbers()
	tell, cause, next := a.progress.examine(now, sent, received)
	if tell {
		d.observers.tell(ipsec.Progress{SA: a.read(), Cause: cause})
	}
	d.tellMoved(a)
	a.timer = d.keeper.askAt(&a.errand, a.timer, earliest(v.next, next, d.keepAlive(a, now)))
}

// expireSA ends an SA that has reached a hard limit.
func (d *Device) expireSA(a *association) {
	was := a.read()
	d.sad.drop(a)
	if err := d.retire(a); err != nil {
		d.log.Error("SA has expired", "spi", a.sa.SPI, "err", err)
	}
	if !was.Larval {
		d.log.Info("SA has expired", "spi", was.SPI, "src", was.Src, "dst", was.Dst)
	}
	d.observers.tell(ipsec.SAExpired{SA: was, Hard: true})
}

// tendPolicy carries out what a policy's limits ask for.
func (d *Device) tendPolicy(p *policy) {
	d.control.Lock()
	defer d.control.Unlock()
	if d.closed || p.gone {
		return
	}
	v := p.examine(time.Now())
	was := p.read()
	if v.hard {
		if err := d.removePolicy(p); err != nil {
			d.log.Error("policy has expired", "policy", was.ID(), "err", err)
		}
		d.observers.tell(ipsec.PolicyExpired{Policy: was, Hard: true})
		return
	}
	if v.soft {
		d.observers.tell(ipsec.PolicyExpired{Policy: was})
	}
	p.timer = d.keeper.askAt(&p.errand, p.timer, v.next)
}

// examine finds the limits that were reached. As in Linux those of idleness count from the last
// use, and a policy that was never used from its addition.
func (p *policy) examine(now time.Time) verdict {
	idle := p.Added
	if used := p.used.Load(); used != 0 {
		idle = time.Unix(int64(used), 0)
	}
	l := &p.Limits
	if reached(p.Added, l.HardTime, now) || reached(idle, l.HardIdle, now) {
		return verdict{hard: true}
	}
	v := verdict{next: earliest(later(p.Added, l.HardTime), later(idle, l.HardIdle))}
	for _, end := range []time.Time{later(p.Added, l.SoftTime), later(idle, l.SoftIdle)} {
		if !end.IsZero() && !now.Before(end) {
			v.soft = true
			end = now.Add(policyReminder)
		}
		v.next = earliest(v.next, end)
	}
	return v
}
