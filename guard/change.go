package guard

import (
	"fmt"
	"strings"

	"espalier/ipsec"
)

// Policy is a policy at its place among those of equal priority: the one with the lowest Order
// decides.
type Policy struct {
	*ipsec.Policy
	Order uint64 // below 1<<63
}

// Change takes policies out, inherited ones too, and then puts others in, in one transaction; one
// that is there already with the same direction and selector is replaced. An id with an Index
// names none. On an error everything stays as it was. It wraps ipsec.ErrInvalid if an argument is
// at fault.
//
// The time it takes grows with the change. Only a policy that is the first of its kind, or the
// last, or that cannot be in a set, has all rules made anew: see the package's description.
func (g *Guard) Change(remove []ipsec.PolicyID, add []Policy) error {
	added := make([]*ranked, len(add))
	for i, p := range add {
		e, err := newEntry(p.Policy)
		if err != nil {
			return fmt.Errorf("guard: policy %s: %w", p.ID(), err)
		}
		added[i] = &ranked{e, p.Order}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.begin()
	for _, id := range remove {
		c.remove(id)
	}
	for _, e := range added {
		c.add(e)
	}
	return c.commitOrUndo()
}

// AddEncap lets an encapsulation pass. Who adds it twice has to remove it twice. On an error
// everything stays as it was. It wraps ipsec.ErrInvalid if an argument is at fault.
func (g *Guard) AddEncap(e Encap) error {
	e, err := g.checkEncap(e)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.encaps[e]++
	if g.encaps[e] > 1 {
		return nil
	}
	c := g.begin()
	c.undo = append(c.undo, func() { delete(g.encaps, e) })
	c.encap(e, false)
	return c.commitOrUndo()
}

// RemoveEncap is the reverse of AddEncap. An opening that the kernel does not let it close is closed
// with the next change.
func (g *Guard) RemoveEncap(e Encap) error {
	e, err := g.checkEncap(e)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch g.encaps[e] {
	case 0: // it has not been added
		return nil
	case 1:
	default:
		g.encaps[e]--
		return nil
	}
	delete(g.encaps, e)
	c := g.begin()
	c.encap(e, true)
	if err := c.commit(); err != nil {
		g.unfinished = true
		return err
	}
	return nil
}

func (g *Guard) checkEncap(e Encap) (Encap, error) {
	checked, err := checkEncaps(&g.cfg, []Encap{e})
	if err != nil {
		return Encap{}, fmt.Errorf("guard: %w", err)
	}
	return checked[0], nil
}

// begin begins a change. g.mu is held until it is committed.
func (g *Guard) begin() change {
	return change{g: g, elements: make([][]element, len(g.devices))}
}

// change is one under way. What it does to the Guard before it is committed, undo undoes.
type change struct {
	g        *Guard
	elements [][]element // of each device
	whole    bool        // elements do not do
	undo     []func()
}

// remove takes out the policy with this direction and selector, and what was inherited that says
// the same.
func (c *change) remove(id ipsec.PolicyID) {
	g := c.g
	if e := g.own[id]; e != nil {
		delete(g.own, id)
		c.undo = append(c.undo, func() { g.own[id] = e })
		for i := range g.devices {
			c.leave(i, e)
		}
	}
	same := canonicalID(id)
	for i, d := range g.devices {
		all := d.inherited[same]
		if len(all) == 0 {
			continue
		}
		delete(d.inherited, same)
		c.undo = append(c.undo, func() { d.inherited[same] = all })
		for _, e := range all {
			c.leave(i, e)
		}
	}
}

func (c *change) add(e *ranked) {
	g, id := c.g, ipsec.PolicyID{Direction: e.Direction, Selector: e.Selector}
	c.remove(id)
	g.own[id] = e
	c.undo = append(c.undo, func() { delete(g.own, id) })
	for i := range g.devices {
		c.enter(i, e)
	}
}

// enter puts an entry into the sets of a device, or has the table replaced.
func (c *change) enter(device int, e *ranked) {
	c.walks(device, e, func(w *walk) {
		c.note(device)(w.add(e))
	})
}

// leave is the reverse of enter.
func (c *change) leave(device int, e *ranked) {
	c.walks(device, e, func(w *walk) {
		c.note(device)(w.remove(e))
	})
}

// note takes what a walk has to say to a change.
func (c *change) note(device int) func(changes []element, undo func(), ok bool) {
	return func(changes []element, undo func(), ok bool) {
		if !ok {
			c.whole = true
			return
		}
		c.undo = append(c.undo, undo)
		c.elements[device] = append(c.elements[device], changes...)
	}
}

// walks calls each for the walks of a device that an entry has a place in.
func (c *change) walks(device int, e *ranked, each func(*walk)) {
	d := c.g.devices[device]
	switch {
	case c.whole || !e.concerns(d.index, c.g.guards):
		return
	case d.layout == nil: // nothing has been installed yet
		c.whole = true
		return
	}
	for _, s := range sides {
		if !s.has(e.Direction) {
			continue
		}
		for _, f := range families {
			if f.concerns(&e.Selector) {
				each(d.layout.walks[s][f])
			}
		}
	}
}

// encap puts an encapsulation into the sets of all devices, or takes it out.
func (c *change) encap(e Encap, remove bool) {
	for i, d := range c.g.devices {
		for _, s := range sides {
			for _, f := range families {
				if !f.carries(e) {
					continue
				}
				if d.layout == nil || d.layout.walks[s][f].encaps == nil {
					c.whole = true
					return
				}
				all, k := d.layout.walks[s][f].encaps, encapKey(s, e)
				if remove {
					c.elements[i] = append(c.elements[i], all.take(k)...)
					continue
				}
				c.elements[i] = append(c.elements[i], all.put(k, nil)...)
				c.undo = append(c.undo, func() { all.take(k) })
			}
		}
	}
}

func (c *change) commitOrUndo() error {
	err := c.commit()
	if err != nil {
		for i := len(c.undo) - 1; i >= 0; i-- {
			c.undo[i]()
		}
	}
	return err
}

func (c *change) commit() error {
	g := c.g
	if c.whole || g.unfinished {
		return g.install()
	}
	var requests []request
	for i, d := range g.devices {
		requests = append(requests, changeElements(d.name, c.elements[i])...)
	}
	if len(requests) == 0 {
		return nil
	}
	if err := g.conn.commit(requests); err != nil {
		// Somebody else may have changed the table.
		if g.install() == nil {
			return nil
		}
		return fmt.Errorf("guard %s: rules not changed: %w", strings.Join(g.cfg.Devices, " "), err)
	}
	return nil
}
