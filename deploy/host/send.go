package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"espalier/internal/inet"
)

// sendProbe sends a probe by a socket of the calling thread's network namespace. That its port is taken
// by a server of TCP is no error: the peer's probe will be answered from it. One of UDP may only listen: then
// the error wraps EADDRINUSE.
func sendProbe(ctx context.Context, f Flow) error {
	var err error
	switch f.Protocol {
	case inet.ProtoTCP:
		err = f.connect()
	case inet.ProtoUDP:
		err = f.datagram(ctx)
	default:
		err = f.echo(ctx)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		if f.Protocol == inet.ProtoUDP {
			return &portTaken{f.SrcPort}
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("send a probe from %s to %s: %w", f.Src, f.Dst, err)
	}
	return nil
}

// portTaken says that nothing can be sent inside a selector, as a program has the only port.
type portTaken struct{ port uint16 }

func (p *portTaken) Error() string {
	return fmt.Sprintf("UDP port %d is taken by a program there, and nothing else sends from it", p.port)
}

func (p *portTaken) Unwrap() error { return unix.EADDRINUSE }

// prepare sets what the socket must be before it is bound.
func (f *Flow) prepare(_, _ string, raw syscall.RawConn) error {
	var failed error
	return errors.Join(raw.Control(func(fd uintptr) { failed = f.set(int(fd)) }), failed)
}

func (f *Flow) set(fd int) error {
	if f.SrcPort != 0 && (f.Protocol == inet.ProtoTCP || f.Protocol == inet.ProtoUDP) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
	}
	if f.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(f.Mark)); err != nil {
			return err
		}
	}
	if f.Device != "" {
		if err := unix.BindToDevice(fd, f.Device); err != nil {
			return err
		}
	}
	switch {
	case f.Foreign && f.Src.Is4():
		return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	case f.Foreign:
		return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
	}
	return nil
}

// connect sends a SYN. Nobody waits for the answer: what the stack says to it then is traffic as well.
func (f *Flow) connect() error {
	family := unix.AF_INET
	if f.Src.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := f.set(fd); err != nil {
		return err
	}
	if err := unix.Bind(fd, sockaddr(f.Src, f.SrcPort)); err != nil {
		return err
	}
	if err := unix.Connect(fd, sockaddr(f.Dst, f.DstPort)); err != unix.EINPROGRESS {
		return err
	}
	return nil
}

func sockaddr(a netip.Addr, port uint16) unix.Sockaddr {
	if a.Is4() {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: int(port)}
	}
	return &unix.SockaddrInet6{Addr: a.As16(), Port: int(port)}
}

// datagram sends a datagram, by a socket that hears nothing of what the peer says of a closed port.
func (f *Flow) datagram(ctx context.Context) error {
	lc := net.ListenConfig{Control: f.prepare}
	conn, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(f.Src, f.SrcPort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.WriteTo([]byte("espalier probe"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.Dst, f.DstPort)))
	return err
}

// echo sends an echo request (RFC 792, RFC 4443 §4.1). The kernel sums up ICMPv6 by itself.
func (f *Flow) echo(ctx context.Context) error {
	network := "ip4:icmp"
	if f.Protocol == inet.ProtoICMPv6 {
		network = "ip6:ipv6-icmp"
	}
	lc := net.ListenConfig{Control: f.prepare}
	conn, err := lc.ListenPacket(ctx, network, f.Src.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	b := append(make([]byte, 8), "espalier probe\x00\x00"...)
	b[0] = byte(echoRequest(f.Protocol))
	binary.BigEndian.PutUint16(b[4:], uint16(time.Now().UnixNano()>>16))
	if f.Protocol == inet.ProtoICMP {
		binary.BigEndian.PutUint16(b[2:], inet.Fold(inet.Sum(b, 0)))
	}
	_, err = conn.WriteTo(b, &net.IPAddr{IP: f.Dst.AsSlice(), Zone: f.Dst.Zone()})
	return err
}

// ownAddresses are those of the calling thread's network namespace.
func ownAddresses() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("look for the addresses of this host: %w", err)
	}
	var own []netip.Addr
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr().Unmap())
		}
	}
	return own, nil
}
