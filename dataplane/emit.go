package dataplane

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"espalier/internal/inet"
	"espalier/underlay"
)

// Wire is where packets leave: the underlay's sockets, or somebody's memory. Packets belong to the
// caller. Errors are those of underlay.Sender and underlay.UDPSender.
type Wire interface {
	// Send takes whole IP packets.
	Send(packets [][]byte) (sent int, err error)

	// SendUDP takes UDP payloads that leave from the port m.Src.
	SendUDP(m *underlay.Message) error
}

// sockets is the Wire of one queue.
type sockets struct {
	sender sender
	ports  *udpPorts
	queue  int
	own    map[udpPort]ownSender
}

// sender is an underlay.Sender or LinkSender.
type sender interface {
	Send(packets [][]byte) (sent int, err error)
}

// ownSender is the queue's own sender on a socket.
type ownSender struct {
	socket *underlay.UDP
	sender *underlay.UDPSender
}

func newSockets(s sender, ports *udpPorts, queue int) *sockets {
	return &sockets{sender: s, ports: ports, queue: queue, own: make(map[udpPort]ownSender)}
}

func (s *sockets) Send(packets [][]byte) (int, error) { return s.sender.Send(packets) }

// errNoSocket says that the last SA of a port was deleted.
var errNoSocket = errors.New("no SA sends from this port")

func (s *sockets) SendUDP(m *underlay.Message) error {
	p := portOf(m.Src)
	socket := s.ports.get(p, s.queue)
	if socket == nil {
		delete(s.own, p)
		return errNoSocket
	}
	own := s.own[p]
	if own.socket != socket {
		own = ownSender{socket: socket, sender: socket.Sender()}
		s.own[p] = own
	}
	return own.sender.Send(*m)
}

// emitSealed sends what was laid out and sealed by one SA: as many packets as possible at once.
func (o *outbound) emitSealed(a *association) {
	mtu, from := o.mtuOf(a), 0
	for i := range o.alike {
		p := &o.alike[i]
		if p.encap == nil && p.longest <= mtu {
			continue
		}
		o.emit(o.packets[from:p.from])
		from = p.to
		switch {
		case p.encap == nil:
			o.emitLong(o.packets[p.from:p.to], !p.dontFragment, mtu)
		case !p.dontFragment && p.outside()+p.longest > mtu:
			o.emitLong(o.inUDP(p), true, mtu)
		default:
			o.emitUDP(p)
		}
	}
	o.emit(o.packets[from:])
	if o.refused {
		o.refused = false
		a.path.stale.Store(true)
		o.d.keeper.ask(&a.path.errand)
	}
}

// mtuOf is the path MTU to send by.
func (o *outbound) mtuOf(a *association) int {
	if mtu := a.pmtu.value.Load(); mtu != 0 && !o.probing {
		return int(mtu)
	}
	return o.mtu()
}

// emit sends whole IP packets.
func (o *outbound) emit(packets [][]byte) {
	if len(packets) > 0 {
		_, err := o.wire.Send(packets)
		o.count(err, len(packets))
	}
}

// emitUDP sends ESP packets by the socket of the SA's port, which makes the IP and UDP headers.
func (o *outbound) emitUDP(p *alike) {
	n := p.to - p.from
	m, ok := p.message(o.sealed[p.from:p.to])
	if !ok {
		o.d.drops.countN(OutExtensions, n)
		return
	}
	o.count(o.wire.SendUDP(&m), n)
}

func (o *outbound) mtu() int { return int(o.d.link.mtu.Load()) }

// inUDP are the packets that the socket would send, for a path whose MTU the kernel does not know.
func (o *outbound) inUDP(p *alike) [][]byte {
	packets := make([][]byte, 0, p.to-p.from)
	for _, sealed := range o.sealed[p.from:p.to] {
		packets = append(packets, p.inUDP(sealed))
	}
	return packets
}

// emitLong sends whole IP packets some of which are longer than mtu: those in fragments, if they may be.
func (o *outbound) emitLong(packets [][]byte, mayFragment bool, mtu int) {
	for i, pkt := range packets {
		switch {
		case len(pkt) <= mtu:
			o.emit(packets[i : i+1])
		case mayFragment:
			o.emitFragments(pkt, mtu)
		default:
			o.d.drops.count(OutTooBig)
		}
	}
}

func (o *outbound) emitFragments(pkt []byte, mtu int) {
	h, err := inet.Parse(pkt)
	if err != nil {
		o.d.drops.count(OutMalformed)
		return
	}
	if h.Version == 4 && h.ID == 0 {
		binary.BigEndian.PutUint16(pkt[4:], o.d.ids.next16())
	}
	o.emit(inet.Fragment(nil, pkt, &h, mtu, o.d.ids.next()))
}

// count turns what a socket said of n packets into drops.
func (o *outbound) count(err error, n int) {
	if err == nil {
		return
	}
	var partly *underlay.SendError
	if !errors.As(err, &partly) {
		o.d.drops.countN(sendFailure(err), n)
		return
	}
	for _, f := range partly.Failed {
		o.refused = o.refused || errors.Is(f.Err, unix.EMSGSIZE)
		o.d.drops.count(sendFailure(f.Err))
	}
}

func sendFailure(err error) Reason {
	switch {
	case errors.Is(err, errNoSocket):
		return OutNoSA // it was deleted while we worked
	case errors.Is(err, unix.EMSGSIZE):
		return OutTooBig
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.EADDRNOTAVAIL):
		return OutNoRoute
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return OutFiltered
	}
	return OutSendError
}
