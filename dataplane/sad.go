package dataplane

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"espalier/ipsec"
)

// sad holds the associations, by identity for inbound packets and by what an outbound
// policy asks for. It is safe for concurrent use.
type sad struct {
	nonces *nonces
	tend   func(*association) // what the keeper does for one
	watch  bool               // progress is told; guarded by Device.control

	mu        sync.RWMutex
	next      uint64
	all       map[*association]struct{}
	byID      map[ipsec.SAID]*association // but larval SAs without an SPI
	outbound  map[outboundKey]candidates
	byAcquire map[acquireKey]*association // larval SAs
}

// candidates are the SAs that a policy may choose from.
type candidates struct {
	newest *association   // most often there is no other
	rest   []*association // oldest first
}

// acquireKey is what an answer to an acquire tells of it.
type acquireKey struct {
	id  uint32
	dst netip.Addr
}

// outboundKey is what a policy's processing and the packet together ask of an SA.
type outboundKey struct {
	src, dst netip.Addr
	request  uint32
	mode     ipsec.Mode
}

func newSAD(tend func(*association)) *sad {
	return &sad{
		nonces: newNonces(), tend: tend,
		all: make(map[*association]struct{}), byID: make(map[ipsec.SAID]*association),
		outbound: make(map[outboundKey]candidates), byAcquire: make(map[acquireKey]*association),
	}
}

// add makes an SA of sa, in the place of the larval SA given, if it is not nil. If it fails, that
// stays.
func (s *sad) add(sa ipsec.SA, e *encapsulation, larva *association) (*association, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.byID[sa.ID()]; have != nil && have != larva {
		return nil, ipsec.ErrExist
	}
	a, err := newAssociation(sa, e, s.nonces)
	if err != nil {
		return nil, err
	}
	if larva != nil {
		s.unlink(larva)
	}
	s.link(a)
	return a, nil
}

// addLarva adds a larval SA. Its SPI is free, or 0.
func (s *sad) addLarva(a *association) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link(a)
}

func (s *sad) link(a *association) {
	s.next++
	a.order = s.next
	a.errand.do = func() { s.tend(a) }
	sent, received := a.numbers()
	a.progress.start(a.sa.Notice, sent, received, s.watch)
	s.all[a] = struct{}{}
	if a.sa.SPI != 0 {
		s.byID[a.sa.ID()] = a
	}
	for _, k := range outboundKeys(a) {
		c := s.outbound[k]
		if c.newest != nil {
			c.newest.superseded.Store(true)
			c.rest = append(c.rest, c.newest)
		}
		c.newest = a
		s.outbound[k] = c
	}
	if a.sa.Larval && a.sa.AcquireID != 0 {
		s.byAcquire[acquireKey{a.sa.AcquireID, a.sa.Dst}] = a
	}
}

// without is the candidates but for one of them.
func (c candidates) without(a *association) candidates {
	if a != c.newest {
		c.rest = slices.DeleteFunc(c.rest, func(b *association) bool { return a == b })
		return c
	}
	c.newest = nil
	if n := len(c.rest); n > 0 {
		c.newest = c.rest[n-1]
		c.rest = slices.Delete(c.rest, n-1, n)
	}
	return c
}

// all are the candidates, newest first.
func (c candidates) all(yield func(*association) bool) {
	if c.newest == nil || !yield(c.newest) {
		return
	}
	for _, a := range slices.Backward(c.rest) {
		if !yield(a) {
			return
		}
	}
}

// outboundKeys are what an SA that sends, or may once it is there, is found by. A tunnel may be
// asked for without its source.
func outboundKeys(a *association) []outboundKey {
	if a.out == nil && !a.sa.Larval {
		return nil
	}
	exact := outboundKey{src: a.sa.Src, dst: a.sa.Dst, request: a.sa.RequestID, mode: a.sa.Mode}
	if a.sa.Mode != ipsec.Tunnel {
		return []outboundKey{exact}
	}
	anySource := exact
	anySource.src = netip.Addr{}
	if anySource == exact {
		return []outboundKey{exact}
	}
	return []outboundKey{exact, anySource}
}

func (s *sad) remove(id ipsec.SAID) (*association, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.byID[id]
	if a == nil {
		return nil, ipsec.ErrNotExist
	}
	s.unlink(a)
	return a, nil
}

// drop takes out an SA that may have no SPI.
func (s *sad) drop(a *association) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unlink(a)
}

func (s *sad) unlink(a *association) {
	a.superseded.Store(true)
	delete(s.all, a)
	if s.byID[a.sa.ID()] == a {
		delete(s.byID, a.sa.ID())
	}
	for _, k := range outboundKeys(a) {
		if c := s.outbound[k].without(a); c.newest != nil {
			s.outbound[k] = c
		} else {
			delete(s.outbound, k)
		}
	}
	if k := (acquireKey{a.sa.AcquireID, a.sa.Dst}); s.byAcquire[k] == a {
		delete(s.byAcquire, k)
	}
}

func (s *sad) flush() []*association {
	all := s.list()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range all {
		a.superseded.Store(true)
	}
	clear(s.all)
	clear(s.byID)
	clear(s.outbound)
	clear(s.byAcquire)
	return all
}

// inbound finds the SA of a received packet: SPI and destination (RFC 4301 §4.1).
func (s *sad) inbound(id ipsec.SAID) *association {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byID[id]
}

// forPolicy finds the SA for an outbound packet that a policy protects: see forPacket. As long as
// the newest candidate will do, the policy knows it from the packet before.
func (s *sad) forPolicy(p *policy, f *ipsec.Flow) (found *association, waiting bool) {
	if a := p.recent.Load(); a != nil {
		if !a.superseded.Load() && !a.dying.Load() && !a.spent.Load() && a.fits(f) {
			return a, false
		}
	}
	found, waiting = s.forPacket(&p.Processing[0], f)
	if found != nil && !found.superseded.Load() {
		p.recent.Store(found)
	} else {
		p.recent.Store(nil)
	}
	return found, waiting
}

// fits reports whether an SA that was found for one packet of a policy is one for this.
func (a *association) fits(f *ipsec.Flow) bool {
	if !a.anyTraffic && !a.sa.Selector.Match(f) {
		return false
	}
	return a.mode == ipsec.Tunnel || a.sa.Src == f.Src && a.sa.Dst == f.Dst
}

// forPacket finds the SA for an outbound packet as Linux does: request id, mode and
// addresses of the processing (in transport mode the packet's own addresses), the SA's
// selector, and of several the newest that has not reached a soft limit, or else the newest.
// Without one, waiting says that another need not be asked for: a larval SA stands for it, or
// one that is about to go.
func (s *sad) forPacket(p *ipsec.Processing, f *ipsec.Flow) (found *association, waiting bool) {
	k := outboundKey{src: f.Src, dst: f.Dst, request: p.RequestID, mode: p.Mode}
	if p.Mode == ipsec.Tunnel {
		k.src, k.dst = p.Src, p.Dst
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for a := range s.outbound[k].all {
		switch {
		case p.SPI != 0 && p.SPI != a.sa.SPI:
		case a.sa.Larval:
			waiting = true
		case !a.sa.Selector.Match(f):
		case a.spent.Load():
			waiting = true
		case !a.dying.Load():
			return a, false
		case found == nil:
			found = a
		}
	}
	return found, waiting
}

// larvaFor is the larval SA that an SPI is asked for, nil if there is none: as in Linux the one
// that has the AcquireID, else one without an SPI that fits.
func (s *sad) larvaFor(r *ipsec.SPIRequest) *association {
	if a := s.larvaByAcquire(r.AcquireID, r.Dst); a != nil {
		return a
	}
	return s.larva(outboundKey{src: r.Src, dst: r.Dst, request: r.RequestID, mode: r.Mode})
}

// awaiting is the larval SA without an SPI that sa makes needless.
func (s *sad) awaiting(sa *ipsec.SA) *association {
	if a := s.larvaByAcquire(sa.AcquireID, sa.Dst); a != nil {
		return a
	}
	return s.larva(outboundKey{src: sa.Src, dst: sa.Dst, request: sa.RequestID, mode: sa.Mode})
}

func (s *sad) larvaByAcquire(id uint32, dst netip.Addr) *association {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byAcquire[acquireKey{id, dst}]
}

// larva is a larval SA without an SPI.
func (s *sad) larva(k outboundKey) *association {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.all) == len(s.byID) {
		return nil // all have SPIs
	}
	for a := range s.outbound[k].all {
		if a.sa.Larval && a.sa.SPI == 0 {
			return a
		}
	}
	return nil
}

// list is a snapshot, newest first as in Linux.
func (s *sad) list() []*association {
	s.mu.RLock()
	all := make([]*association, 0, len(s.all))
	for a := range s.all {
		all = append(all, a)
	}
	s.mu.RUnlock()
	slices.SortFunc(all, func(a, b *association) int { return cmp.Compare(b.order, a.order) })
	return all
}

// saError names the operation and the SA in front of err.
func saError(op string, src netip.Addr, id ipsec.SAID, err error) error {
	object := id.String()
	if src.IsValid() {
		object = fmt.Sprintf("%s %s→%s", id.SPI, src, id.Dst)
	}
	return &ipsec.OpError{Op: op + " SA", Object: object, Err: err}
}
