package underlay

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
)

// Limits of one UDP_SEGMENT send (UDP_MAX_SEGMENTS of older kernels; the IP length with
// room for headers).
const (
	maxSegments     = 64
	maxSegmentBytes = 65000
)

// MaxSegments is how many packets of an MTU go to the kernel as one UDP_SEGMENT send.
func MaxSegments(mtu int) int { return min(max(maxSegmentBytes/mtu, 1), maxSegments) }

// Message is a number of UDP payloads that go to one peer under equal IP headers. The
// buffers are the caller's and only read.
type Message struct {
	Src netip.AddrPort // local address; unspecified or invalid: the kernel chooses. The port is the socket's
	Dst netip.AddrPort // a link-local address has its interface index as zone, or Config.Scope

	TOS, TTL  uint8  // traffic class and hop limit; TTL 0 is the system's default
	FlowLabel uint32 // IPv6, 20 bits; 0 is no label

	// DontFragment sets DF (IPv4), and in both families makes payloads that exceed the
	// device's MTU fail with EMSGSIZE. Without it the kernel fragments. Linux has this
	// only per socket, so a change costs one more system call; keep it rare.
	DontFragment bool

	Options                        []byte // IPv4 options as in the header, up to 40 bytes
	HopByHop, Routing, Destination []byte // IPv6 extension headers, whole; their next-header byte is ignored

	Payloads [][]byte
}

// udpSocket is what the senders of one socket share.
type udpSocket struct {
	file  *fd.File
	v6    bool
	scope uint32
	plain atomic.Bool // UDP_SEGMENT does not work here

	mu           sync.RWMutex // held for reading while sending
	dontFragment bool         // the socket's state
}

// UDPSender sends on a UDP socket. One goroutine at a time may use it.
type UDPSender struct {
	socket   *udpSocket
	transmit *transmit
	control  []byte
}

func newUDPSender(s *udpSocket) *UDPSender {
	size := control4Len
	if s.v6 {
		size = control6Len
	}
	return &UDPSender{socket: s, transmit: newTransmit(), control: make([]byte, size)}
}

// Send sends the message's payloads in order. Neighbours of equal length (the last may be
// shorter) go to the kernel as one UDP_SEGMENT send, up to 64 payloads and 65,000 bytes;
// others, and all where the kernel or the device cannot segment, go by sendmmsg.
//
// UDP checksums are computed: RFC 3948, section 2.1 would rather have them 0 over IPv4,
// but the kernel segments only what has them.
//
// A payload that fails does not hold up the others: the error is then a *SendError that
// names them. Any other error means that the message does not fit the socket and nothing
// was sent, or after Close os.ErrClosed.
func (s *UDPSender) Send(m Message) error {
	t := s.transmit
	t.failed.Failed = t.failed.Failed[:0]
	to, scope, err := s.socket.destination(&m)
	if err != nil {
		return err
	}
	control, err := s.describe(&m, scope)
	if err != nil {
		return err
	}
	if err := s.socket.acquire(m.DontFragment); err != nil {
		return err
	}
	defer s.socket.mu.RUnlock()

	for i := 0; i < len(m.Payloads); {
		n := 1
		if !s.socket.plain.Load() {
			n = segmentable(m.Payloads[i:])
		}
		if n > 1 {
			if err := t.flush(s.socket.file); err != nil {
				return err
			}
			done, err := s.sendSegments(&m, i, n, to, scope, control)
			if err != nil {
				return err
			}
			if done {
				i += n
				continue
			}
		}
		for j := i; j < i+n; j++ {
			if t.n == batchLen {
				if err := t.flush(s.socket.file); err != nil {
					return err
				}
			}
			s.address(t.add(j, m.Payloads[j]), to, scope, control)
		}
		i += n
	}
	if err := t.flush(s.socket.file); err != nil {
		return err
	}
	return t.result()
}

// segmentable is the number of payloads at the front that one UDP_SEGMENT send can take.
func segmentable(payloads [][]byte) int {
	size := len(payloads[0])
	if size == 0 {
		return 1
	}
	n, total := 1, size
	for n < len(payloads) && n < maxSegments {
		next := len(payloads[n])
		if next == 0 || next > size || total+next > maxSegmentBytes {
			break
		}
		total += next
		n++
		if next < size {
			break
		}
	}
	return n
}

// sendSegments sends n payloads from i on as one. It reports false where they must go one
// by one: EIO says that the device cannot do it, and then never again; EINVAL and
// EMSGSIZE say that a segment exceeds the MTU, which only the kernel's fragmentation of
// single datagrams can help.
func (s *UDPSender) sendSegments(m *Message, i, n int, to netip.AddrPort, scope uint32, control []byte) (bool, error) {
	t := s.transmit
	for j, p := range m.Payloads[i : i+n] {
		t.iovecs[j].Base = unsafe.SliceData(p)
		t.iovecs[j].SetLen(len(p))
	}
	w := controlWriter{buf: s.control, n: len(control)}
	binary.NativeEndian.PutUint16(w.add(unix.SOL_UDP, unix.UDP_SEGMENT, 2), uint16(len(m.Payloads[i])))
	msg := &t.msgs[0]
	msg.Iov = &t.iovecs[0]
	msg.SetIovlen(n)
	s.address(msg, to, scope, w.bytes())

	_, errno, err := t.send(s.socket.file, t.msgs[:1])
	switch {
	case err != nil:
		return false, err
	case errno == unix.EIO:
		s.socket.plain.Store(true)
		return false, nil
	case errno == unix.EINVAL || errno == unix.EMSGSIZE:
		return false, nil
	case errno != 0:
		for j := i; j < i+n; j++ {
			t.fail(j, errno)
		}
	}
	return true, nil
}

// address gives a message its destination and control messages. All messages of one Send
// share them.
func (s *UDPSender) address(m *mmsghdr, to netip.AddrPort, scope uint32, control []byte) {
	name := (*unix.RawSockaddrInet6)(unsafe.Pointer(m.Name))
	m.Namelen = setAddress(name, to, scope)
	m.Control = unsafe.SliceData(control)
	m.SetControllen(len(control))
}

// destination checks the addresses against the socket and finds the scope.
func (s *udpSocket) destination(m *Message) (to netip.AddrPort, scope uint32, err error) {
	dst, src := m.Dst.Addr().Unmap(), m.Src.Addr().Unmap()
	if !dst.IsValid() || dst.Is6() != s.v6 || src.IsValid() && src.Is6() != s.v6 {
		return to, 0, fmt.Errorf("send from %v to %v on %s: %w", m.Src, m.Dst, s.file.Name(), syscall.EAFNOSUPPORT)
	}
	if needsScope(dst) {
		scope = s.scope
		if zone := dst.Zone(); zone != "" {
			n, err := strconv.ParseUint(zone, 10, 32)
			if err != nil {
				return to, 0, fmt.Errorf("send to %v: zone %q is not an interface index", m.Dst, zone)
			}
			scope = uint32(n)
		}
	}
	return netip.AddrPortFrom(dst, m.Dst.Port()), scope, nil
}

// acquire takes the socket for sending, in the wanted state of fragmentation.
func (s *udpSocket) acquire(dontFragment bool) error {
	for {
		s.mu.RLock()
		if s.dontFragment == dontFragment {
			return nil
		}
		s.mu.RUnlock()
		if err := s.setDontFragment(dontFragment); err != nil {
			return err
		}
	}
}

func (s *udpSocket) setDontFragment(on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dontFragment == on {
		return nil
	}
	o := fragmentation(s.v6, on)
	if err := s.file.Control(func(number int) error { return set(number, o) }); err != nil {
		return err
	}
	s.dontFragment = on
	return nil
}
