package dataplane

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"espalier/ipsec"
)

// spd holds the policies in the order in which they decide: lowest priority number first,
// of equals the one added first, as in Linux. It is safe for concurrent use.
type spd struct {
	mu    sync.RWMutex
	index uint32
	lists [ipsec.Forward + 1][]*ipsec.Policy
}

// checkPolicy refuses what this device does not do.
func checkPolicy(p *ipsec.Policy) error {
	switch {
	case p.Direction != ipsec.Inbound && p.Direction != ipsec.Outbound && p.Direction != ipsec.Forward:
		return fmt.Errorf("%w: a policy needs a direction", ipsec.ErrInvalid)
	case p.Selector.Src.IsValid() && p.Selector.Dst.IsValid() && p.Selector.Src.Addr().Is4() != p.Selector.Dst.Addr().Is4():
		return fmt.Errorf("%w: source and destination are of different families", ipsec.ErrInvalid)
	case p.Selector.Interface != 0:
		return fmt.Errorf("%w: a selector with an interface", ipsec.ErrUnsupported)
	case p.Action != ipsec.Protect:
		return nil
	case len(p.Processing) == 0:
		return fmt.Errorf("%w: a protecting policy needs a template", ipsec.ErrInvalid)
	case len(p.Processing) > 1:
		return fmt.Errorf("%w: %d templates; this device applies one ESP SA to a packet", ipsec.ErrUnsupported, len(p.Processing))
	}
	t := &p.Processing[0]
	switch {
	case t.Mode != ipsec.Tunnel:
	case p.Direction == ipsec.Outbound && !t.Dst.IsValid():
		return fmt.Errorf("%w: a tunnel template needs the address of the other end", ipsec.ErrInvalid)
	case t.Src.IsValid() && t.Dst.IsValid() && t.Src.Is4() != t.Dst.Is4():
		return fmt.Errorf("%w: the tunnel addresses are of different families", ipsec.ErrInvalid)
	}
	return nil
}

func (s *spd) add(p ipsec.Policy) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.find(p.ID()) != nil {
		return ipsec.ErrExist
	}
	s.insert(p)
	return nil
}

// replace puts p in the place of old, which must be in the database. No packet sees the
// moment between them.
func (s *spd) replace(old *ipsec.Policy, p ipsec.Policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delete(old)
	if p.Index == 0 {
		p.Index = old.Index
	}
	s.insert(p)
}

func (s *spd) insert(p ipsec.Policy) {
	list := s.lists[p.Direction]
	if p.Index == 0 {
		s.index += 8 // as Linux: the low three bits tell the direction
		p.Index = s.index | uint32(p.Direction-1)
	}
	p.Added = time.Now()
	p.Processing = slices.Clone(p.Processing)
	at, _ := slices.BinarySearchFunc(list, p.Priority, func(q *ipsec.Policy, priority uint32) int {
		if q.Priority <= priority {
			return -1
		}
		return 1
	})
	s.lists[p.Direction] = slices.Insert(list, at, &p)
}

func (s *spd) delete(p *ipsec.Policy) {
	s.lists[p.Direction] = slices.DeleteFunc(s.lists[p.Direction], func(q *ipsec.Policy) bool { return p == q })
}

func (s *spd) remove(id ipsec.PolicyID) (*ipsec.Policy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.find(id)
	if p == nil {
		return nil, ipsec.ErrNotExist
	}
	s.delete(p)
	return p, nil
}

func (s *spd) get(id ipsec.PolicyID) (*ipsec.Policy, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if p := s.find(id); p != nil {
		return p, nil
	}
	return nil, ipsec.ErrNotExist
}

func (s *spd) find(id ipsec.PolicyID) *ipsec.Policy {
	if int(id.Direction) >= len(s.lists) {
		return nil
	}
	for _, p := range s.lists[id.Direction] {
		if id.Index != 0 && p.Index == id.Index || id.Index == 0 && p.Selector == id.Selector {
			return p
		}
	}
	return nil
}

func (s *spd) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.lists[:])
}

// list is a snapshot in order of direction and priority.
func (s *spd) list() []ipsec.Policy {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []ipsec.Policy
	for _, l := range s.lists {
		for _, p := range l {
			all = append(all, *p)
		}
	}
	return all
}

// lookup is the policy that decides on f, nil if none does. A packet whose ports cannot be
// read falls under a selector with ports, but not to be let pass by it: what such a fragment
// belongs to nobody knows.
func (s *spd) lookup(dir ipsec.Direction, f *ipsec.Flow) *ipsec.Policy {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, p := range s.lists[dir] {
		if p.Selector.Match(f) && !(f.NoPorts && p.Selector.HasPorts() && letsPass(p)) {
			return p
		}
	}
	return nil
}

// letsPass reports whether p may let cleartext pass.
func letsPass(p *ipsec.Policy) bool {
	return p.Action == ipsec.Bypass || p.Action == ipsec.Protect && p.Processing[0].Optional
}

// accepts reports whether SA a is what processing t asks of inbound traffic. As in Linux
// a request id or SPI of 0 accepts any, of the addresses only the source counts, in tunnel
// mode, where one that is not set accepts any; and optional processing in transport mode is
// content with every SA of that mode.
func accepts(t *ipsec.Processing, a *ipsec.SA) bool {
	if t.Optional && t.Mode == ipsec.Transport {
		return a.Mode == ipsec.Transport
	}
	return t.Mode == a.Mode &&
		(t.RequestID == 0 || t.RequestID == a.RequestID) &&
		(t.SPI == 0 || t.SPI == a.SPI) &&
		(t.Mode != ipsec.Tunnel || t.Src == a.Src || !t.Src.IsValid())
}
