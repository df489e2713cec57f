package dataplane

import (
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

	mu       sync.RWMutex
	next     uint64
	byID     map[ipsec.SAID]*association
	outbound map[outboundKey][]*association // newest first
}

// outboundKey is what a policy's processing and the packet together ask of an SA.
type outboundKey struct {
	src, dst netip.Addr
	request  uint32
	mode     ipsec.Mode
}

func newSAD() *sad {
	return &sad{nonces: newNonces(), byID: make(map[ipsec.SAID]*association), outbound: make(map[outboundKey][]*association)}
}

func (s *sad) add(sa ipsec.SA, e *encapsulation) (*association, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[sa.ID()] != nil {
		return nil, ipsec.ErrExist
	}
	a, err := newAssociation(sa, e, s.next, s.nonces)
	if err != nil {
		return nil, err
	}
	s.next++
	s.byID[sa.ID()] = a
	for _, k := range outboundKeys(a) {
		s.outbound[k] = slices.Insert(s.outbound[k], 0, a)
	}
	return a, nil
}

// outboundKeys are what an SA that sends is found by. A tunnel may be asked for without its
// source.
func outboundKeys(a *association) []outboundKey {
	if a.out == nil {
		return nil
	}
	exact := outboundKey{src: a.sa.Src, dst: a.sa.Dst, request: a.sa.RequestID, mode: a.sa.Mode}
	if a.sa.Mode != ipsec.Tunnel {
		return []outboundKey{exact}
	}
	anySource := exact
	anySource.src = netip.Addr{}
	return []outboundKey{exact, anySource}
}

func (s *sad) remove(id ipsec.SAID) (*association, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.byID[id]
	if a == nil {
		return nil, ipsec.ErrNotExist
	}
	delete(s.byID, id)
	for _, k := range outboundKeys(a) {
		rest := slices.DeleteFunc(s.outbound[k], func(b *association) bool { return a == b })
		if s.outbound[k] = rest; len(rest) == 0 {
			delete(s.outbound, k)
		}
	}
	return a, nil
}

func (s *sad) flush() []*association {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*association, 0, len(s.byID))
	for _, a := range s.byID {
		all = append(all, a)
	}
	clear(s.byID)
	clear(s.outbound)
	return all
}

// inbound finds the SA of a received packet: SPI and destination (RFC 4301 §4.1).
func (s *sad) inbound(id ipsec.SAID) *association {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byID[id]
}

// forPacket finds the SA for an outbound packet as Linux does: request id, mode and
// addresses of the processing (in transport mode the packet's own addresses), the SA's
// selector, and of several the newest.
func (s *sad) forPacket(p *ipsec.Processing, f *ipsec.Flow) *association {
	k := outboundKey{src: f.Src, dst: f.Dst, request: p.RequestID, mode: p.Mode}
	if p.Mode == ipsec.Tunnel {
		k.src, k.dst = p.Src, p.Dst
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, a := range s.outbound[k] {
		if (p.SPI == 0 || p.SPI == a.sa.SPI) && a.sa.Selector.Match(f) {
			return a
		}
	}
	return nil
}

// list is a snapshot, oldest first.
func (s *sad) list() []*association {
	s.mu.RLock()
	all := make([]*association, 0, len(s.byID))
	for _, a := range s.byID {
		all = append(all, a)
	}
	s.mu.RUnlock()
	slices.SortFunc(all, func(a, b *association) int {
		if a.order < b.order {
			return -1
		}
		return 1
	})
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
