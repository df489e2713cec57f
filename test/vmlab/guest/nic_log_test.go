package guest

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// kernelLog is an open /dev/kmsg.
type kernelLog int

// openKernelLog is for what the kernel says from now on.
func openKernelLog(t *testing.T) kernelLog {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = unix.Seek(fd, 0, unix.SEEK_END)
	}
	if err != nil {
		t.Fatalf("/dev/kmsg: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return kernelLog(fd)
}

// read gives the lines since the last time that begin with prefix, joined.
func (l kernelLog) read(t *testing.T, prefix string) string {
	t.Helper()
	var found []string
	record := make([]byte, 8<<10)
	for {
		n, err := unix.Read(int(l), record)
		if errors.Is(err, unix.EAGAIN) {
			return strings.Join(found, "; ")
		}
		if err != nil {
			t.Fatalf("/dev/kmsg: %v", err)
		}
		// Numbers, a semicolon, the text, and lines of other things.
		_, text, _ := strings.Cut(string(record[:n]), ";")
		text, _, _ = strings.Cut(text, "\n")
		if strings.HasPrefix(text, prefix) {
			found = append(found, text)
		}
	}
}
