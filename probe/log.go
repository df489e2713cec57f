package probe

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelLog reads the kernel's log as dmesg does, one line a message. It waits for nothing. Where
// kernel.dmesg_restrict is set it takes CAP_SYSLOG.
func kernelLog() ([]string, error) {
	lines, err := readKmsg()
	if errors.Is(err, fs.ErrNotExist) { // as in many containers
		return readSyslog()
	}
	return lines, err
}

// maxLog limits the messages taken: a ring of 16 MiB, which is large, holds some 200000.
const maxLog = 1 << 19

// readKmsg reads /dev/kmsg (Documentation/ABI/testing/dev-kmsg): one message each read.
func readKmsg() ([]string, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/kmsg: %w", err)
	}
	defer unix.Close(fd)
	var lines []string
	record := make([]byte, 8192) // the longest message the kernel hands out
	for len(lines) < maxLog {
		n, err := unix.Read(fd, record)
		switch {
		case err == unix.EPIPE, err == unix.EINTR: // overwritten while we read: the next one will do
			continue
		case err == unix.EAGAIN, err == nil && n == 0: // that was the last
			return lines, nil
		case err != nil:
			return lines, fmt.Errorf("read /dev/kmsg: %w", err)
		}
		if line, ok := parseKmsg(record[:n]); ok {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// parseKmsg takes the text from "6,339,5140900,-;text\n KEY=value\n".
func parseKmsg(record []byte) (string, bool) {
	_, text, ok := bytes.Cut(record, []byte{';'})
	line, _, _ := bytes.Cut(text, []byte{'\n'})
	return string(line), ok && len(line) > 0
}

// readSyslog asks syslog(2), which knows the same messages.
func readSyslog() ([]string, error) {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return nil, fmt.Errorf("ask syslog(2) for the kernel's log: %w", err)
	}
	text := make([]byte, min(max(size, 0), 64<<20))
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, text)
	if err != nil {
		return nil, fmt.Errorf("ask syslog(2) for the kernel's log: %w", err)
	}
	var lines []string
	for line := range strings.Lines(string(text[:n])) {
		lines = append(lines, parseSyslog(line))
	}
	return lines, nil
}

// parseSyslog takes the text from "<6>[    5.140900] text\n".
func parseSyslog(line string) string {
	line = strings.TrimSuffix(line, "\n")
	if rest, ok := strings.CutPrefix(line, "<"); ok {
		if _, rest, ok = strings.Cut(rest, ">"); ok {
			line = rest
		}
	}
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if _, rest, ok = strings.Cut(rest, "] "); ok {
			line = rest
		}
	}
	return line
}
