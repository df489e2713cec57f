package verify

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"espalier/internal/inet"
)

// token is what a tap looks for: so many random bytes stand on no wire by chance.
type token [16]byte

func newToken() (t token) {
	rand.Read(t[:]) // never fails (crypto/rand)
	return t
}

// payload of a probe: the token, again and again, so that it is found whatever is cut away.
func (t token) payload() []byte { return bytes.Repeat(t[:], 6) }

// in reports whether a probe can be read in a packet.
func (t token) in(packet []byte) bool { return bytes.Contains(packet, t[:]) }

// pace leaves time between probes: each is to be a packet of its own all the way.
const pace = time.Millisecond

// send sends n probes and returns how many the stack took. The sockets are made on the calling
// thread, in its network namespace.
func (f *Flow) send(ctx context.Context, n uint64, t token) (sent uint64, err error) {
	conn, packet, err := f.open(t)
	if err != nil {
		return 0, fmt.Errorf("send probes from %s to %s: %w", f.Src, f.Dst, err)
	}
	defer conn.Close()
	for sent < n {
		if err := ctx.Err(); err != nil {
			return sent, err
		}
		if err := packet(uint16(sent)); err != nil {
			return sent, fmt.Errorf("send a probe from %s to %s: %w", f.Src, f.Dst, err)
		}
		sent++
		time.Sleep(pace)
	}
	return sent, nil
}

// open makes a socket, and a function that sends the probe of a number by it. The socket is not
// connected: what the peer has to say of a closed port would come as an error of the next probe.
func (f *Flow) open(t token) (net.PacketConn, func(uint16) error, error) {
	if f.Protocol == inet.ProtoUDP {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.Src, f.SrcPort)))
		if err != nil {
			return nil, nil, err
		}
		to := netip.AddrPortFrom(f.Dst, f.DstPort)
		return conn, func(uint16) error {
			_, err := conn.WriteToUDPAddrPort(t.payload(), to)
			return err
		}, nil
	}
	network := "ip4:icmp"
	if f.Protocol == inet.ProtoICMPv6 {
		network = "ip6:ipv6-icmp"
	}
	conn, err := net.ListenIP(network, &net.IPAddr{IP: f.Src.AsSlice(), Zone: f.Src.Zone()})
	if err != nil {
		return nil, nil, err
	}
	to := &net.IPAddr{IP: f.Dst.AsSlice(), Zone: f.Dst.Zone()}
	return conn, func(number uint16) error {
		_, err := conn.WriteToIP(f.echo(number, t), to)
		return err
	}, nil
}

// echo is an echo request (RFC 792, RFC 4443 §4.1). The kernel sums up ICMPv6 by itself.
func (f *Flow) echo(number uint16, t token) []byte {
	b := make([]byte, 8, 8+len(t)*6)
	b[0] = byte(echoRequest(f.Protocol))
	binary.BigEndian.PutUint16(b[4:], binary.BigEndian.Uint16(t[:])) // the identifier
	binary.BigEndian.PutUint16(b[6:], number)
	b = append(b, t.payload()...)
	if f.Protocol == inet.ProtoICMP {
		binary.BigEndian.PutUint16(b[2:], inet.Fold(inet.Sum(b, 0)))
	}
	return b
}
