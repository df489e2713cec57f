package dataplane

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
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

	deciding [ipsec.Forward + 1]tuples
	changes  atomic.Uint64 // begun and ended: odd while one is under way

	mu      sync.Mutex // for all but the look-up of a packet
	lines   slab[policy]
	index   uint32
	order   uint64
	byIndex map[uint32]*policy
	byID    map[ipsec.PolicyID]*policy // by selector
}

// policy is one policy at work. What packets need of it is in one cache line; the rest of it, but
// for what a packet brings into that line, is never changed after it was put in.
type policy struct {
	src, dst bits128 // key of the selector, as are ports and protocol
	ports    uint32
	protocol uint8
	action   ipsec.Action
	priority uint32
	used     atomic.Uint32               // last use in Unix seconds, 0: never
	recent   atomic.Pointer[association] // the SA last found for it, see sad.forPolicy
	*rule
}

// rule is what packets seldom need of a policy.
type rule struct {
	ipsec.Policy         // as added
	order        uint64  // larger is newer
	place        uint64  // of two with one priority, the lower decides
	next         *policy // in a tuple

	errand errand // to tend it
	// Guarded by Device.control.
	timer *time.Timer
	gone  bool // out of the SPD
}

func newSPD(tend func(*policy)) *spd {
	s := &spd{tend: tend, byIndex: make(map[uint32]*policy), byID: make(map[ipsec.PolicyID]*policy)}
	for i := range s.deciding {
		for j := range s.deciding[i].secret {
			s.deciding[i].secret[j] = rand.Uint64()
		}
	}
	return s
}

// rank is the place of p among those of its direction.
func (p *policy) rank() rank { return rank{p.priority, p.place} }

// read is the policy as an SPD reads it back.
func (p *policy) read() ipsec.Policy {
	out := p.Policy
	out.Used = notBefore(p.Added, unixTime(int64(p.used.Load())))
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

// prepare makes a policy of what is given, to be put in the place of old if that is not nil. It
// has its index and rank: of two with equal priority it is the last to decide, unless it takes
// the place of one. Device.control is held until it is put in.
func (s *spd) prepare(given *ipsec.Policy, old *policy) *policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.lines.new()
	p.action, p.priority, p.rule = given.Action, given.Priority, &rule{Policy: *given}
	p.Added = time.Now()
	p.Processing = slices.Clone(p.Processing)
	p.errand.do = func() { s.tend(p) }
	s.order++
	p.order, p.place = s.order, s.order
	switch {
	case old == nil:
		p.Index = s.freeIndex(p)
		return p
	case old.Priority == p.Priority:
		p.place = old.place
	}
	p.Index = old.Index
	return p
}

// freeIndex is the index asked for, if no policy has it, or the next.
func (s *spd) freeIndex(p *policy) uint32 {
	index := p.Index
	for index == 0 || s.byIndex[index] != nil {
		s.index += 8 // as Linux: the low three bits tell the direction
		index = s.index | indexBits(p.Direction)
	}
	return index
}

// indexBits are the bits of an index that tell the direction.
func indexBits(d ipsec.Direction) uint32 { return uint32(d - ipsec.Inbound) }

// change begins one of what packets look up, and gives what ends it.
func (s *spd) change() (end func()) {
	s.mu.Lock()
	s.changes.Add(1)
	return func() {
		s.changes.Add(1)
		s.mu.Unlock()
	}
}

// put puts p in, in the place of old if that is not nil. No packet sees anything between before
// and after.
func (s *spd) put(p, old *policy) {
	defer s.change()()
	if old != nil {
		s.deciding[old.Direction].remove(old)
	}
	s.deciding[p.Direction].add(p)
	s.byIndex[p.Index], s.byID[p.ID()] = p, p
}

// drop takes a policy out that is there.
func (s *spd) drop(p *policy) {
	defer s.change()()
	s.deciding[p.Direction].remove(p)
	delete(s.byIndex, p.Index)
	delete(s.byID, p.ID())
}

func (s *spd) get(id ipsec.PolicyID) (*policy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.byID[ipsec.PolicyID{Direction: id.Direction, Selector: id.Selector}]
	if id.Index != 0 {
		if p = s.byIndex[id.Index]; p != nil && p.Direction != id.Direction {
			p = nil
		}
	}
	if p == nil {
		return nil, ipsec.ErrNotExist
	}
	return p, nil
}

// flush takes all policies out.
func (s *spd) flush() []*policy {
	defer s.change()()
	all := slices.Collect(maps.Values(s.byIndex))
	for i := range s.deciding {
		s.deciding[i].shapes.Store(nil)
	}
	clear(s.byIndex)
	clear(s.byID)
	return all
}

func (s *spd) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byIndex)
}

// directions are how many policies there are of each.
func (s *spd) directions() map[ipsec.Direction]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n [8]int
	for index := range s.byIndex {
		n[index&7]++ // see indexBits
	}
	of := map[ipsec.Direction]int{}
	for d := ipsec.Inbound; d <= ipsec.Forward; d++ {
		if some := n[indexBits(d)]; some > 0 {
			of[d] = some
		}
	}
	return of
}

// newestFirst is a snapshot in the order of Linux's dumps.
func (s *spd) newestFirst() []*policy {
	s.mu.Lock()
	all := slices.AppendSeq(make([]*policy, 0, len(s.byIndex)), maps.Values(s.byIndex))
	s.mu.Unlock()
	slices.SortFunc(all, func(p, q *policy) int { return cmp.Compare(q.order, p.order) })
	return all
}

// lookup is the policy that decides on f, nil if none does: see tuples.find. It is used now.
//
// It takes no lock, unless there is a change meanwhile: then what it has found may be of neither
// before nor after, and it waits. That there is no policy must never be a mistake.
func (s *spd) lookup(dir ipsec.Direction, f *ipsec.Flow, now int64) *policy {
	before := s.changes.Load()
	var p *policy
	if before&1 == 0 && !f.NoPorts {
		p = s.deciding[dir].find(f)
	}
	if before&1 != 0 || f.NoPorts || s.changes.Load() != before {
		p = s.lookupLocked(dir, f)
	}
	if p != nil {
		p.use(now)
	}
	return p
}

// use makes now, in Unix seconds, the time of the policy's last use.
func (p *policy) use(now int64) {
	if p.used.Load() != uint32(now) {
		p.used.Store(uint32(now))
	}
}

func (s *spd) lookupLocked(dir ipsec.Direction, f *ipsec.Flow) *policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deciding[dir].find(f)
}

// letsPass reports whether p may let cleartext pass.
func letsPass(p *policy) bool {
	return p.Action == ipsec.Bypass || p.Action == ipsec.Protect && p.Processing[0].Optional
}

// accepts reports whether SA a is what processing t asks of inbound traffic. As in Linux
// a request id or SPI of 0 accepts any, of the addresses only the source counts, in tunnel
// mode, where one that is not set accepts any; and optional processing in transport mode is
// content with every SA of that mode.
func accepts(t *ipsec.Processing, a *parameters) bool {
	if t.Optional && t.Mode == ipsec.Transport {
		return a.Mode == ipsec.Transport
	}
	return t.Mode == a.Mode &&
		(t.RequestID == 0 || t.RequestID == a.RequestID) &&
		(t.SPI == 0 || t.SPI == a.SPI) &&
		(t.Mode != ipsec.Tunnel || t.Src == a.Src || !t.Src.IsValid())
}
