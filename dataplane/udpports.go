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
	start  func(*underlay.UDP)

	mu     sync.RWMutex
	ports  map[udpPort]*udpSocket
	closed uint64 // Malformed of the sockets that are gone
}

type udpPort struct {
	v6   bool
	port uint16
}

type udpSocket struct {
	*underlay.UDP
	users int
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
	socket, err := underlay.ListenUDP(u.config, p.v6, p.port)
	if err != nil {
		return err
	}
	if u.ports == nil {
		u.ports = make(map[udpPort]*udpSocket)
	}
	u.ports[p] = &udpSocket{UDP: socket, users: 1}
	u.start(socket)
	return nil
}

func (u *udpPorts) release(p udpPort) error {
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
	u.closed += s.Malformed()
	return s.Close()
}

// malformed is what all sockets so far received and threw away.
func (u *udpPorts) malformed() uint64 {
	u.mu.RLock()
	defer u.mu.RUnlock()
	n := u.closed
	for _, s := range u.ports {
		n += s.Malformed()
	}
	return n
}

// get is the socket that sends from p, nil if no SA has asked for it.
func (u *udpPorts) get(p udpPort) *underlay.UDP {
	u.mu.RLock()
	defer u.mu.RUnlock()
	if s := u.ports[p]; s != nil {
		return s.UDP
	}
	return nil
}

func (u *udpPorts) close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	var errs []error
	for _, s := range u.ports {
		errs = append(errs, s.Close())
	}
	clear(u.ports)
	return errors.Join(errs...)
}
