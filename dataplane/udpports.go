package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"espalier/guard"
	"espalier/ipsec"
	"espalier/underlay"
)

// encapsulation is an SA's UDP encapsulation: the ports as the SA has them, and its ends as
// this host sees them.
type encapsulation struct {
	ports ipsec.Encap
	ends  guard.Encap
}

// encapsulationOf decides, once and for all, which end of an SA is this host's. An SA that names no
// direction receives if its destination is an address of this host.
func (d *Device) encapsulationOf(sa *ipsec.SA) *encapsulation {
	if sa.Encap == nil {
		return nil
	}
	src, dst := netip.AddrPortFrom(sa.Src, sa.Encap.SrcPort), netip.AddrPortFrom(sa.Dst, sa.Encap.DstPort)
	e := &encapsulation{ports: *sa.Encap, ends: guard.Encap{Local: src, Remote: dst}}
	dir := directionOf(sa)
	if dir == ipsec.Inbound || dir == ipsec.AnyDirection && d.locals.has(sa.Dst) {
		e.ends = guard.Encap{Local: dst, Remote: src}
	}
	return e
}

// maxPorts bounds the memory of sockets: each has 4 MiB to receive into. One port is usual.
const maxPorts = 32

// udpPorts are the sockets for UDP encapsulation, one per family and local port, opened when
// the first SA needs them.
type udpPorts struct {
	config underlay.Config
	start  func([]*underlay.UDP) // has them received from
	stop   func()                // returns when nobody receives any more from those that were closed

	mu     sync.RWMutex
	ports  map[udpPort]*udpSocket
	closed uint64 // Malformed of the sockets that are gone

	aside sync.Mutex // held while sending what is not ESP
}

type udpPort struct {
	v6   bool
	port uint16
}

type udpSocket struct {
	sockets []*underlay.UDP // one for each queue
	users   int
}

func (s *udpSocket) malformed() (n uint64) {
	for _, u := range s.sockets {
		n += u.Malformed()
	}
	return n
}

func (s *udpSocket) close() error {
	var errs []error
	for _, u := range s.sockets {
		errs = append(errs, u.Close())
	}
	return errors.Join(errs...)
}

func portOf(local netip.AddrPort) udpPort {
	return udpPort{v6: local.Addr().Is6(), port: local.Port()}
}

// acquire opens the socket for one more SA.
func (u *udpPorts) acquire(p udpPort) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if s := u.ports[p]; s != nil {
		s.users++
		return nil
	}
	if len(u.ports) >= maxPorts {
		return fmt.Errorf("%w: more than %d different UDP ports", ipsec.ErrUnsupported, maxPorts)
	}
	sockets, err := underlay.ListenUDP(u.config, p.v6, p.port)
	if err != nil {
		return err
	}
	if u.ports == nil {
		u.ports = make(map[udpPort]*udpSocket)
	}
	u.ports[p] = &udpSocket{sockets: sockets, users: 1}
	u.start(sockets)
	return nil
}

// release closes the socket with its last SA. When it returns, the port is free.
func (u *udpPorts) release(p udpPort) error {
	s := u.leave(p)
	if s == nil {
		return nil
	}
	defer u.stop() // not under the lock, which those who send take
	return s.close()
}

// leave counts one SA less, and returns the socket if that was the last.
func (u *udpPorts) leave(p udpPort) *udpSocket {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.ports[p]
	if s == nil {
		return nil
	}
	if s.users--; s.users > 0 {
		return nil
	}
	delete(u.ports, p)
	u.closed += s.malformed()
	return s
}

// malformed is what all sockets so far received and threw away.
func (u *udpPorts) malformed() uint64 {
	u.mu.RLock()
	defer u.mu.RUnlock()
	n := u.closed
	for _, s := range u.ports {
		n += s.malformed()
	}
	return n
}

// get is the socket by which a queue sends from p, nil if no SA has asked for it.
func (u *udpPorts) get(p udpPort, queue int) *underlay.UDP {
	u.mu.RLock()
	defer u.mu.RUnlock()
	if s := u.ports[p]; s != nil {
		return s.sockets[queue]
	}
	return nil
}

// has reports whether an SA sends from p.
func (u *udpPorts) has(p udpPort) bool {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.ports[p] != nil
}

func (u *udpPorts) close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var errs []error
	for _, s := range u.ports {
		errs = append(errs, s.close())
	}
	clear(u.ports)
	return errors.Join(errs...)
}
