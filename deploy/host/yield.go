package host

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"espalier/deploy/steps"
)

// yieldsIn is how long it takes until another change may begin although this one has not come to its
// end: a host that has confirmed and hears nothing must not wait for ever. Peers that can be heard have
// been by then.
func (r *round) yieldsIn(c *Change) time.Duration {
	now := r.cfg.Clock.Now()
	at := c.Confirmed + c.Begin.Timeout + steps.GivesWay
	switch {
	case r.rebooted(c): // it is undone by then, see settle
		at = c.Begin.Timeout
	case c.Stage == steps.Open:
		at = c.Deadline
	case c.Closing > 0: // all have confirmed
		at = c.Closing
	}
	return max(0, at-now)
}

// undecided is what is owned once a change that was confirmed gives way to another one: of pairs whose
// peers were not heard both generations, for each may be the one that the peer has. Nothing is deleted.
func (j *Journal) undecided() []Owned {
	c := j.Change
	owned := slices.Clone(j.Owned)
	for i := range c.Pairs {
		p, state := &c.Begin.Pairs[i], &c.Pairs[i]
		k := j.owner(p.Tunnel, p.Local, p.Remote)
		var o Owned
		switch {
		case state.Stage != "":
			continue
		case leaves(c.Begin.Kind, p) && state.Was != nil:
			o = *state.Was
			o.Opened = true
		case len(p.Inbound) > 0 && k >= 0:
			o = j.Owned[k]
			o.Outbound, o.Inbound, o.Encaps = slices.Clone(o.Outbound), slices.Clone(o.Inbound), slices.Clone(o.Encaps)
		default: // SAs stay: there is one generation
			continue
		}
		for _, id := range p.Old {
			if id.Dst == p.Local {
				o.Inbound = with(o.Inbound, id)
			} else {
				o.Outbound = with(o.Outbound, id)
			}
		}
		if was := state.Was; was != nil {
			for _, e := range was.Encaps {
				o.Encaps = with(o.Encaps, e)
			}
		}
		o.Undecided = true
		owned = append(without(owned, o.Tunnel, p), o)
	}
	return owned
}

// with adds what is not there yet.
func with[T comparable](all []T, one T) []T {
	if slices.Contains(all, one) {
		return all
	}
	return append(all, one)
}

// giveWay ends a confirmed change so that another one can begin, if its time has come: then what is
// owned is returned. Nothing is written yet.
func (r *round) giveWay(c *Change) ([]Owned, error) {
	if wait := r.yieldsIn(c); c.Stage == steps.Open || wait > 0 || r.rebooted(c) {
		return nil, errors.New(r.openWords(c))
	}
	if c.Closing > 0 {
		return r.j.Owned, r.close(c)
	}
	return r.j.undecided(), nil
}

// openWords say why no other change can begin.
func (r *round) openWords(c *Change) string {
	s := fmt.Sprintf("%s of %s, given on %s, is under way", c.Begin.Kind, c.Begin.Origin, c.Begin.Coordinator)
	left := r.yieldsIn(c).Round(time.Second)
	switch {
	case r.rebooted(c):
		return fmt.Sprintf("%s: this host was booted meanwhile, and undoes it in %s", s, left)
	case c.Stage == steps.Confirmed:
		return fmt.Sprintf("%s: it has been confirmed, and another one can begin in %s", s, left)
	}
	return fmt.Sprintf("%s: it is undone in %s unless it is confirmed", s, left)
}
