package dataplane

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"espalier/ipsec"
)

// sad holds the associations, by identity for inbound packets and by what an outbound
// policy asks for. It is safe for concurrent use.
type sad struct {
	nonces         *nonces
	tend, tendPath func(*association) // what the keeper does for one
	redecide       func()             // has all decisions on flows made again
	watch          bool               // progress is told; guarded by Device.control
	lines          slab[association]  // likewise

	secret [4]uint64          // of the hashes
	byID   table[association] // but larval SAs without an SPI; read without the lock
	// outbound has the newest of the SAs that are candidates for the same policies and queues. The
	// others are linked to it, newest first; most often there are none. It is read without the lock.
	outbound table[association]
	bound    atomic.Int64 // how many of them send for one queue

	mu        sync.RWMutex
	next      uint64
	nameless  map[*association]struct{}   // larval SAs without an SPI
	byAcquire map[acquireKey]*association // larval SAs
}

// acquireKey is what an answer to an acquire tells of it.
type acquireKey struct {
	id  uint32
	dst netip.Addr
}

// outboundKey is what a policy's processing and the packet together ask of an SA.
type outboundKey struct {
	src, dst netip.Addr // src may be left out for a tunnel
	request  uint32
	queue    uint16 // as association has it: those for one queue and those for all are apart
	mode     ipsec.Mode
}

func newSAD(tend, tendPath func(*association), redecide func()) *sad {
	s := &sad{
		nonces: newNonces(), tend: tend, tendPath: tendPath, redecide: redecide, nameless: make(map[*association]struct{}),
		byAcquire: make(map[acquireKey]*association),
	}
	for i := range s.secret {
		s.secret[i] = rand.Uint64()
	}
	return s
}

// hash is that of an SA's identity, which nobody can choose for others to have the same.
func (s *sad) hash(id *ipsec.SAID) uint64 { return s.hashAddr(id.Dst, uint64(id.SPI)) }

func (s *sad) hashAddr(a netip.Addr, number uint64) uint64 {
	b := a.As16()
	h := product(binary.NativeEndian.Uint64(b[:8])^s.secret[0], binary.NativeEndian.Uint64(b[8:])^s.secret[1])
	return product(h^s.secret[2], number^s.secret[3])
}

// hashOutbound is that of a key as far as all candidates share it.
func (s *sad) hashOutbound(k *outboundKey) uint64 {
	return s.hashAddr(k.dst, uint64(k.request)<<32|uint64(k.queue)<<8|uint64(k.mode))
}

func (s *sad) hashOfSender(a *association) uint64 {
	k := keyOf(a)
	return s.hashOutbound(&k)
}

func (s *sad) hashOf(a *association) uint64 { return s.hash(&a.id) }

// add makes an SA of sa, in the place of the larval SA given, if it is not nil. If it fails, that
// stays.
func (s *sad) add(sa ipsec.SA, e *encapsulation, larva *association) (*association, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.inbound(sa.ID()); have != nil && have != larva {
		return nil, ipsec.ErrExist
	}
	a, err := newAssociation(&s.lines, sa, e, s.nonces)
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
	a.path.errand.do = func() { s.tendPath(a) }
	sent, received := a.numbers()
	a.progress.start(sent, received, s.watch)
	if a.id.SPI != 0 {
		s.byID.add(a, s.hashOf)
	} else {
		s.nameless[a] = struct{}{}
	}
	if a.out != nil || a.sa.Larval {
		s.linkSender(a)
	}
	if a.sa.Larval && a.sa.AcquireID != 0 {
		s.byAcquire[acquireKey{a.sa.AcquireID, a.sa.Dst}] = a
	}
}

// linkSender makes an SA that sends, or may once it is there, the newest of its candidates.
func (s *sad) linkSender(a *association) {
	if a.queue != 0 {
		s.bound.Add(1)
		defer s.redecide() // what its queue has sent by an SA for all
	}
	k := keyOf(a)
	before := s.newest(&k)
	if before == nil {
		s.outbound.add(a, s.hashOfSender)
		return
	}
	before.blemishes.add(superseded)
	if before.sa.Src == a.sa.Src {
		a.inherit(before)
	}
	a.older, before.newer = before, a
	s.outbound.replace(before, a, s.hashOutbound(&k))
}

func (s *sad) unlinkSender(a *association) {
	if a.queue != 0 {
		s.bound.Add(-1)
	}
	if a.older != nil {
		a.older.newer = a.newer
	}
	switch hash := s.hashOfSender(a); {
	case a.newer != nil:
		a.newer.older = a.older
	case a.older != nil:
		s.outbound.replace(a, a.older, hash)
	default:
		s.outbound.remove(a, hash)
	}
	a.older, a.newer = nil, nil
}

func keyOf(a *association) outboundKey {
	return outboundKey{src: a.sa.Src, dst: a.sa.Dst, request: a.sa.RequestID, queue: a.queue, mode: a.sa.Mode}
}

// newest is the newest of the SAs that share all but the source.
func (s *sad) newest(k *outboundKey) *association {
	return s.outbound.find(s.hashOutbound(k), func(a *association) bool {
		return a.sa.Dst == k.dst && a.sa.RequestID == k.request && a.queue == k.queue && a.mode == k.mode
	})
}

// candidates are the SAs that k asks for, newest first. A tunnel may be asked for without its
// source.
func (s *sad) candidates(k *outboundKey) iter.Seq[*association] {
	return func(yield func(*association) bool) {
		for a := s.newest(k); a != nil; a = a.older {
			if k.from(a) && !yield(a) {
				return
			}
		}
	}
}

// from reports whether an SA has the source that k asks for.
func (k *outboundKey) from(a *association) bool {
	return a.sa.Src == k.src || !k.src.IsValid() && k.mode == ipsec.Tunnel
}

func (s *sad) remove(id ipsec.SAID) (*association, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.inbound(id)
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
	a.blemishes.add(superseded)
	if a.id.SPI == 0 {
		delete(s.nameless, a)
	} else if s.inbound(a.id) == a {
		s.byID.remove(a, s.hashOf(a))
	}
	if a.out != nil || a.sa.Larval {
		s.unlinkSender(a)
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
		a.blemishes.add(superseded)
		a.older, a.newer = nil, nil
	}
	s.byID.clear()
	clear(s.nameless)
	s.outbound.clear()
	s.bound.Store(0)
	clear(s.byAcquire)
	return all
}

// inbound finds the SA of a received packet: SPI and destination (RFC 4301 §4.1).
func (s *sad) inbound(id ipsec.SAID) *association {
	return s.byID.find(s.hash(&id), func(a *association) bool { return a.id == id })
}

// forPolicy finds the SA for an outbound packet that a policy protects: see forPacket. As long as
// the newest candidate will do, the policy knows it from the packet before; or if a queue has
// candidates of its own, that is looked up alone.
func (s *sad) forPolicy(p *policy, f *ipsec.Flow, queue uint16) (found *association, waiting bool) {
	if queue != 0 && s.bound.Load() != 0 {
		k := keyFor(&p.Processing[0], f)
		k.queue = queue
		if a := s.newest(&k); a != nil {
			if spi := p.Processing[0].SPI; a.out != nil && a.blemishes.none() && k.from(a) && (spi == 0 || spi == a.id.SPI) && a.fits(f) {
				return a, false
			}
			return s.forPacket(&p.Processing[0], f, queue)
		}
	}
	if a := p.recent.Load(); a != nil {
		if a.blemishes.none() && a.fits(f) {
			return a, false
		}
	}
	found, waiting = s.forPacket(&p.Processing[0], f, queue)
	if found != nil && found.queue == 0 && // which one that has just come may not be
		!found.blemishes.has(superseded) {
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
	return a.mode == ipsec.Tunnel || a.sa.Src == f.Src && a.id.Dst == f.Dst
}

// keyFor is what a policy's processing and a packet ask of an SA for all queues.
func keyFor(p *ipsec.Processing, f *ipsec.Flow) outboundKey {
	k := outboundKey{src: f.Src, dst: f.Dst, request: p.RequestID, mode: p.Mode}
	if p.Mode == ipsec.Tunnel {
		k.src, k.dst = p.Src, p.Dst
	}
	return k
}

// forPacket finds the SA for an outbound packet as Linux does: request id, mode and
// addresses of the processing (in transport mode the packet's own addresses), the SA's
// selector, and of several the newest that has not reached a soft limit, or else the newest.
// Those for the queue that sends it, as association has it, come before those for all; but if they
// have reached a soft limit, and one for all has not, that does.
// Without one, waiting says that another need not be asked for: a larval SA stands for it, or
// one that is about to go.
func (s *sad) forPacket(p *ipsec.Processing, f *ipsec.Flow, queue uint16) (found *association, waiting bool) {
	k := keyFor(p, f)
	s.mu.RLock()
	defer s.mu.RUnlock()
	var own *association
	if queue != 0 && s.bound.Load() != 0 {
		k.queue = queue
		if own, waiting = s.best(&k, p, f); own != nil && !own.blemishes.has(dying) {
			return own, false
		}
		k.queue = 0
	}
	found, waits := s.best(&k, p, f)
	if own != nil && (found == nil || found.blemishes.has(dying)) {
		found = own
	}
	return found, waiting || waits
}

// best is the best of the candidates.
func (s *sad) best(k *outboundKey, p *ipsec.Processing, f *ipsec.Flow) (found *association, waiting bool) {
	for a := range s.candidates(k) {
		switch {
		case p.SPI != 0 && p.SPI != a.sa.SPI:
		case a.sa.Larval:
			waiting = true
		case !a.sa.Selector.Match(f):
		case a.blemishes.has(spent):
			waiting = true
		case !a.blemishes.has(dying):
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
	if sa.CPU != nil {
		return nil // as in Linux: it is not for all, as what it waits for is
	}
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
	if len(s.nameless) == 0 {
		return nil // all have SPIs
	}
	for a := range s.candidates(&k) {
		if a.sa.Larval && a.sa.SPI == 0 {
			return a
		}
	}
	return nil
}

func (s *sad) len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byID.entries + len(s.nameless)
}

// list is a snapshot, newest first as in Linux.
func (s *sad) list() []*association {
	s.mu.RLock()
	all := slices.AppendSeq(make([]*association, 0, s.byID.entries+len(s.nameless)), s.byID.all)
	all = slices.AppendSeq(all, maps.Keys(s.nameless))
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
