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

// Watch makes these the files of the set, but for those that are closed. It lets go of those it had.
func (s *Set) Watch(files []*File) {
	for _, f := range s.files {
		f.release()
	}
	s.files = s.files[:0]
	s.polls = append(s.polls[:0], unix.PollFd{Fd: int32(s.bell.number), Events: unix.POLLIN})
	for _, f := range files {
		if f.acquire() {
			s.files = append(s.files, f)
			s.polls = append(s.polls, unix.PollFd{Fd: int32(f.number), Events: unix.POLLIN})
		}
	}
}

// Ring makes Wait return. Anybody may call it.
func (s *Set) Ring() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	s.bell.Write(one[:]) // fails only if it was rung very often already
}

// Wait waits until a file can be read, or somebody rings. After Close it returns os.ErrClosed.
func (s *Set) Wait() error {
	if !s.bell.acquire() {
		return os.ErrClosed
	}
	defer s.bell.release()
	if err := s.poll(); err != nil {
		return fmt.Errorf("wait for packets: %w", err)
	}
	if s.polls[0].Revents == 0 {
		return nil
	}
	var rung [8]byte
	if _, err := s.bell.Read(rung[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
		return err
	}
	return nil
}

// poll keeps the thread's place in Go's scheduler for a moment: among packets that come one after the
// other, giving it up and getting it back takes longer than the wait. Who has waited longer gives it
// up: nobody need look after the thread any more. A signal that ends the wait is the scheduler's, which
// wants the place.
func (s *Set) poll() error {
	for moment := true; ; {
		trap, timeout := unix.Syscall6, (*unix.Timespec)(nil)
		if moment {
			trap, timeout = unix.RawSyscall6, &unix.Timespec{Nsec: aMoment}
		}
		n, _, errno := trap(unix.SYS_PPOLL, uintptr(unsafe.Pointer(unsafe.SliceData(s.polls))), uintptr(len(s.polls)), uintptr(unsafe.Pointer(timeout)), 0, 0, 0)
		switch {
		case errno == unix.EINTR:
			runtime.Gosched()
		case errno != 0:
			return errno
		case n > 0:
			return nil
		}
		moment = false
	}
}

// aMoment is in nanoseconds.
const aMoment = 1_000_000

// Close ends the set: nobody may be in Wait, or come there again. Its files stay open.
func (s *Set) Close() error {
	s.Watch(nil)
	return s.bell.Close()
}
