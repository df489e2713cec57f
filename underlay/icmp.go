package underlay

import (
	"encoding/binary"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"espalier/internal/inet"
)

// Messages that say that a packet was too big (RFC 792, RFC 1191 §4; RFC 4443 §3.2).
const (
	icmpUnreachable         = 3
	icmpFragmentationNeeded = 4
	icmp6TooBig             = 2

	// icmpHeaderLen is the length in bytes of the header before the packet quoted.
	icmpHeaderLen = 8
)

// TooBig is a router's word that a packet of this host was too big for the next link. Nothing of it
// is authenticated (RFC 4301 §8.2): only who knows what was sent can tell whether to believe it.
type TooBig struct {
	From netip.Addr // who says so
	MTU  int        // of the next link in bytes, as told; 0 from routers older than RFC 1191

	// Of the packet quoted: its addresses, the protocol behind its IP header with options or
	// extension headers, and what is quoted of that; 8 bytes are usual at least. Payload is good
	// until the next Receive.
	Src, Dst netip.Addr
	Protocol uint8
	Payload  []byte
}

// ICMP receives such messages, and nothing else. One goroutine at a time may call Receive.
type ICMP struct {
	file   *os.File // few messages come: Go's poller may watch it
	parse  func(from netip.Addr, msg []byte) (TooBig, bool)
	buffer []byte
}

// ListenICMP opens a receiver for one family in the network namespace of the calling thread. The
// kernel gets the same messages, as before. It takes CAP_NET_RAW.
func ListenICMP(cfg Config, v6 bool) (*ICMP, error) {
	const buffer = 256 << 10 // messages are short, and few are for us
	cfg.Buffer = buffer
	family, proto, what := unix.AF_INET, unix.IPPROTO_ICMP, "IPv4 ICMP"
	if v6 {
		family, proto, what = unix.AF_INET6, unix.IPPROTO_ICMPV6, "ICMPv6"
	}
	number, err := openSocket(cfg, what, family, unix.SOCK_RAW, proto)
	if err != nil {
		return nil, err
	}
	if err := filterTooBig(number, v6); err != nil {
		unix.Close(number)
		return nil, os.NewSyscallError("filter of "+what+" socket", err)
	}
	i := &ICMP{file: os.NewFile(uintptr(number), what+" socket"), parse: parseTooBig4, buffer: make([]byte, 1<<16)}
	if v6 {
		i.parse = parseTooBig6
	}
	return i, nil
}

// filterTooBig has the kernel hold back all other types (raw(7); RFC 3542 §3.2, where Linux blocks
// what is set).
func filterTooBig(fd int, v6 bool) error {
	if v6 {
		var f unix.ICMPv6Filter
		for i := range f.Data {
			f.Data[i] = ^uint32(0)
		}
		f.Data[icmp6TooBig>>5] &^= 1 << (icmp6TooBig & 31)
		return unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &f)
	}
	const solRaw, icmpFilter = 255, 1 // linux/socket.h SOL_RAW, linux/icmp.h ICMP_FILTER
	mask := ^uint32(1 << icmpUnreachable)
	return unix.SetsockoptInt(fd, solRaw, icmpFilter, int(int32(mask)))
}

// Receive waits for a message. After Close it returns os.ErrClosed.
func (i *ICMP) Receive() (TooBig, error) {
	for {
		raw, err := i.file.SyscallConn()
		if err != nil {
			return TooBig{}, os.ErrClosed
		}
		var n int
		var from unix.Sockaddr
		var failed error
		err = raw.Read(func(fd uintptr) bool {
			n, from, failed = unix.Recvfrom(int(fd), i.buffer, 0)
			return failed != unix.EAGAIN
		})
		switch {
		case err != nil: // Go's poller knows no other reason
			return TooBig{}, os.ErrClosed
		case failed == unix.EINTR:
			continue
		case failed != nil:
			return TooBig{}, os.NewSyscallError("receive on "+i.file.Name(), failed)
		}
		if m, ok := i.parse(router(from), i.buffer[:n]); ok {
			return m, nil
		}
	}
}

// Close closes the socket; a waiting Receive returns os.ErrClosed.
func (i *ICMP) Close() error { return i.file.Close() }

func router(from unix.Sockaddr) netip.Addr {
	switch sa := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr)
	}
	return netip.Addr{}
}

// parseTooBig4 reads a whole IPv4 packet, as raw sockets deliver it. The
// kernel has not looked at the message's checksum yet.
func parseTooBig4(from netip.Addr, pkt []byte) (TooBig, bool) {
	h, err := inet.Parse(pkt)
	if err != nil || h.Version != 4 || h.IsFragment() || h.Protocol != inet.ProtoICMP {
		return TooBig{}, false
	}
	msg := pkt[h.Len:h.Total]
	if len(msg) < icmpHeaderLen || msg[0] != icmpUnreachable || msg[1] != icmpFragmentationNeeded || inet.Fold(inet.Sum(msg, 0)) != 0 {
		return TooBig{}, false
	}
	return quoted(TooBig{From: from, MTU: int(binary.BigEndian.Uint16(msg[6:]))}, 4, msg[icmpHeaderLen:])
}

// parseTooBig6 reads an ICMPv6 message, whose checksum the kernel has verified.
func parseTooBig6(from netip.Addr, msg []byte) (TooBig, bool) {
	if len(msg) < icmpHeaderLen || msg[0] != icmp6TooBig {
		return TooBig{}, false
	}
	mtu := min(binary.BigEndian.Uint32(msg[4:]), 1<<16)
	return quoted(TooBig{From: from, MTU: int(mtu)}, 6, msg[icmpHeaderLen:])
}

// quoted adds what is told of the packet, of which only the beginning is there: its length is set to
// that. Of a later fragment it is not known whose it was.
func quoted(m TooBig, version uint8, pkt []byte) (TooBig, bool) {
	switch {
	case version == 4 && len(pkt) >= inet.IPv4Len:
		if int(binary.BigEndian.Uint16(pkt[2:])) > len(pkt) {
			binary.BigEndian.PutUint16(pkt[2:], uint16(len(pkt)))
		}
	case version == 6 && len(pkt) >= inet.IPv6Len:
		if int(binary.BigEndian.Uint16(pkt[4:])) > len(pkt)-inet.IPv6Len {
			binary.BigEndian.PutUint16(pkt[4:], uint16(len(pkt)-inet.IPv6Len))
		}
	default:
		return TooBig{}, false
	}
	h, err := inet.Parse(pkt)
	if err != nil || h.Version != version || h.FragOffset != 0 {
		return TooBig{}, false
	}
	m.Src, m.Dst, m.Protocol, m.Payload = h.Src, h.Dst, h.Protocol, pkt[h.Len:h.Total]
	return m, true
}
