package dataplane

import (
	"errors"
	"net/netip"

	"espalier/underlay"
)

// nonESPMarker stands before what is not ESP on the port of an encapsulation, where an SPI would be
// (RFC 3948 §2.2).
const nonESPMarker = "\x00\x00\x00\x00"

// IKEMessage is what came with the non-ESP marker: IKE, or what claims to be. Nobody has
// authenticated it.
type IKEMessage struct {
	Local, Remote netip.AddrPort // a link-local address has the interface index as zone
	Payload       []byte         // without the marker; may be empty. It is valid until the handler returns
}

// HandleIKE has f called with every message that is not ESP and comes to a port of an SA with UDP
// encapsulation. f runs on the goroutine that reads the socket, and ESP waits for it: it must not
// block, but copy the message and hand it on, or drop it if nobody takes it. It may be called for
// several sockets at once. As long as nobody handles them such messages are counted as dropped
// (in-not-esp). There can be one handler, for the life of the device; a second is an error.
func (d *Device) HandleIKE(f func(IKEMessage)) error {
	if !d.ike.CompareAndSwap(nil, &f) {
		return errors.New("handle IKE: somebody does already")
	}
	return nil
}

// takeIKE hands a message over. Without a handler it is the reason to drop it, else none.
func (d *Device) takeIKE(dg *underlay.Datagram) Reason {
	f := d.ike.Load()
	if f == nil {
		return InNotESP
	}
	(*f)(IKEMessage{Local: dg.Local, Remote: dg.Remote, Payload: dg.Payload[len(nonESPMarker):]})
	return reasons
}

// SendIKE sends a message with the non-ESP marker from local, a port of an SA with UDP
// encapsulation, to remote. The packet path does not wait for it; it may wait for room in the
// socket. It fails if no SA has the port, and as sending does. The guard lets it pass to the ends
// of such SAs, elsewhere if no policy protects the way there.
func (d *Device) SendIKE(local, remote netip.AddrPort, payload []byte) error {
	return d.aside(local, remote, append([]byte(nonESPMarker), payload...))
}

// sendAside sends a datagram that is not ESP from the port of an encapsulation: by the socket's own
// sender, which the queues do not use.
func (u *udpPorts) sendAside(local, remote netip.AddrPort, payload []byte) error {
	socket := u.get(portOf(local), 0)
	if socket == nil {
		return errNoSocket
	}
	u.aside.Lock()
	defer u.aside.Unlock()
	return socket.Send(underlay.Message{Src: local, Dst: remote, Payloads: [][]byte{payload}})
}
