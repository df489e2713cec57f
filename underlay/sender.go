package underlay

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
	"espalier/internal/inet"
)

// Sender sends whole IP packets of both families as they are, IP header included
// (raw(7), IP_HDRINCL; IPV6_HDRINCL). One goroutine at a time may use it: take one for
// each queue.
type Sender struct {
	v4, v6   *fd.File // v6 is nil on a kernel without IPv6
	scope    uint32
	transmit *transmit
}

// NewSender opens the sockets of a sender in the network namespace of the calling thread.
// It takes CAP_NET_RAW.
func NewSender(cfg Config) (*Sender, error) {
	v4, err := open(cfg, "IPv4 raw", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW,
		option{"IP_HDRINCL", unix.SOL_IP, unix.IP_HDRINCL, 1},
		option{"SO_BROADCAST", unix.SOL_SOCKET, unix.SO_BROADCAST, 1},
		fragmentation(false, true))
	if err != nil {
		return nil, err
	}
	v6, err := open(cfg, "IPv6 raw", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW,
		option{"IPV6_HDRINCL", unix.SOL_IPV6, unix.IPV6_HDRINCL, 1},
		fragmentation(true, true))
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
		v4.Close()
		return nil, err
	}
	return &Sender{v4: v4, v6: v6, scope: cfg.Scope, transmit: newTransmit()}, nil
}

// Send sends IP packets to the destinations in their headers, in order within a family.
// The packets are the caller's and only read. For IPv4 the kernel writes length and header
// checksum, and an identification where that is 0; everything else goes out as it is.
// Nothing is fragmented here: a packet longer than the device's MTU fails with EMSGSIZE,
// and the kernel's path MTU cache, which anyone on the path may feed, is not asked.
//
// sent counts the packets the kernel took. A packet that fails does not hold up the
// others: the error is then a *SendError that names them. After Close it is os.ErrClosed.
func (s *Sender) Send(pkts [][]byte) (sent int, err error) {
	t := s.transmit
	t.failed.Failed = t.failed.Failed[:0]
	var batch *fd.File // of the messages collected
	for i, p := range pkts {
		to, ok := destination(p)
		c := s.v4
		if to.Is6() {
			c = s.v6
		}
		if t.n == batchLen || t.n > 0 && (c != batch || !ok) {
			if err := t.flush(batch); err != nil {
				return 0, err
			}
		}
		switch {
		case !ok:
			t.fail(i, unix.EINVAL)
			continue
		case c == nil:
			t.fail(i, unix.EAFNOSUPPORT)
			continue
		}
		batch = c
		m := t.add(i, p)
		var scope uint32
		if needsScope(to) {
			scope = s.scope
		}
		m.Namelen = setAddress(&t.names[t.n-1], netip.AddrPortFrom(to, 0), scope)
	}
	if t.n > 0 {
		if err := t.flush(batch); err != nil {
			return 0, err
		}
	}
	return len(pkts) - len(t.failed.Failed), t.result()
}

// Close closes the sockets; a Send that waits for room returns os.ErrClosed.
func (s *Sender) Close() error {
	err := s.v4.Close()
	if s.v6 != nil {
		err = errors.Join(err, s.v6.Close())
	}
	return err
}

// destination reads where an IP packet goes, and whether it has a header at all.
func destination(p []byte) (netip.Addr, bool) {
	switch {
	case len(p) >= inet.IPv4Len && p[0]>>4 == 4 && int(p[0]&15)*4 >= inet.IPv4Len && int(p[0]&15)*4 <= len(p):
		return netip.AddrFrom4([4]byte(p[16:])), true
	case len(p) >= inet.IPv6Len && p[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(p[24:])), true
	}
	return netip.Addr{}, false
}

// fragmentation is the option that decides what the kernel does with packets that are too
// long: without df it fragments them by the path MTU it knows; with df it sets DF (IPv4),
// refuses what exceeds the device's MTU, and leaves the path MTU to us. That belongs to
// the SA, which believes only messages that answer its own packets.
func fragmentation(v6, df bool) option {
	o := option{"IP_MTU_DISCOVER", unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT}
	if v6 {
		o = option{"IPV6_MTU_DISCOVER", unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT}
	}
	if df {
		o.want = unix.IP_PMTUDISC_PROBE // the same number in both families
	}
	return o
}
