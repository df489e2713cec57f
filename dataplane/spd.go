package dataplane

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"espalier/ipsec"
)

// spd holds the policies in the order in which they decide: lowest priority number first,
// of equals the one added first, as in Linux. It is safe for concurrent use.
type spd struct {
	tend func(*policy) // what the keeper does for one

	mu    sync.RWMutex
	index uint32
	order uint64
	lists [ipsec.Forward + 1][]*policy
}

// policy is one policy at work.
type policy struct {
	ipsec.Policy              // as added
	order        uint64       // larger is newer
	used         atomic.Int64 // last use in Unix seconds, 0: never

	errand errand // to tend it
	// Guarded by Device.control.
	timer *time.Timer
	gone  bool // out of the SPD
}

// read is the policy as an SPD reads it back.
func (p *policy) read() ipsec.Policy {
	out := p.Policy
	out.Used = unixTime(p.used.Load())
	return out
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
	case p.Index != 0 && p.Index&7 != indexBits(p.Direction):
		return fmt.Errorf("%w: index %d is not one of direction %s", ipsec.ErrInvalid, p.Index, p.Direction)
	case p.Limits.SoftBytes|p.Limits.HardBytes|p.Limits.SoftPackets|p.Limits.HardPackets != 0:
		return fmt.Errorf("%w: limits of bytes or packets for a policy, which no engine enforces: limit its SAs", ipsec.ErrUnsupported)
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
	case p.Direction == ipsec.Outbound && t.Optional:
		return fmt.Errorf("%w: an optional template of an out policy must be of transport mode", ipsec.ErrInvalid)
	case p.Direction == ipsec.Outbound && !t.Dst.IsValid():
		return fmt.Errorf("%w: a tunnel template needs the address of the other end", ipsec.ErrInvalid)
	case t.Src.IsValid() && t.Dst.IsValid() && t.Src.Is4() != t.Dst.Is4():
		return fmt.Errorf("%w: the tunnel addresses are of different families", ipsec.ErrInvalid)
	}
	return nil
}

// plan is the list of p's direction with p in it, in the place of old if that is not nil. p
// gets its index: of two with equal priority it is the last to decide, unless it takes the place
// of one.
func (s *spd) plan(given *ipsec.Policy, old *policy) *plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.lists[given.Direction]
	p := &policy{Policy: *given}
	p.Added = time.Now()
	p.Processing = slices.Clone(p.Processing)
	p.errand.do = func() { s.tend(p) }
	s.order++
	p.order = s.order
	at := slices.IndexFunc(list, func(q *policy) bool { return q.Priority > p.Priority })
	if at < 0 {
		at = len(list)
	}
	switch {
	case old == nil:
		p.Index = s.freeIndex(p)
	case old.Priority == p.Priority:
		at = slices.Index(list, old)
		fallthrough
	default:
		p.Index = old.Index
	}
	list = slices.Insert(slices.Clone(list), at, p)
	return &plan{p: p, list: slices.DeleteFunc(list, func(q *policy) bool { return q == old })}
}

// plan is a change of one direction that has not been made yet.
type plan struct {
	p    *policy
	list []*policy
}

// freeIndex is the index asked for, if no policy has it, or the next.
func (s *spd) freeIndex(p *policy) uint32 {
	index := p.Index
	for index == 0 || slices.ContainsFunc(s.lists[p.Direction], func(q *policy) bool { return q.Index == index }) {
		s.index += 8 // as Linux: the low three bits tell the direction
		index = s.index | indexBits(p.Direction)
	}
	return index
}

// indexBits are the bits of an index that tell the direction.
func indexBits(d ipsec.Direction) uint32 { return uint32(d - ipsec.Inbound) }

// carryOut makes the change. No packet sees anything between before and after.
func (s *spd) carryOut(p *plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists[p.p.Direction] = p.list
}

// drop takes a policy out, if it is there.
func (s *spd) drop(p *policy) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists[p.Direction] = slices.DeleteFunc(slices.Clone(s.lists[p.Direction]), func(q *policy) bool { return p == q })
}

func (s *spd) get(id ipsec.PolicyID) (*policy, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if int(id.Direction) >= len(s.lists) {
		return nil, ipsec.ErrNotExist
	}
	for _, p := range s.lists[id.Direction] {
		if id.Index != 0 && p.Index == id.Index || id.Index == 0 && p.Selector == id.Selector {
			return p, nil
		}
	}
	return nil, ipsec.ErrNotExist
}

// flush takes all policies out.
func (s *spd) flush() []*policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Concat(s.lists[:]...)
	clear(s.lists[:])
	return all
}

// list is a snapshot in order of direction and priority, after a plan if it is not nil.
func (s *spd) list(after *plan) []ipsec.Policy {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var all []ipsec.Policy
	for dir, l := range s.lists {
		if after != nil && ipsec.Direction(dir) == after.p.Direction {
			l = after.list
		}
		for _, p := range l {
			all = append(all, p.read())
		}
	}
	return all
}

// newestFirst is a snapshot in the order of Linux's dumps.
func (s *spd) newestFirst() []*policy {
	s.mu.RLock()
	all := slices.Concat(s.lists[:]...)
	s.mu.RUnlock()
	slices.SortFunc(all, func(p, q *policy) int { return cmp.Compare(q.order, p.order) })
	return all
}

// lookup is the policy that decides on f, nil if none does. A packet whose ports cannot be
// read falls under a selector with ports, but not to be let pass by it: what such a fragment
// belongs to nobody knows. now, in Unix seconds, becomes the time of the policy's last use.
func (s *spd) lookup(dir ipsec.Direction, f *ipsec.Flow, now int64) *policy {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, p := range s.lists[dir] {
		if p.Selector.Match(f) && !(f.NoPorts && p.Selector.HasPorts() && letsPass(p)) {
			if p.used.Load() != now {
				p.used.Store(now)
			}
			return p
		}
	}
	return nil
}

// letsPass reports whether p may let cleartext pass.
func letsPass(p *policy) bool {
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
