package fd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Set is the files that a thread waits for. It is for one goroutine, but for Ring and Close.
type Set struct {
	bell  *File // an eventfd
	files []*File
	polls []unix.PollFd
}

// NewSet makes an empty set.
func NewSet() (*Set, error) {
	number, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open an eventfd: %w", err)
	}
	s := &Set{bell: New(number, "eventfd")}
	s.Watch(nil)
	return s, nil
}

// Watch makes these the files of the set. It lets go of those it had.
func (s *Set) Watch(files []*File) {
	for _, f := range s.files {
		f.release()
	}
	s.files = s.files[:0]
	s.polls = append(s.polls[:0], unix.PollFd{Fd: int32(s.bell.number), Events: unix.POLLIN})
	for _, f := range files {
		number := -1 // closed: never ready
		if f.acquire() {
			s.files = append(s.files, f)
			number = f.number
		}
		s.polls = append(s.polls, unix.PollFd{Fd: int32(number), Events: unix.POLLIN})
	}
}

// Ring makes Wait return. Anybody may call it.
func (s *Set) Ring() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	s.bell.Write(one[:]) // fails only if it was rung very often already
}

// Look finds out which files can be read. After Close it returns os.ErrClosed.
func (s *Set) Look() error {
	_, err := s.find(unix.RawSyscall6, &unix.Timespec{})
	return err
}

// Doze waits for a moment until a file can be read, or somebody rings, and finds out which. It reports
// whether anything has happened. The thread keeps its place in Go's scheduler: among packets that come
// one after the other, giving it up and getting it back takes longer than the wait.
func (s *Set) Doze() (woken bool, err error) {
	const moment = 1_000_000 // nanoseconds
	return s.find(unix.RawSyscall6, &unix.Timespec{Nsec: moment})
}

// Wait waits until a file can be read, or somebody rings, and finds out which. Nobody need look after the
// thread meanwhile.
func (s *Set) Wait() error {
	_, err := s.find(unix.Syscall6, nil)
	return err
}

// Ready reports whether the file with this number among those that Watch was given could be read.
func (s *Set) Ready(i int) bool { return s.polls[1+i].Revents != 0 }

type syscall6 func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, errno unix.Errno)

func (s *Set) find(call syscall6, timeout *unix.Timespec) (woken bool, err error) {
	if !s.bell.acquire() {
		return false, os.ErrClosed
	}
	defer s.bell.release()
	n, err := s.poll(call, timeout)
	if err != nil {
		return false, fmt.Errorf("wait for packets: %w", err)
	}
	if s.polls[0].Revents == 0 {
		return n > 0, nil
	}
	var rung [8]byte
	if _, err := s.bell.Read(rung[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
		return true, err
	}
	return true, nil
}

// poll asks the kernel. A signal that ends it is that of Go's scheduler, which wants the thread's place.
func (s *Set) poll(call syscall6, timeout *unix.Timespec) (int, error) {
	n, _, errno := call(unix.SYS_PPOLL, uintptr(unsafe.Pointer(unsafe.SliceData(s.polls))), uintptr(len(s.polls)), uintptr(unsafe.Pointer(timeout)), 0, 0, 0)
	switch errno {
	case 0:
		return int(n), nil
	case unix.EINTR:
		for i := range s.polls {
			s.polls[i].Revents = 0
		}
		runtime.Gosched()
		return 0, nil
	}
	return 0, errno
}

// Close ends the set: nobody may be in Wait, or come there again. Its files stay open.
func (s *Set) Close() error {
	s.Watch(nil)
	return s.bell.Close()
}
