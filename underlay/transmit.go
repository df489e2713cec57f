package underlay

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
)

// Failure is one packet that was not sent. Err is the kernel's syscall.Errno: EMSGSIZE
// where it is longer than the MTU, EPERM where a firewall refused it, ENETUNREACH or
// EHOSTUNREACH without a route, EINVAL for what is no packet.
type Failure struct {
	Index int // in the slice of packets or payloads
	Err   error
}

// SendError says which packets of a batch were not sent, in their order; all others were.
// It belongs to the sender and is good until its next Send.
type SendError struct {
	Failed []Failure
}

func (e *SendError) Error() string {
	first := e.Failed[0]
	return fmt.Sprintf("send: %d packets refused, the first (number %d of its batch): %v", len(e.Failed), first.Index, first.Err)
}

// Unwrap gives the first packet's error to errors.Is.
func (e *SendError) Unwrap() error { return e.Failed[0].Err }

// transmit collects messages for one socket and sends them. It is the scratch space of
// one sending goroutine.
type transmit struct {
	msgs   []mmsghdr
	iovecs []unix.Iovec
	names  []unix.RawSockaddrInet6
	index  []int // of each message's packet
	n      int   // messages collected

	failed SendError
	kernel func(*fd.File, []mmsghdr) (int, syscall.Errno) // sendMessages, but in tests
}

func newTransmit() *transmit {
	t := &transmit{
		msgs:   make([]mmsghdr, batchLen),
		iovecs: make([]unix.Iovec, batchLen),
		names:  make([]unix.RawSockaddrInet6, batchLen),
		index:  make([]int, batchLen),
		kernel: sendMessages,
	}
	for i := range t.msgs {
		t.msgs[i].Name = (*byte)(unsafe.Pointer(&t.names[i]))
	}
	return t
}

// add collects a message that is one packet; there must be room.
func (t *transmit) add(index int, packet []byte) *mmsghdr {
	m := &t.msgs[t.n]
	t.index[t.n] = index
	t.iovecs[t.n].Base = unsafe.SliceData(packet)
	t.iovecs[t.n].SetLen(len(packet))
	m.Iov = &t.iovecs[t.n]
	m.SetIovlen(1)
	t.n++
	return m
}

// flush sends what is collected, step by step over the messages that fail. The error is
// os.ErrClosed.
func (t *transmit) flush(f *fd.File) error {
	for at := 0; at < t.n; {
		sent, errno, err := t.send(f, t.msgs[at:t.n])
		if err != nil {
			t.n = 0
			return err
		}
		if errno != 0 {
			t.fail(t.index[at], errno)
			at++
		}
		at += sent
	}
	t.n = 0
	return nil
}

// send makes one system call, and waits only where the socket's buffer is full.
func (t *transmit) send(f *fd.File, msgs []mmsghdr) (int, syscall.Errno, error) {
	for {
		sent, errno := t.kernel(f, msgs)
		switch errno {
		case fd.Closed:
			return 0, 0, os.ErrClosed
		case unix.EAGAIN:
			if err := f.Wait(unix.POLLOUT); err != nil {
				return 0, 0, err
			}
		default:
			return sent, errno, nil
		}
	}
}

func (t *transmit) fail(index int, errno syscall.Errno) {
	t.failed.Failed = append(t.failed.Failed, Failure{index, errno})
}

// result is the outcome of a Send whose socket works.
func (t *transmit) result() error {
	if len(t.failed.Failed) > 0 {
		return &t.failed
	}
	return nil
}

// setAddress writes a socket address and returns its length.
func setAddress(sa *unix.RawSockaddrInet6, to netip.AddrPort, scope uint32) uint32 {
	b := (*[unix.SizeofSockaddrInet6]byte)(unsafe.Pointer(sa))
	clear(b[:])
	binary.BigEndian.PutUint16(b[2:], to.Port())
	if to.Addr().Is4() {
		sa.Family = unix.AF_INET
		a := to.Addr().As4()
		copy(b[4:], a[:])
		return unix.SizeofSockaddrInet4
	}
	sa.Family = unix.AF_INET6
	sa.Addr = to.Addr().As16()
	sa.Scope_id = scope
	return unix.SizeofSockaddrInet6
}

// needsScope reports whether an address means nothing without an interface.
func needsScope(a netip.Addr) bool {
	return a.Is6() && (a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast())
}
