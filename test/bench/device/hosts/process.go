package hosts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// patience with what starts or ends.
const patience = 20 * time.Second

// Command prepares a program on the host. It is killed when ctx ends, or this process. A Ctrl-C at
// the terminal is not for it.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Env = append(os.Environ(), "ESPALIER_STATE_DIR="+filepath.Join(h.Dir, "state"))
	cmd.WaitDelay = time.Second
	return cmd
}

// Run runs a program and returns its stdout, also when it fails; the error tells its stderr.
func (h *Host) Run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd := h.Command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := h.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		err = fmt.Errorf("host %s: %s: %w: %s", h.Name, filepath.Base(name), err, tail(stderr.Bytes()))
	}
	return stdout.String(), err
}

// SetUp gives a device an address and an MTU and sets it up.
func (h *Host) SetUp(ctx context.Context, device string, address netip.Prefix, mtu int) error {
	_, err := h.Run(ctx, "", "ip", "address", "add", address.String(), "dev", device)
	if err == nil {
		_, err = h.Run(ctx, "", "ip", "link", "set", device, "mtu", strconv.Itoa(mtu), "up")
	}
	return err
}

// Process is a program that runs until it is stopped.
type Process struct {
	PID    int
	name   string
	cancel context.CancelFunc
	exited chan struct{}
	cmd    *exec.Cmd
	stderr output
}

// Launch starts a program and waits for a line of its stdout that begins with ready; "" waits for
// nothing. It runs until it is stopped, or the pair closed: when ctx ends it still has to clean up.
func (h *Host) Launch(ctx context.Context, ready, name string, args ...string) (*Process, error) {
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &Process{name: filepath.Base(name), cancel: cancel, exited: make(chan struct{})}
	p.cmd = h.Command(running, name, args...)
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err == nil {
		err = h.Start(p.cmd)
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("host %s: start %s: %w", h.Name, p.name, err)
	}
	p.PID = p.cmd.Process.Pid
	h.running = append(h.running, p)
	up := make(chan struct{})
	go func() {
		defer close(p.exited)
		seen := ready == ""
		if seen {
			close(up)
		}
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if !seen && strings.HasPrefix(lines.Text(), ready) {
				seen = true
				close(up)
			}
		}
		p.cmd.Wait()
	}()
	select {
	case <-up:
		return p, nil
	case <-p.exited:
		err = errors.New("it has ended")
	case <-time.After(patience):
		err = fmt.Errorf("it is not ready after %s", patience)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.Stop()
	return nil, fmt.Errorf("host %s: start %s: %w: %s", h.Name, p.name, err, p.Said())
}

// Stop ends the program by SIGTERM, or at last by SIGKILL. It may be called again.
func (p *Process) Stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(patience):
	}
	p.Kill()
}

// Kill ends the program by SIGKILL. It may be called again.
func (p *Process) Kill() {
	p.cancel()
	<-p.exited
}

// Alive is an error if the program has ended.
func (p *Process) Alive() error {
	select {
	case <-p.exited:
		return fmt.Errorf("%s has ended: %s", p.name, p.Said())
	default:
		return nil
	}
}

// Said is the end of what the program wrote to stderr.
func (p *Process) Said() string { return p.stderr.String() }

// output keeps the end of what is written.
type output struct {
	mu  sync.Mutex
	end []byte
}

const kept = 2000 // bytes

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.end = append(o.end, b...)
	o.end = o.end[max(0, len(o.end)-kept):]
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return tail(o.end)
}

func tail(b []byte) string { return string(bytes.TrimSpace(b[max(0, len(b)-kept):])) }
