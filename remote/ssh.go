package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// CheckDestination refuses what ssh would take for an option, or no host has for a name.
func CheckDestination(dest string) error {
	switch {
	case dest == "":
		return errors.New("the name of a host is empty")
	case strings.HasPrefix(dest, "-"):
		return fmt.Errorf("%q is not the name of a host: it begins with a dash", dest)
	case strings.ContainsFunc(dest, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return fmt.Errorf("%q is not the name of a host", dest)
	}
	return nil
}

// sshArguments are those for one connection. The user's configuration holds but for what would get
// in the way: forwardings and commands that are meant for people at work on the far side.
func sshArguments(dest, command string, opt Options, prompts bool) []string {
	args := []string{"-T", "-x", "-a", "-e", "none"}
	if opt.Config != "" {
		args = append(args, "-F", opt.Config)
	}
	for _, o := range []string{
		fmt.Sprintf("ConnectTimeout=%d", max(1, int(opt.connect().Seconds()))),
		"ServerAliveInterval=5", "ServerAliveCountMax=4",
		"ClearAllForwardings=yes", "PermitLocalCommand=no", "RemoteCommand=none",
	} {
		args = append(args, "-o", o)
	}
	if !prompts {
		args = append(args, "-o", "BatchMode=yes")
	}
	if opt.Port != 0 {
		args = append(args, "-p", strconv.Itoa(int(opt.Port)))
	}
	if opt.Identity != "" {
		args = append(args, "-i", opt.Identity)
	}
	if opt.Jump != "" {
		args = append(args, "-J", opt.Jump)
	}
	if opt.Alone {
		args = append(args, "-o", "IdentityAgent=none")
	}
	if opt.Fresh {
		args = append(args, "-o", "ControlPath=none")
	}
	return append(args, "--", dest, command)
}

// process is ssh at work.
type process struct {
	cmd    *exec.Cmd
	stdin  *os.File
	stdout *os.File
	stderr *relay
	exited chan struct{}
	err    error // of Wait; valid once exited is closed
}

// startSSH runs it. With prompts it stays where it can ask on the terminal, and is told to ignore
// Ctrl-C: what was begun on the far side is undone over this very connection. Without, a process
// group of its own has the same effect.
func startSSH(opt Options, args []string, prompts bool, stderr *relay) (*process, error) {
	p := &process{stderr: stderr, exited: make(chan struct{})}
	if prompts {
		p.cmd = exec.Command("sh", append([]string{"-c", `trap "" INT QUIT; exec "$0" "$@"`, opt.program()}, args...)...)
	} else {
		p.cmd = exec.Command(opt.program(), args...)
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	p.cmd.Env = opt.environment()
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer inR.Close()
	outR, outW, err := os.Pipe()
	if err != nil {
		inW.Close()
		return nil, err
	}
	defer outW.Close()
	p.stdin, p.stdout = inW, outR
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = inR, outW, stderr
	p.cmd.WaitDelay = time.Second // a master connection of the user's may keep standard error open
	if err := p.cmd.Start(); err != nil {
		inW.Close()
		outR.Close()
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// kill ends ssh, first in a way that lets it end its own helpers, and waits until it has.
func (p *process) kill() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(2 * time.Second):
		p.cmd.Process.Kill()
		<-p.exited
	}
}

// finish gives the far side, whose input has ended, time to undo what it was about to do.
func (p *process) finish(patience time.Duration) {
	p.stdin.Close()
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.kill()
	}
	p.stdout.Close()
}

// status is the exit code of ssh or, below 255, of the far side; -1 for a signal.
func (p *process) status() int { return p.cmd.ProcessState.ExitCode() }

// within runs f, and ends ssh if ctx ends before.
func (p *process) within(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, p.kill)
	err := f()
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

// relay keeps what was said on standard error; once it has a writer it passes lines on, with the
// host's name before them and without control characters.
type relay struct {
	mu   sync.Mutex
	host string
	to   io.Writer // nil: keep the end of it
	kept []byte
}

const maxKept = 8 << 10

func (r *relay) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.kept = append(r.kept, p...)
	for r.to != nil {
		line, rest, whole := bytes.Cut(r.kept, []byte("\n"))
		if !whole && len(r.kept) < maxKept {
			return len(p), nil
		}
		r.pass(line)
		r.kept = rest
	}
	if over := len(r.kept) - maxKept; over > 0 {
		r.kept = r.kept[over:]
	}
	return len(p), nil
}

func (r *relay) pass(line []byte) {
	if text := plain(string(line)); text != "" {
		fmt.Fprintf(r.to, "%s: %s\n", r.host, text)
	}
}

// open passes on what comes from now on.
func (r *relay) open(to io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to, r.kept = to, nil
}

// said is what was said and not passed on.
func (r *relay) said() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.kept)
}
