package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"espalier/internal/netns"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// The addresses of the hosts, as in the vendor's example, and an IPv6 pair.
var (
	A4 = netip.MustParseAddr("192.168.1.64")
	B4 = netip.MustParseAddr("192.168.1.65")
	A6 = netip.MustParseAddr("fd00:192:168:1::64")
	B6 = netip.MustParseAddr("fd00:192:168:1::65")
)

// Lab is two hosts, A and B, whose devices of the same name are joined by a cable.
type Lab struct {
	A, B   *Host
	Device string
}

// New makes a lab; device is the name of both ends, "p4p1" if "".
func New(t testing.TB, device string) *Lab {
	t.Helper()
	Root(t)
	if device == "" {
		device = "p4p1"
	}
	l := &Lab{Device: device}
	l.A = NewHost(t, "A", device)
	l.B = NewHost(t, "B", device)
	err := netns.Cable(
		netns.End{NS: l.A.NS, Name: device, Addresses: []netip.Prefix{netip.PrefixFrom(A4, 24), netip.PrefixFrom(A6, 64)}},
		netns.End{NS: l.B.NS, Name: device, Addresses: []netip.Prefix{netip.PrefixFrom(B4, 24), netip.PrefixFrom(B6, 64)}},
	)
	if err != nil {
		t.Fatal(err)
	}
	// Super-packets would cross the cable whole; a tap is to see the packets of a wire.
	for _, h := range l.Hosts() {
		h.Must("ethtool", "-K", device, "tx-udp-segmentation", "off")
	}
	return l
}

// Hosts are both hosts.
func (l *Lab) Hosts() []*Host { return []*Host{l.A, l.B} }

// Host is a network namespace with a device process in it, once started.
type Host struct {
	*netns.NS
	Name   string
	Device string // of the cable
	Socket string // of the offload device
	Dir    string // for files of this host

	t      testing.TB
	daemon *exec.Cmd
	exited chan struct{}
	log    *syncBuffer
}

// NewHost makes a host without any cable; device is what it will be called.
func NewHost(t testing.TB, name, device string) *Host {
	t.Helper()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{NS: ns, Name: name, Device: device, Dir: t.TempDir(), t: t}
	h.Socket = filepath.Join(h.Dir, "run", device+".sock")
	t.Cleanup(func() {
		h.Kill()
		if t.Failed() && h.log != nil {
			t.Logf("device on host %s said:\n%s", h.Name, h.log.String())
		}
		ns.Close()
	})
	return h
}

// RaceOptions, as GORACE in the environment, end a racing binary at once with a code of its own, and spare others
// the second that the race detector waits at their end.
const (
	RaceOptions = "halt_on_error=1 exitcode=66 atexit_sleep_ms=0"
	raceOptions = "GORACE=" + RaceOptions
)

// StartDevice runs `espalier dataplane` on the host and waits until it is ready.
func (h *Host) StartDevice(args ...string) {
	h.t.Helper()
	h.daemon = exec.Command(Binary(h.t), append([]string{"dataplane", "--dev", h.Device, "--listen", h.Socket}, args...)...)
	h.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	h.daemon.Env = append(os.Environ(), raceOptions)
	if h.log == nil {
		h.log = &syncBuffer{}
	}
	h.daemon.Stderr = h.log
	out, err := h.daemon.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.Start(h.daemon); err != nil {
		h.t.Fatal(err)
	}
	exited, ready := make(chan struct{}), make(chan bool, 1)
	h.exited = exited
	go func() {
		line := bufio.NewScanner(out)
		ready <- line.Scan() && line.Text() == "ready unix:"+h.Socket
		for line.Scan() {
		}
		h.daemon.Wait()
		close(exited)
	}()
	select {
	case ok := <-ready:
		if !ok {
			h.t.Fatalf("device on host %s did not start: %s", h.Name, h.log.String())
		}
	case <-time.After(30 * time.Second):
		h.t.Fatalf("device on host %s not ready: %s", h.Name, h.log.String())
	}
}

// Kill ends the device with SIGKILL, if it runs.
func (h *Host) Kill() { h.end(syscall.SIGKILL) }

// Stop ends the device with SIGTERM and returns its exit code: 0, or 66 for a race.
func (h *Host) Stop() int { return h.end(syscall.SIGTERM) }

func (h *Host) end(sig os.Signal) int {
	if h.daemon == nil {
		return 0
	}
	h.daemon.Process.Signal(sig)
	select {
	case <-h.exited:
	case <-time.After(20 * time.Second):
		h.daemon.Process.Kill()
		<-h.exited
		h.t.Errorf("device on host %s did not end by %v", h.Name, sig)
	}
	code := h.daemon.ProcessState.ExitCode()
	h.daemon = nil
	if code == 66 {
		h.t.Errorf("device on host %s: data race:\n%s", h.Name, h.log.String())
	}
	return code
}

// PID of the device.
func (h *Host) PID() int { return h.daemon.Process.Pid }

// Log is what the devices of this host have said so far.
func (h *Host) Log() string { return h.log.String() }

// AwaitLog reports whether the devices of this host have said all of the words, now or within 20 s.
func (h *Host) AwaitLog(words ...string) bool {
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		log := h.log.String()
		missing := slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(log, w) })
		if !missing || time.Since(start) > 20*time.Second {
			return !missing
		}
	}
}

// Result of a command.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Command runs a program on the host, at most for a minute.
func (h *Host) Command(name string, args ...string) Result {
	h.t.Helper()
	return h.run("", name, args...)
}

func (h *Host) run(stdin, name string, args ...string) Result {
	h.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), raceOptions, "ESPALIER_STATE_DIR="+filepath.Join(h.Dir, "state"))
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	cmd.WaitDelay = time.Second
	if err := h.Start(cmd); err != nil {
		h.t.Fatalf("%s: %v", name, err)
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatalf("%s: %v", name, err)
	}
	return Result{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// Must runs a program that has to succeed and returns its stdout.
func (h *Host) Must(name string, args ...string) string {
	h.t.Helper()
	r := h.Command(name, args...)
	if r.Code != 0 {
		h.t.Fatalf("host %s: %s %s: exit %d\n%s%s", h.Name, name, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Espalier runs the binary under test.
func (h *Host) Espalier(args ...string) Result {
	h.t.Helper()
	return h.Command(Binary(h.t), args...)
}

// Xfrm runs `espalier xfrm` against the host's device.
func (h *Host) Xfrm(args ...string) Result {
	h.t.Helper()
	return h.Espalier(append([]string{"xfrm", "--sad", "unix:" + h.Socket}, args...)...)
}

// Batch has the device do what script says; it has to succeed. It is not `espalier xfrm -batch` that does it:
// a program under the race detector takes longer to start than most of what tests ask of a device.
func (h *Host) Batch(script string) {
	h.t.Helper()
	c := h.client()
	defer c.Close()
	if err := Apply(c, h.NS, script); err != nil {
		h.t.Fatalf("host %s: %v", h.Name, err)
	}
}

// Drops are the device's drops by reason, those that occurred.
func (h *Host) Drops() map[string]uint64 {
	h.t.Helper()
	c := h.client()
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	counts, err := c.Drops(ctx)
	if err != nil {
		h.t.Fatalf("host %s: %v", h.Name, err)
	}
	drops := make(map[string]uint64)
	for _, d := range counts {
		if d.Packets > 0 {
			drops[d.Reason] = d.Packets
		}
	}
	return drops
}

// SAD are the device's SAs in the layout of `ip xfrm state`, without keys; "" if there are none.
func (h *Host) SAD() string {
	h.t.Helper()
	return printed(h, func(ctx context.Context, c *client.Client) iter.Seq2[*xfrm.State, error] {
		return c.States(ctx, xfrm.StateFilter{})
	}, xfrm.FprintState)
}

// SPD are the device's policies in the layout of `ip xfrm policy`; "" if there are none.
func (h *Host) SPD() string {
	h.t.Helper()
	return printed(h, func(ctx context.Context, c *client.Client) iter.Seq2[*xfrm.Policy, error] { return c.Policies(ctx) }, xfrm.FprintPolicy)
}

func printed[T any](h *Host, list func(context.Context, *client.Client) iter.Seq2[T, error], print func(io.Writer, T, xfrm.PrintOptions) error) string {
	h.t.Helper()
	c := h.client()
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var b strings.Builder
	for x, err := range list(ctx, c) {
		if err != nil {
			h.t.Fatalf("host %s: %v", h.Name, err)
		}
		print(&b, x, xfrm.PrintOptions{})
	}
	return b.String()
}

// AwaitDrops returns the drops once they are as they are to be, or have not become so within 20 s: a device may
// count a packet a little later than it is done with the next one.
func (h *Host) AwaitDrops(are func(map[string]uint64) bool) map[string]uint64 {
	h.t.Helper()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if drops := h.Drops(); are(drops) || time.Since(start) > 20*time.Second {
			return drops
		}
	}
}

// client speaks to the host's device.
func (h *Host) client() *client.Client {
	h.t.Helper()
	c, err := client.Dial(h.Socket)
	if err != nil {
		h.t.Fatalf("host %s: %v", h.Name, err)
	}
	return c
}

// Ping reports whether count echo requests to dst are all answered, each within a second. They
// go one by one: of several, ping waits for the last no longer than two of the round trips
// before, which is nothing on a busy machine. Once one is lost the rest are sent all the same.
func (h *Host) Ping(dst netip.Addr, count int, args ...string) bool {
	h.t.Helper()
	answered, patience := true, "1"
	for range count {
		one := append([]string{"-n", "-q", "-c", "1", "-W", patience}, args...)
		if h.Command("ping", append(one, dst.String())...).Code != 0 {
			answered, patience = false, "0.1"
		}
	}
	return answered
}

// syncBuffer collects output that is read while it grows.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
