package underlay

import (
	"fmt"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
	"espalier/internal/inet"
)

// headerOptions6 make the kernel tell the IPv6 header it took off (RFC 3542).
var headerOptions6 = [...]option{
	{"IPV6_RECVPKTINFO", unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1},
	{"IPV6_RECVHOPLIMIT", unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT, 1},
	{"IPV6_RECVTCLASS", unix.SOL_IPV6, unix.IPV6_RECVTCLASS, 1},
	{"IPV6_FLOWINFO", unix.SOL_IPV6, ipv6FlowInfo, 1},
	{"IPV6_RECVHOPOPTS", unix.SOL_IPV6, unix.IPV6_RECVHOPOPTS, 1},
	{"IPV6_RECVDSTOPTS", unix.SOL_IPV6, unix.IPV6_RECVDSTOPTS, 1},
	{"IPV6_RECVRTHDR", unix.SOL_IPV6, unix.IPV6_RECVRTHDR, 1},
}

// headerOptions4 do the same for IPv4 (ip(7)).
var headerOptions4 = [...]option{
	{"IP_PKTINFO", unix.SOL_IP, unix.IP_PKTINFO, 1},
	{"IP_RECVTOS", unix.SOL_IP, unix.IP_RECVTOS, 1},
	{"IP_RECVTTL", unix.SOL_IP, unix.IP_RECVTTL, 1},
	{"IP_RECVOPTS", unix.SOL_IP, unix.IP_RECVOPTS, 1},
}

// ListenRaw opens receivers of IP protocol 50, for all local addresses of a family, in
// the network namespace of the calling thread. While one is open the kernel does not answer
// ESP with protocol-unreachable. It takes CAP_NET_RAW.
//
// There are cfg.Share of them, among whom the SAs are divided. The kernel shows each packet to all of
// them, which costs the more the more there are.
func ListenRaw(cfg Config, v6 bool) ([]*Receiver, error) {
	receivers := make([]*Receiver, 0, cfg.share())
	for i := range cfg.share() {
		r, err := openRaw(cfg, v6)
		if err == nil {
			receivers = append(receivers, r)
			if cfg.share() > 1 {
				err = takeShare(r.file, v6, i, cfg.share())
			}
		}
		if err != nil {
			for _, r := range receivers {
				r.Close()
			}
			return nil, err
		}
	}
	return receivers, nil
}

func openRaw(cfg Config, v6 bool) (*Receiver, error) {
	if v6 {
		c, err := open(cfg, "IPv6 ESP", unix.AF_INET6, unix.SOCK_RAW, inet.ProtoESP, headerOptions6[:]...)
		if err != nil {
			return nil, err
		}
		return newReceiver(c, (*Receiver).decodeRaw6, control6Len, header6Len)
	}
	c, err := open(cfg, "IPv4 ESP", unix.AF_INET, unix.SOCK_RAW, inet.ProtoESP)
	if err != nil {
		return nil, err
	}
	return newReceiver(c, (*Receiver).decodePacket, 0, 0)
}

// UDP is one UDP socket that receives and sends: the port must be the same in both
// directions (RFC 3948, section 2.1). One goroutine may receive while others send, each
// with a [UDPSender] of its own.
type UDP struct {
	receiver *Receiver
	sender   *UDPSender
}

// ListenUDP opens UDP sockets on a port (4500, or 0 for a free one) of all local
// addresses of a family, in the network namespace of the calling thread. There are cfg.Share of
// them, among whom the SAs that arrive are divided.
func ListenUDP(cfg Config, v6 bool, port uint16) ([]*UDP, error) {
	sockets := make([]*UDP, 0, cfg.share())
	for i := range cfg.share() {
		u, err := openUDP(cfg, v6, port, i > 0)
		if err == nil {
			sockets, port = append(sockets, u), u.Port()
			err = u.divide(i, cfg.share())
		}
		if err != nil {
			for _, u := range sockets {
				u.Close()
			}
			return nil, err
		}
	}
	return sockets, nil
}

func openUDP(cfg Config, v6 bool, port uint16, join bool) (*UDP, error) {
	family, what := unix.AF_INET, fmt.Sprintf("IPv4 UDP port %d", port)
	options, controlLen, headerLen := headerOptions4[:], control4Len, header4Len
	if v6 {
		family, what = unix.AF_INET6, fmt.Sprintf("IPv6 UDP port %d", port)
		options, controlLen, headerLen = headerOptions6[:], control6Len, header6Len
		// Automatic flow labels would overwrite the label 0.
		options = append(options[:len(options):len(options)],
			option{"IPV6_V6ONLY", unix.SOL_IPV6, unix.IPV6_V6ONLY, 1},
			option{"IPV6_AUTOFLOWLABEL", unix.SOL_IPV6, unix.IPV6_AUTOFLOWLABEL, 0})
	}
	options = append(options[:len(options):len(options)], fragmentation(v6, false))
	if join {
		options = append(options, reusePort)
	}
	c, err := open(cfg, what, family, unix.SOCK_DGRAM, unix.IPPROTO_UDP, options...)
	if err != nil {
		return nil, err
	}
	segments := false
	if err := c.Control(func(number int) error {
		if !cfg.plain {
			// A kernel without them carries the same datagrams one by one.
			unix.SetsockoptInt(number, unix.SOL_UDP, unix.UDP_GRO, 1)
			_, err := unix.GetsockoptInt(number, unix.SOL_UDP, unix.UDP_SEGMENT)
			segments = err == nil
		}
		port, err = bind(number, v6, port)
		return err
	}); err != nil {
		c.Close()
		return nil, fmt.Errorf("bind %s: %w%s", what, err, hint(err))
	}
	receiver, err := newReceiver(c, (*Receiver).decodeUDP, controlLen, headerLen)
	if err != nil {
		return nil, err
	}
	receiver.port = port
	shared := &udpSocket{file: c, v6: v6, scope: cfg.Scope}
	shared.plain.Store(!segments)
	return &UDP{receiver, newUDPSender(shared)}, nil
}

// divide prepares a socket, the one of this number, to share its port.
func (u *UDP) divide(number, sockets int) error {
	switch {
	case sockets == 1:
		return nil
	case number == 0:
		return u.File().Control(func(fd int) error { return set(fd, reusePort) })
	case number == sockets-1:
		return dividePort(u.File(), sockets)
	}
	return nil
}

// bind binds to all addresses and returns the port.
func bind(number int, v6 bool, port uint16) (uint16, error) {
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(port)}
	if v6 {
		sa = &unix.SockaddrInet6{Port: int(port)}
	}
	if err := unix.Bind(number, sa); err != nil {
		return 0, err
	}
	sa, err := unix.Getsockname(number)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		port = uint16(sa.Port)
	case *unix.SockaddrInet6:
		port = uint16(sa.Port)
	}
	return port, err
}

// Port is the socket's local port.
func (u *UDP) Port() uint16 { return u.receiver.port }

// Receive is [Receiver.Receive]. A GRO packet is handed out as its datagrams.
func (u *UDP) Receive(batch []Datagram) (int, error) { return u.receiver.Receive(batch) }

// TryReceive is [Receiver.TryReceive].
func (u *UDP) TryReceive(batch []Datagram) (int, error) { return u.receiver.TryReceive(batch) }

// File is for a Set that waits for the socket and others.
func (u *UDP) File() *fd.File { return u.receiver.file }

// Malformed is [Receiver.Malformed].
func (u *UDP) Malformed() uint64 { return u.receiver.Malformed() }

// Send is [UDPSender.Send] on the socket's own sender; one goroutine at a time may call it.
func (u *UDP) Send(m Message) error { return u.sender.Send(m) }

// Sender returns one more sender on the socket, for one more goroutine. It needs no Close.
func (u *UDP) Sender() *UDPSender { return newUDPSender(u.sender.socket) }

// Close closes the socket; whoever waits in Receive or Send gets os.ErrClosed.
func (u *UDP) Close() error { return u.receiver.Close() }
