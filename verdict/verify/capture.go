package verify

import (
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// capture is a file that somebody else is writing, or a pipe: at the end of what is there it waits
// for more, until it is told to end.
type capture struct {
	file  *os.File
	grows bool // a regular file, whose end is nothing final
	ended atomic.Bool
}

// glance is how long the end of a capture is waited for at a time.
const glance = 20 * time.Millisecond

func newCapture(f *os.File) (*capture, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("the capture: %w", err)
	}
	return &capture{file: f, grows: info.Mode().IsRegular()}, nil
}

// end has Read give the end of the file from now on.
func (c *capture) end() { c.ended.Store(true) }

func (c *capture) Read(b []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(c.file.Fd()), Events: unix.POLLIN}}
	for !c.ended.Load() {
		if n, err := unix.Poll(fds, int(glance/time.Millisecond)); n == 0 || err == unix.EINTR {
			continue
		} else if err != nil {
			return 0, os.NewSyscallError("poll", err)
		}
		n, err := c.file.Read(b)
		if n > 0 || err != io.EOF || !c.grows {
			return n, err
		}
		time.Sleep(glance)
	}
	return 0, io.EOF
}
