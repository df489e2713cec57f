package sad

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/test/bench/report"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// patience bounds a program, and a dump.
const patience = time.Minute

// run runs a program in the namespace; what it prints is formatted, and thrown away. rss is the
// largest resident set seen, in bytes: the kernel's own account of a child begins with its
// parent's.
func (b *bench) run(name string, args ...string) (took time.Duration, rss int64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	if err := b.ns.Start(cmd); err != nil {
		return 0, 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				return 0, 0, fmt.Errorf("%s %v: %w", name, args, err)
			}
			return time.Since(start), rss, nil
		case <-look.C:
			rss = max(rss, residentPeak(cmd.Process.Pid))
		}
	}
}

// residentPeak is the VmHWM of a process, 0 once it has ended.
func residentPeak(pid int) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kib << 10
		}
	}
	return 0
}

func perSecond(n int, d time.Duration) float64 { return float64(n) / d.Seconds() / 1e3 }

// batches adds and deletes 10,000 policies by ip and by espalier, whole programs both.
func (b *bench) batches() ([]report.Result, error) {
	const n = 10_000
	scripts := make(map[string]string)
	var err error
	for _, verb := range []string{"add", "delete"} {
		if scripts[verb], err = b.script(verb, n); err != nil {
			return nil, err
		}
	}
	values := map[string]*pairs{"add": {}, "delete": {}}
	for range b.runs {
		took := make(map[string]time.Duration)
		for _, verb := range []string{"add", "delete"} {
			if took["peer "+verb], _, err = b.run("ip", "-force", "-batch", scripts[verb]); err != nil {
				return nil, err
			}
		}
		for _, verb := range []string{"add", "delete"} {
			if took["own "+verb], _, err = b.run(b.espalier, "xfrm", "--sad", "kernel", "-force", "-batch", scripts[verb]); err != nil {
				return nil, err
			}
			values[verb].add(perSecond(n, took["own "+verb]), perSecond(n, took["peer "+verb]))
		}
	}
	return []report.Result{
		values["add"].result("policies added by -batch", "kernel", b.ip, "k/s", n, 6),
		values["delete"].result("policies deleted by -batch", "kernel", b.ip, "k/s", n, 6),
	}, nil
}

// dumps lists policies as text, and reads them without; against ip, and against a loop that
// receives the same dump and looks at nothing.
func (b *bench) dumps() ([]report.Result, error) {
	n := 100_000
	if b.quick {
		n = 20_000
	}
	var c *client.Client
	err := b.ns.Do(func() (err error) {
		c, err = client.Kernel()
		return err
	})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := install(ctx, c, 0, n); err != nil {
		return nil, err
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as espalier xfrm policy list does
	var text, read pairs
	var largest int64
	for range b.runs {
		peer, _, err := b.run("ip", "xfrm", "policy", "list")
		if err != nil {
			return nil, err
		}
		own, rss, err := b.run(b.espalier, "xfrm", "--sad", "kernel", "policy", "list")
		if err != nil {
			return nil, err
		}
		text.add(perSecond(n, own), perSecond(n, peer))
		largest = max(largest, rss)

		var bare time.Duration
		if err := b.ns.Do(func() (err error) { bare, err = receiveOnly(); return err }); err != nil {
			return nil, err
		}
		start, count := time.Now(), 0
		for _, err := range c.Policies(ctx) {
			if err != nil {
				return nil, err
			}
			count++
		}
		if count != n {
			return nil, fmt.Errorf("%d policies listed, not %d", count, n)
		}
		read.add(perSecond(n, time.Since(start)), perSecond(n, bare))
	}
	const mayTake = 64 << 20
	memory := report.Result{
		Name: "memory of that", Impl: "kernel", Size: n, Unit: "MiB", Value: float64(largest) / (1 << 20),
		Peer: "64 MiB", PeerValue: 64, Ratio: mayTake / float64(largest), Target: 1, Met: largest <= mayTake,
	}
	return []report.Result{
		text.result("policies listed as text", "kernel", b.ip, "k/s", n, 2.5),
		memory,
		read.result("policies read", "kernel", "receive only", "k/s", n, 1/1.3),
	}, c.FlushPolicies(ctx, xfrm.PolicyMain)
}

// install adds the policies from one number to another.
func install(ctx context.Context, c *client.Client, from, to int) error {
	requests := make([]client.Request, 0, to-from)
	for i := from; i < to; i++ {
		requests = append(requests, client.AddPolicy(policy(i)))
	}
	return errors.Join(c.Batch(ctx, requests)...)
}

// receiveOnly dumps the policies of the calling thread's namespace and looks at nothing but the
// end.
func receiveOnly() (time.Duration, error) {
	conn, err := netlink.Dial(unix.NETLINK_XFRM, nil)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	_, err = conn.Send(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(xfrm.MsgGetPolicy), Flags: netlink.Request | netlink.Dump}})
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 32<<10)
	for done := false; !done; {
		var received error
		err := raw.Read(func(fd uintptr) bool {
			var n int
			n, _, received = unix.Recvfrom(int(fd), buf, 0)
			// The kernel ends a dump with a message of its own.
			done = n >= 16 && buf[4] == byte(netlink.Done)
			return !errors.Is(received, unix.EAGAIN)
		})
		if err := errors.Join(err, received); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}
