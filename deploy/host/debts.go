package host

import (
	"fmt"
	"slices"

	"espalier/deploy/steps"
)

// owes reports whether some of a change that is over has failed, and is tried again.
func (c *Change) owes() bool {
	return c.Again || slices.ContainsFunc(c.Pairs, func(p PairState) bool { return p.Again })
}

// passOn sees to what a former change still owes when another one, c, takes its place: it is tried once more,
// and kept if that fails. What c itself is about must be settled before.
func (r *round) passOn(former, c *Change) error {
	debts := slices.Clone(r.j.Debts)
	if former != nil && former.owes() {
		debts = append(debts, former)
	}
	for _, d := range debts {
		r.again(d)
	}
	for n, d := range debts {
		for i := range d.Pairs {
			p := &d.Begin.Pairs[i]
			for j := range c.Begin.Pairs {
				q := &c.Begin.Pairs[j]
				if d.Pairs[i].Again && sharesName(p, q) && p.Local == q.Local && p.Remote == q.Remote {
					return fmt.Errorf("tunnel %s: the last %s is %s, but not all of it could be: %s; it is tried again every second", end(p), d.Begin.Kind, d.Pairs[i].Stage, d.Problem)
				}
			}
		}
		if d.Again { // c has what lasts changed itself, and owes it from now on
			c.Again, c.Guarded = true, true
			kept := *d
			kept.Again = false
			debts[n] = &kept
		}
	}
	r.j.Debts = slices.DeleteFunc(debts, func(d *Change) bool { return !d.owes() })
	return nil
}

// payDebts tries what former changes owe, and reports whether anything has changed.
func (r *round) payDebts() (changed bool) {
	for _, d := range r.j.Debts {
		changed = r.again(d) || changed
	}
	if changed {
		r.j.Debts = slices.DeleteFunc(r.j.Debts, func(d *Change) bool { return !d.owes() })
	}
	return changed
}

// sharesName reports whether two pairs of changes have one of their names in common.
func sharesName(p, q *steps.PairEnd) bool {
	for _, name := range []string{q.Tunnel, q.Former} {
		if name != "" && (name == p.Tunnel || name == p.Former) {
			return true
		}
	}
	return false
}
