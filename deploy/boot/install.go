package boot

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"espalier/guard"
)

type hostPolicy = guard.HostPolicy

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Install makes the guard of these pairs, all that this host owns, last: it writes them down, puts
// their guard in force in the place of the one before, and has them loaded at each boot before
// networking. The same pairs again change nothing but what was lost meanwhile, of the timer's units too.
// With no pairs it is Remove. Holders are Hold's: ESP in UDP may still come when nothing is to be guarded
// any more.
//
// What can be done is done, and the error tells the rest. That a place has no units (Can) is no error.
func (p *Place) Install(pairs []Pair) error {
	if len(pairs) == 0 {
		return p.Remove()
	}
	pairs = normal(pairs)
	rules := rulesOf(pairs)
	if err := rules.Check(); err != nil {
		return err
	}
	err := p.locked(func() error { return errors.Join(p.writeGuard(pairs), guard.ApplyHost(rules)) })
	if p.Units == "" {
		return err
	}
	return errors.Join(err, p.installGuardUnit(), p.KeepRotations())
}

// Remove takes the guard out of force and away, with its unit, and removes what belongs to nothing else.
// Holders stay until Hold is told that no port is needed: ESP may come by them for longer than anything is
// guarded. The timer goes with its last rotation (DropRotation). Each part is tried even if another fails.
func (p *Place) Remove() error {
	err := errors.Join(p.removeDropIn(), p.removeUnits(guardUnit))
	return errors.Join(err, p.locked(func() error {
		gone := errors.Join(guard.ReleaseHost(), remove(filepath.Join(p.Dir, guardFile), filepath.Join(p.Dir, guardCopy)))
		return errors.Join(gone, p.tidy())
	}))
}

// Load puts the guard in force that was written down: what a host does when it boots, before its
// network comes up. Fallback, unless nil, tells what else is to be guarded: what a change had begun, and if
// the file is damaged all that the journal knows. found tells whether there was anything to load.
//
// An error tells what is wrong; all that could be read is loaded then, and between hosts of which no
// more is certain than that they are a pair, nothing passes in clear.
func (p *Place) Load(fallback func(damaged bool) ([]Pair, error)) (found bool, err error) {
	err = p.locked(func() error {
		pairs, there, err := p.readGuard()
		found = there
		if fallback != nil {
			more, moreErr := fallback(err != nil)
			pairs = union(pairs, normal(more))
			err = errors.Join(err, moreErr)
		}
		found = found || len(pairs) > 0
		if !found {
			return err
		}
		for i := range pairs {
			pairs[i].Open = p.Bare != nil && p.Bare(pairs[i])
			one := rulesOf(pairs[i : i+1])
			if wrong := one.Check(); wrong != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w: all between the two is held back", describe(pairs[i]), wrong))
				pairs[i] = closed(pairs[i])
			}
		}
		if len(pairs) == 0 {
			return errors.Join(err, errors.New("nothing is known of what to guard: cleartext is not held back"))
		}
		return errors.Join(err, guard.ApplyHost(rulesOf(pairs)))
	})
	if err != nil {
		return found, fmt.Errorf("load the guard: %w", err)
	}
	return found, nil
}

// normal are pairs without what changes by itself and the guard does not look at.
func normal(pairs []Pair) []Pair {
	all := make([]Pair, len(pairs))
	for i, pair := range pairs {
		pair.Policies = slices.Clone(pair.Policies)
		for j := range pair.Policies {
			own := &pair.Policies[j]
			own.Device = pair.Device
			own.Index, own.Limits = 0, zero(own.Limits)
			own.Added, own.Used = zero(own.Added), zero(own.Used)
		}
		all[i] = pair
	}
	return all
}

func zero[T any](T) (z T) { return z }

func rulesOf(pairs []Pair) guard.HostRules {
	var r guard.HostRules
	for _, p := range pairs {
		r.Policies = append(r.Policies, p.Policies...)
		r.Encaps = append(r.Encaps, p.Encaps...)
		for _, d := range p.Detours {
			if d.Device = p.Device; p.Open {
				r.Detours = append(r.Detours, d)
			}
		}
	}
	return r
}
