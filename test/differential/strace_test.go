package differential

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// process is what strace saw of one process.
type process struct {
	sent [][]byte // to NETLINK_XFRM, one send each
	exit int
}

// trace runs a shell script under strace in a network namespace of its own with lo (1) and p4p1
// (2), and returns the processes in the order of their execve.
func trace(t *testing.T, script string) []*process {
	t.Helper()
	dir := t.TempDir()
	log, file := filepath.Join(dir, "trace"), filepath.Join(dir, "script")
	setup := "ip link set lo up && ip tuntap add dev p4p1 mode tun || exit 99\n"
	if err := os.WriteFile(file, []byte(setup+script), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "strace", "-f", "--seccomp-bpf", "-q", "-s", "0", "-e", "signal=none",
		"-e", "trace=execve,socket,sendmsg,sendto", "-e", "write=all", "-o", log, "sh", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState.ExitCode() == 99 {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.Bytes())
	}
	return parseTrace(t, string(text))
}

var (
	straceLine = regexp.MustCompile(`^(\d+) +(.*)$`)
	exitLine   = regexp.MustCompile(`^\+\+\+ exited with (\d+) \+\+\+`)
	socketLine = regexp.MustCompile(`^socket\(.*NETLINK_(\w+)\) = (\d+)`)
	sendLine   = regexp.MustCompile(`^send(?:msg|to)\((\d+)`)
	bufferLine = regexp.MustCompile(`^ \* \d+ bytes in buffer`)
	dumpLine   = regexp.MustCompile(`^ \| [0-9a-f]+  ([0-9a-f ]{49}) `)
)

// parseTrace reads strace's output. Threads count as their process: there is one that has any.
func parseTrace(t *testing.T, text string) []*process {
	var order []*process
	byPID := map[string]*process{}
	var current *process      // the last that was executed: threads belong to it
	xfrm := map[string]bool{} // of the file descriptors of current
	var toXfrm bool
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if m := dumpLine.FindStringSubmatch(line); m != nil {
			if toXfrm {
				b, err := hex.DecodeString(strings.ReplaceAll(m[1], " ", ""))
				if err != nil {
					t.Fatal(err)
				}
				last := len(current.sent) - 1
				current.sent[last] = append(current.sent[last], b...)
			}
			continue
		}
		if bufferLine.MatchString(line) {
			continue
		}
		m := straceLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		pid, event := m[1], m[2]
		switch {
		case strings.HasPrefix(event, "execve(") && strings.Contains(event, ") = 0"):
			p := &process{exit: -1}
			byPID[pid], current, xfrm = p, p, map[string]bool{}
			order = append(order, p)
		case exitLine.MatchString(event):
			if p := byPID[pid]; p != nil {
				p.exit, _ = strconv.Atoi(exitLine.FindStringSubmatch(event)[1])
			}
		case socketLine.MatchString(event):
			s := socketLine.FindStringSubmatch(event)
			xfrm[s[2]] = s[1] == "XFRM"
		case sendLine.MatchString(event):
			if toXfrm = xfrm[sendLine.FindStringSubmatch(event)[1]]; toXfrm {
				current.sent = append(current.sent, nil)
			}
		}
	}
	return order
}

// messages are what the process sent, in the form in which they are compared.
func (p *process) messages() ([]message, error) {
	var all []message
	for _, b := range p.sent {
		m, err := parseMessages(b)
		if err != nil {
			return nil, fmt.Errorf("%x: %w", b, err)
		}
		all = append(all, m...)
	}
	return all, nil
}

// quote makes a command line of words, for sh and for -batch alike.
func quote(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
