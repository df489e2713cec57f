package fd

import (
	"errors"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// File is a non-blocking descriptor. It is closed when Close was called and nobody uses it any
// more, so that its number never comes to name something else meanwhile.
type File struct {
	number int
	name   string
	users  atomic.Int64 // and closing
}

// closing is added to a File's users when it is to be closed, and again when it has been.
const closing = 1 << 40

// New takes over a descriptor, which must be non-blocking.
func New(number int, name string) *File { return &File{number: number, name: name} }

// Name is what errors call the file.
func (f *File) Name() string { return f.name }

// acquire keeps the descriptor from being closed until release. It reports whether it still is
// open.
func (f *File) acquire() bool {
	if f.users.Add(1) > closing {
		f.release()
		return false
	}
	return true
}

func (f *File) release() {
	if f.users.Add(-1) == closing {
		f.shut()
	}
}

// Close gives the descriptor back as soon as all calls under way have returned, and all sets have
// let go of it. A second Close returns os.ErrClosed.
func (f *File) Close() error {
	for {
		users := f.users.Load()
		if users >= closing {
			return os.ErrClosed
		}
		if f.users.CompareAndSwap(users, users+closing) {
			if users == 0 {
				f.shut()
			}
			return nil
		}
	}
}

// shut is for the last user, of whom there may be several in turn.
func (f *File) shut() {
	if f.users.CompareAndSwap(closing, 2*closing) {
		unix.Close(f.number)
	}
}

// Closed reports whether Close was called.
func (f *File) Closed() bool { return f.users.Load() >= closing }

// Control runs f on the descriptor, for what is not the packet path. After Close it returns
// os.ErrClosed.
func (f *File) Control(do func(number int) error) error {
	if !f.acquire() {
		return os.ErrClosed
	}
	defer f.release()
	return do(f.number)
}

// Read reads what is there. It returns EAGAIN if that is nothing, after Close os.ErrClosed.
func (f *File) Read(p []byte) (int, error) {
	n, errno := f.Call(unix.SYS_READ, unsafe.Pointer(unsafe.SliceData(p)), len(p), 0)
	return n, failure(errno)
}

// Write writes p, or nothing of it where the file takes packets.
func (f *File) Write(p []byte) (int, error) {
	n, errno := f.Call(unix.SYS_WRITE, unsafe.Pointer(unsafe.SliceData(p)), len(p), 0)
	return n, failure(errno)
}

// Closed is the error of Call on a file that was closed: no system call returns it.
const Closed = syscall.Errno(1 << 20)

func failure(errno syscall.Errno) error {
	switch errno {
	case 0:
		return nil
	case Closed:
		return os.ErrClosed
	}
	return errno
}

// Call makes the system call trap(descriptor, p, n, flags). It must be one that does not wait.
func (f *File) Call(trap uintptr, p unsafe.Pointer, n int, flags uintptr) (int, syscall.Errno) {
	if !f.acquire() {
		return 0, Closed
	}
	defer f.release()
	for {
		done, _, errno := unix.RawSyscall6(trap, uintptr(f.number), uintptr(p), uintptr(n), flags, 0, 0)
		if errno == 0 {
			return int(done), 0
		}
		if errno != unix.EINTR {
			return 0, errno
		}
	}
}

// Wait waits until the file can be read (POLLIN) or written (POLLOUT), or is closed: os.ErrClosed.
// It is for those who wait for one file alone, and looks for Close only now and then.
func (f *File) Wait(events int16) error {
	const look = 20 // milliseconds
	for {
		ready := false
		err := f.Control(func(number int) error {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(number), Events: events}}, look)
			ready = n > 0
			return err
		})
		if ready || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
