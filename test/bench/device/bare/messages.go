package main

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	batchLen = 64   // messages a system call
	slotLen  = 2048 // bytes for each
)

// messages is a batch for sendmmsg and recvmmsg: one buffer of slotLen bytes to a message.
type messages struct {
	headers [batchLen]header
	iovecs  [batchLen]unix.Iovec
	slots   [batchLen][slotLen]byte
}

// header is struct mmsghdr (recvmmsg(2)) on 64-bit machines.
type header struct {
	unix.Msghdr
	length uint32
	_      uint32
}

// peerIsNotThere is what an ICMP protocol unreachable makes of a connected raw socket, once: the other
// host's program starts a little later.
const peerIsNotThere = unix.ENOPROTOOPT

func newMessages() *messages {
	m := new(messages)
	for i := range m.headers {
		m.iovecs[i].Base = &m.slots[i][0]
		m.iovecs[i].SetLen(slotLen)
		m.headers[i].Iov = &m.iovecs[i]
		m.headers[i].SetIovlen(1)
	}
	return m
}

// send sends messages from to to-1; none that the kernel refuses counts as an error: it is lost.
func (m *messages) send(fd, from, to int) error {
	for from < to {
		n, errno := call(unix.SYS_SENDMMSG, fd, m.headers[from:to])
		switch errno {
		case 0:
			from += n
		case unix.EAGAIN:
			if err := wait(fd, unix.POLLOUT); err != nil {
				return err
			}
		case peerIsNotThere: // says a packet of before
		case unix.ENOBUFS, unix.EMSGSIZE:
			from++
		default:
			return os.NewSyscallError("sendmmsg", errno)
		}
	}
	return nil
}

// receive takes what is there; 0 if nothing is.
func (m *messages) receive(fd int) (int, error) {
	n, errno := call(unix.SYS_RECVMMSG, fd, m.headers[:])
	if errno == unix.EAGAIN || errno == peerIsNotThere {
		return 0, nil
	}
	if errno != 0 {
		return 0, os.NewSyscallError("recvmmsg", errno)
	}
	return n, nil
}

// call does not wait.
func call(trap uintptr, fd int, h []header) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(h))), uintptr(len(h)), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// wait waits until the descriptor is ready. The thread keeps its place in Go's scheduler, as with all
// calls of the path: there is nobody who wants it.
func wait(fd int, events int16) error {
	ready := unix.PollFd{Fd: int32(fd), Events: events}
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&ready)), 1, 0, 0, 0, 0)
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return os.NewSyscallError("poll", errno)
		}
	}
}

// transfer reads or writes a descriptor that does not wait.
func transfer(trap uintptr, fd int, b []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}
