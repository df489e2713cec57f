package underlay

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
	"espalier/internal/inet"
)

// LinkSender is a [Sender] that sends ESP to neighbours past the kernel's IP layer, by a packet socket
// (packet(7)), with the link-layer address that the kernel knows. Such packets pass the queueing
// discipline and the netdev egress hook as others do, and are seen by taps; they do not pass the
// packet filter's output hook. What that refuses is noticed within a second, and not sent any more.
//
// Everything else goes by the Sender: packets to where the next hop is not known yet, or is none; those
// that are no ESP, whose header is not complete, or that are longer than the MTU; and once a second
// some to each next hop. Both ways end in the device's queue before Send returns, so packets stay in order.
type LinkSender struct {
	raw      *Sender
	hops     *NextHops
	packet   *fd.File
	transmit *transmit
	failed   SendError

	dst netip.Addr // of the last packet, and its next hop
	hop *NextHop
}

// NewLinkSender opens the packet socket beside a Sender, which it takes over. It takes CAP_NET_RAW.
func NewLinkSender(cfg Config, raw *Sender, hops *NextHops) (*LinkSender, error) {
	packet, err := open(cfg, "packet", unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	return &LinkSender{raw: raw, hops: hops, packet: packet, transmit: newTransmit()}, nil
}

// Send is [Sender.Send].
func (s *LinkSender) Send(pkts [][]byte) (sent int, err error) {
	s.failed.Failed = s.failed.Failed[:0]
	s.dst, s.hop = netip.Addr{}, nil
	now := time.Now().UnixNano()
	for from := 0; from < len(pkts); {
		hop, to := s.run(pkts, from)
		if hop != nil && !hop.due(now) {
			err = s.sendTo(hop, pkts, from, to)
		} else {
			err = s.sendRaw(hop, pkts, from, to)
		}
		if err != nil {
			return 0, err
		}
		from = to
	}
	if len(s.failed.Failed) > 0 {
		err = &s.failed
	}
	return len(pkts) - len(s.failed.Failed), err
}

// run finds packets that go the same way: up to the one at to.
func (s *LinkSender) run(pkts [][]byte, from int) (hop *NextHop, to int) {
	hop = s.hopOf(pkts[from])
	for to = from + 1; to < len(pkts) && s.hopOf(pkts[to]) == hop; to++ {
	}
	return hop, to
}

// hopOf is the next hop of a packet, nil if it goes by the IP layer.
func (s *LinkSender) hopOf(p []byte) *NextHop {
	dst, ok := plain(p)
	if !ok {
		return nil
	}
	if dst != s.dst {
		s.dst, s.hop = dst, s.hops.find(dst)
	}
	if s.hop == nil || len(p) > s.hop.MTU {
		return nil
	}
	return s.hop
}

// plain reads the destination of an ESP packet whose header is complete.
func plain(p []byte) (netip.Addr, bool) {
	switch {
	case len(p) > inet.IPv4Len && p[0] == 0x45 && p[9] == inet.ProtoESP &&
		int(binary.BigEndian.Uint16(p[2:])) == len(p) &&
		(p[6]&0x40 != 0 || p[4]|p[5] != 0): // else the kernel chooses an identification
		return netip.AddrFrom4([4]byte(p[16:])), true
	case len(p) > inet.IPv6Len && p[0]>>4 == 6 && p[6] == inet.ProtoESP:
		to := netip.AddrFrom16([16]byte(p[24:]))
		return to, !needsScope(to) && inet.IPv6Len+int(binary.BigEndian.Uint16(p[4:])) == len(p)
	}
	return netip.Addr{}, false
}

// sendTo sends packets to a next hop.
func (s *LinkSender) sendTo(hop *NextHop, pkts [][]byte, from, to int) error {
	t := s.transmit
	t.failed.Failed = t.failed.Failed[:0]
	for i := from; i < to; i++ {
		if t.n == batchLen {
			if err := t.flush(s.packet); err != nil {
				return err
			}
		}
		m := t.add(i, pkts[i])
		protocol := uint16(unix.ETH_P_IP)
		if pkts[i][0]>>4 == 6 {
			protocol = unix.ETH_P_IPV6
		}
		m.Namelen = setLinkAddress(&t.names[t.n-1], hop, protocol)
	}
	if err := t.flush(s.packet); err != nil {
		return err
	}
	for _, f := range t.failed.Failed {
		if f.Err != unix.ENOBUFS { // the queue is full, or a filter dropped it
			s.hops.Forget(hop.Via)
			break
		}
	}
	s.failed.Failed = append(s.failed.Failed, t.failed.Failed...)
	return nil
}

// sendRaw sends packets by the IP layer. If it refuses them, so shall we.
func (s *LinkSender) sendRaw(hop *NextHop, pkts [][]byte, from, to int) error {
	_, err := s.raw.Send(pkts[from:to])
	var partly *SendError
	if !errors.As(err, &partly) {
		return err
	}
	for _, f := range partly.Failed {
		s.failed.Failed = append(s.failed.Failed, Failure{from + f.Index, f.Err})
	}
	if hop != nil {
		hop.check.Store(0) // the next ones, too
	}
	return nil
}

// setLinkAddress writes a socket address (struct sockaddr_ll, which is shorter than sa) and returns its
// length.
func setLinkAddress(sa *unix.RawSockaddrInet6, hop *NextHop, protocol uint16) uint32 {
	ll := (*unix.RawSockaddrLinklayer)(unsafe.Pointer(sa))
	*ll = unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Ifindex: int32(hop.Device), Halen: uint8(len(hop.Address))}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&ll.Protocol))[:], protocol)
	copy(ll.Addr[:], hop.Address[:])
	return unix.SizeofSockaddrLinklayer
}

// Close closes the sockets, those of the Sender too; a Send that waits for room returns os.ErrClosed.
func (s *LinkSender) Close() error { return errors.Join(s.packet.Close(), s.raw.Close()) }
