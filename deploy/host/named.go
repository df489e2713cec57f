package host

import (
	"fmt"
	"slices"

	"espalier/deploy/steps"
)

// ownedAs is what a pair of a change is called in the journal until then; "" if it is not there. Names may
// be given on, even in a circle.
func ownedAs(q *steps.BeginQuestion, p *steps.PairEnd) string {
	if p.Former != "" {
		return p.Former
	}
	givenOn := func(other steps.PairEnd) bool {
		return other.Former == p.Tunnel && other.Local == p.Local && other.Remote == p.Remote
	}
	if slices.ContainsFunc(q.Pairs, givenOn) {
		return ""
	}
	return p.Tunnel
}

// checkNames refuses names that would be of two pairs.
func (j *Journal) checkNames(q *steps.BeginQuestion) error {
	for i := range q.Pairs {
		p := &q.Pairs[i]
		if p.Former == "" {
			continue
		}
		if j.owner(p.Former, p.Local, p.Remote) < 0 {
			return fmt.Errorf("tunnel %s, %s→%s: there is no tunnel %s that could be called so: plan it again", p.Tunnel, p.Local, p.Remote, p.Former)
		}
		if j.owner(p.Tunnel, p.Local, p.Remote) >= 0 && !slices.ContainsFunc(q.Pairs, func(other steps.PairEnd) bool {
			return other.Former == p.Tunnel && other.Local == p.Local && other.Remote == p.Remote
		}) {
			return fmt.Errorf("tunnel %s, %s→%s: there is one of that name: plan it again", p.Tunnel, p.Local, p.Remote)
		}
	}
	return nil
}

// after is what will be owned once the change is finished.
func (j *Journal) after() []Owned {
	c := j.Change
	owned := slices.Clone(j.Owned)
	for i := range c.Pairs {
		if was := c.Pairs[i].Was; was != nil {
			owned = without(owned, was.Tunnel, &c.Begin.Pairs[i])
		}
		owned = without(owned, c.Begin.Pairs[i].Tunnel, &c.Begin.Pairs[i])
	}
	for i := range c.Pairs {
		if o := c.owned(i); o != nil {
			owned = append(owned, *o)
		}
	}
	return owned
}

// undone is what will be owned once some pairs of the change are undone. Their former names come back, but
// where another pair has got one that stays: then it goes on by the new one.
func (j *Journal) undone(c *Change, pairs ...int) []Owned {
	owned := slices.Clone(j.Owned)
	if c.Stage == steps.Open { // nothing of it is owned yet
		return owned
	}
	for _, i := range pairs {
		owned = without(owned, c.Begin.Pairs[i].Tunnel, &c.Begin.Pairs[i])
	}
	for _, i := range pairs {
		p, was := &c.Begin.Pairs[i], c.Pairs[i].Was
		if was == nil {
			continue
		}
		o := *was
		if n := len(owned); n != len(without(owned, o.Tunnel, p)) {
			o.Tunnel = p.Tunnel
		}
		owned = append(owned, o)
	}
	return owned
}

// without is all but one tunnel between the ends of a pair.
func without(all []Owned, tunnel string, p *steps.PairEnd) []Owned {
	return slices.DeleteFunc(slices.Clone(all), func(o Owned) bool {
		return o.Tunnel == tunnel && o.Local == p.Local && o.Remote == p.Remote
	})
}
