package conformance

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"espalier/esp"
	"espalier/ipsec"
	"espalier/xfrm"
)

// encapPort is the port of UDP encapsulation.
const encapPort = 4500

func encap(sport, dport uint16) *xfrm.EncapTmpl {
	return &xfrm.EncapTmpl{Type: xfrm.EncapESPInUDP, SrcPort: sport, DstPort: dport, OA: netip.IPv4Unspecified()}
}

// sender is a change that makes a state one that sends with UDP encapsulation.
func sender(s *xfrm.State) {
	s.Dir, s.ReplayWindow, s.Encap = xfrm.StateDirOut, 0, encap(encapPort, encapPort)
}

// receiver is a change that makes a state one that receives with it from Peer.
func receiver(s *xfrm.State) {
	s.Src, s.Dst = s.Dst, s.Src
	s.Dir, s.Encap = xfrm.StateDirIn, encap(encapPort, encapPort)
}

// peerSocket is a socket of Peer until the case ends.
func (e *env) peerSocket(port uint16) *net.UDPConn {
	e.Helper()
	conn, err := e.PeerSocket(port)
	e.must(err)
	e.Cleanup(func() { conn.Close() })
	return conn
}

// keepalives reads what comes to a socket of Peer, in words.
func (e *env) keepalives(conn *net.UDPConn, n int) string {
	e.Helper()
	words := ""
	for range n {
		conn.SetReadDeadline(time.Now().Add(patience))
		b := make([]byte, 2000)
		k, from, err := conn.ReadFromUDPAddrPort(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return words + "nothing, "
		case err != nil:
			return words + err.Error()
		}
		if from.Addr().Unmap() != e.Local {
			return words + from.String()
		}
		words += fmt.Sprintf("%x from %d, ", b[:k], from.Port())
	}
	return words
}

// peer is the other end of an SA that receives.
type peer struct {
	e   *env
	out *esp.Outbound
	to  netip.AddrPort
}

// newPeer adds the SA, and has the port opened behind which it receives.
func (e *env) newPeer(s *xfrm.State) *peer {
	e.Helper()
	key := ipsec.RandomKey(36)
	s.AEAD.Key = key
	sa := ipsec.SA{Src: s.Src, Dst: s.Dst, SPI: s.SPI, Direction: ipsec.Outbound, Key: key, ICVBits: int(s.AEAD.ICVBits)}
	out, err := esp.NewOutbound(&sa)
	e.must(err)
	e.Cleanup(out.Wipe)
	if e.OpenPort != nil {
		open, err := e.OpenPort(encapPort)
		e.must(err)
		e.Cleanup(func() { open.Close() })
	}
	e.add(s)
	return &peer{e, out, netip.AddrPortFrom(e.Local, encapPort)}
}

// send sends an ESP packet with a UDP datagram inside, from a socket of the peer.
func (p *peer) send(from *net.UDPConn, change ...func([]byte)) {
	p.e.Helper()
	inner := make([]byte, 16)
	inner[0], inner[1], inner[2], inner[3], inner[5] = 0x1e, 0x61, 0x1e, 0x61, 16 // ports 7777, length, no checksum
	seq, err := p.out.Reserve(1)
	p.e.must(err)
	packet := make([]byte, p.out.Len(len(inner)))
	copy(packet[esp.HeaderLen+esp.IVLen:], inner)
	p.out.Lay(packet, len(inner), seq, unix.IPPROTO_UDP)
	p.e.must(p.out.Seal(new(esp.Batch), [][]byte{packet}, seq))
	for _, f := range change {
		f(packet)
	}
	_, err = from.WriteToUDPAddrPort(packet, p.to)
	p.e.must(err)
}

// moved puts events of mapping in words.
func (l *listener) moved(n int) string {
	l.e.Helper()
	words := ""
	for range n {
		m := l.next().Mapping
		if m.OldSrc != l.e.Peer || m.NewSrc != l.e.Peer || m.ID.Dst != l.e.Local || m.ID.SPI != 0x1000 || m.Reqid != 7 {
			return fmt.Sprintf("%+v", m)
		}
		words += fmt.Sprintf("%d to %d, ", m.OldPort, m.NewPort)
	}
	if rest := l.of(0); rest != "-" {
		return words + rest
	}
	return words
}

// Intervals are short: kernels do not look at a new SA before the interval of one that they have seen
// has passed, not even if that is gone.
var natCases = []Case{
	{Name: "which SAs take NAT keepalives", ESP: true, Want: "dir out ok and reads back 1, dir in EINVAL, no dir EINVAL, no encapsulation EINVAL", Do: func(e *env) string {
		every := func(s *xfrm.State) { s.NATKeepalive = 1 }
		first := e.Client.AddState(e.ctx, e.state(0x1000, sender, every))
		s, err := e.Client.GetState(e.ctx, e.id(0x1000))
		e.must(err)
		return fmt.Sprintf("dir out %s and reads back %d, dir in %s, no dir %s, no encapsulation %s", verdict(first), s.NATKeepalive,
			verdict(e.Client.AddState(e.ctx, e.state(0x1001, receiver, every))),
			verdict(e.Client.AddState(e.ctx, e.state(0x1002, sender, every, func(s *xfrm.State) { s.Dir = 0 }))),
			verdict(e.Client.AddState(e.ctx, e.state(0x1003, sender, every, func(s *xfrm.State) { s.Encap = nil }))))
	}},
	{Name: "which SAs take ages of mappings", ESP: true, Want: "dir in ok and reads back 20, no dir ok, dir out EINVAL, no encapsulation EINVAL", Do: func(e *env) string {
		age := func(s *xfrm.State) { s.MappingThresh = 20 }
		first := e.Client.AddState(e.ctx, e.state(0x1000, receiver, age))
		s, err := e.Client.GetState(e.ctx, xfrm.StateID{Dst: e.Local, Proto: unix.IPPROTO_ESP, SPI: 0x1000})
		e.must(err)
		return fmt.Sprintf("dir in %s and reads back %d, no dir %s, dir out %s, no encapsulation %s", verdict(first), s.MappingThresh,
			verdict(e.Client.AddState(e.ctx, e.state(0x1001, receiver, age, func(s *xfrm.State) { s.Dir = 0 }))),
			verdict(e.Client.AddState(e.ctx, e.state(0x1002, sender, age))),
			verdict(e.Client.AddState(e.ctx, e.state(0x1003, age))))
	}},
	{Name: "an update of UDP encapsulation", ESP: true, Want: "ok: ports 4501 50001, original address 10.9.9.9, keepalive 1", Do: func(e *env) string {
		e.add(e.state(0x1000, sender, func(s *xfrm.State) { s.NATKeepalive = 1 }))
		err := e.Client.UpdateState(e.ctx, e.state(0x1000, sender, func(s *xfrm.State) {
			s.NATKeepalive, s.Encap = 2, encap(4501, 50001)
			s.Encap.OA = netip.MustParseAddr("10.9.9.9")
		}))
		s, getErr := e.Client.GetState(e.ctx, e.id(0x1000))
		e.must(getErr)
		return fmt.Sprintf("%s: ports %d %d, original address %s, keepalive %d", verdict(err), s.Encap.SrcPort, s.Encap.DstPort, s.Encap.OA, s.NATKeepalive)
	}},
	{Name: "NAT keepalives", ESP: true, Want: "ff from 4500, ff from 4500, of 0 packets; and after an update ff from 4500, ", Do: func(e *env) string {
		here, there := e.peerSocket(encapPort), e.peerSocket(50001)
		every := func(s *xfrm.State) { s.NATKeepalive = 1 }
		e.add(e.state(0x1000, sender, every))
		words := e.keepalives(here, 2) + fmt.Sprintf("of %d packets", e.carried(0x1000))
		e.must(e.Client.UpdateState(e.ctx, e.state(0x1000, sender, every, func(s *xfrm.State) { s.Encap = encap(encapPort, 50001) })))
		return words + "; and after an update " + e.keepalives(there, 1)
	}},
	{Name: "a peer that moves", ESP: true, Want: "4500 to 5001, 4500 to 5002, ; then 5002 to 5003, ", Do: func(e *env) string {
		home, first, second, third := e.peerSocket(encapPort), e.peerSocket(5001), e.peerSocket(5002), e.peerSocket(5003)
		change := []func(*xfrm.State){receiver, func(s *xfrm.State) { s.MappingThresh = 60 }}
		p := e.newPeer(e.state(0x1000, change...))
		l := e.listen(xfrm.GroupMapping)
		p.send(home)
		p.send(third, func(b []byte) { b[len(b)-1] ^= 1 }) // which is not authentic
		p.send(first)
		p.send(first)
		words := l.moved(1)
		p.send(second)
		words += l.moved(1)
		e.must(e.Client.UpdateState(e.ctx, e.state(0x1000, append(change, func(s *xfrm.State) { s.Encap = encap(5002, encapPort) })...)))
		p.send(second)
		p.send(third)
		return words + "; then " + l.moved(1)
	}},
	{Name: "a peer that has moved and sends on", ESP: true, Want: "4500 to 5001, 4500 to 5001, 4500 to 5001, ", Do: func(e *env) string {
		moved := e.peerSocket(5001)
		p := e.newPeer(e.state(0x1000, receiver))
		l := e.listen(xfrm.GroupMapping)
		for range 3 {
			p.send(moved)
		}
		if e.Device {
			return l.moved(1)
		}
		return l.moved(3)
	}},
}
