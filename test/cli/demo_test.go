package cli

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/internal/netns"
	"espalier/test/lab"
)

// heldDemo is `espalier demo --hold`, holding. It runs in a network namespace of its own, so
// that what it might leave there is its doing.
type heldDemo struct {
	t      *testing.T
	cmd    *exec.Cmd
	ns     *netns.NS
	tmp    string
	mark   string // in the environment of all processes of the demo
	before string // the namespace, before the demo
	hosts  []string
	spaces []string // the hosts' network namespaces
	output chan string
}

var lookAround = regexp.MustCompile(`nsenter --net=/proc/([0-9]+)/ns/net`)

func holdDemo(t *testing.T) *heldDemo {
	t.Helper()
	lab.Root(t)
	lab.Tools(t, "ip", "nft", "ss")
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	d := &heldDemo{t: t, ns: ns, tmp: t.TempDir(), output: make(chan string, 1)}
	d.mark = fmt.Sprintf("ESPALIER_TEST_DEMO=%d-%d", os.Getpid(), time.Now().UnixNano())
	d.before = d.settings()
	d.cmd = exec.Command(lab.Binary(t), "demo", "--hold", "--bytes", "1MiB")
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.tmp, d.mark)
	// In a group of its own: the signals of this test are for it alone.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Start(d.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pid := range d.processes() { // none, unless the test fails
			if n, err := strconv.Atoi(pid); err == nil {
				syscall.Kill(n, syscall.SIGKILL)
			}
		}
	})
	holding := make(chan bool, 1)
	go func() {
		var all strings.Builder
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			all.WriteString(lines.Text() + "\n")
			if m := lookAround.FindStringSubmatch(lines.Text()); m != nil {
				d.hosts = append(d.hosts, m[1])
			}
			if strings.Contains(lines.Text(), "holding until interrupted") {
				holding <- true
			}
		}
		close(holding)
		d.output <- all.String()
	}()
	select {
	case ok := <-holding:
		if !ok {
			t.Fatalf("the demo ended before it held:\n%s", <-d.output)
		}
	case <-time.After(40 * time.Second):
		t.Fatal("the demo does not get to where it holds")
	}
	d.lookAt()
	return d
}

// lookAt makes sure that what must be gone later is there now, and can be seen.
func (d *heldDemo) lookAt() {
	d.t.Helper()
	for _, pid := range d.hosts {
		space, err := os.Readlink("/proc/" + pid + "/ns/net")
		if err != nil {
			d.t.Fatal(err)
		}
		d.spaces = append(d.spaces, space)
	}
	if len(d.spaces) != 2 || d.spaces[0] == d.spaces[1] {
		d.t.Fatalf("the hosts' namespaces: %v", d.spaces)
	}
	if n := len(d.processes()); n != 3 { // the demo and a device on each host
		d.t.Errorf("%d processes while the demo holds", n)
	}
	if held := d.holders(); len(held) == 0 {
		d.t.Error("nothing holds the hosts' namespaces while the demo holds")
	}
	if files := d.files(); len(files) != 1 || len(d.sockets()) != 2 {
		d.t.Errorf("while the demo holds: files %v, sockets %v", files, d.sockets())
	}
}

// end sends sig and returns exit code and output. It is killed if it does not end soon.
func (d *heldDemo) end(sig syscall.Signal) (state *os.ProcessState, output string) {
	d.t.Helper()
	d.cmd.Process.Signal(sig)
	timer := time.AfterFunc(20*time.Second, func() {
		d.t.Errorf("the demo did not end within 20 s of %s", sig)
		d.cmd.Process.Kill()
	})
	output = <-d.output
	d.cmd.Wait()
	timer.Stop()
	return d.cmd.ProcessState, output
}

// processes of this demo, by their environment.
func (d *heldDemo) processes() (pids []string) {
	environments, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environments {
		b, err := os.ReadFile(path)
		if err == nil && slices.Contains(strings.Split(string(b), "\x00"), d.mark) {
			pids = append(pids, strings.Split(path, "/")[2])
		}
	}
	return pids
}

// holders are all that keeps the hosts' namespaces alive: threads in them, descriptors and
// mounts of them.
func (d *heldDemo) holders() (holders []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net")
	descriptors, _ := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	for _, path := range append(links, descriptors...) {
		if target, err := os.Readlink(path); err == nil && slices.Contains(d.spaces, target) {
			holders = append(holders, path)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, space := range d.spaces {
		if strings.Contains(string(mounts), space) {
			holders = append(holders, "a mount of "+space)
		}
	}
	return holders
}

// settings are what the demo could change around itself: devices, addresses, routes, rules,
// nftables, sockets.
func (d *heldDemo) settings() string {
	d.t.Helper()
	var all strings.Builder
	for _, line := range []string{"ip -o addr", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "nft list ruleset", "ss -Hanpe"} {
		words := strings.Fields(line)
		cmd := exec.Command(words[0], words[1:]...)
		var out strings.Builder
		cmd.Stdout = &out
		if err := d.ns.Start(cmd); err != nil {
			d.t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			d.t.Fatalf("%s: %v", line, err)
		}
		text := out.String()
		if words[0] == "ss" { // unix sockets of all are in no order, and ss has a socket of its own
			text = strconv.Itoa(strings.Count(text, "\n"))
		}
		fmt.Fprintf(&all, "%s:\n%s\n", line, text)
	}
	return all.String()
}

// files are in the directory for temporary files.
func (d *heldDemo) files() (names []string) {
	entries, err := os.ReadDir(d.tmp)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// sockets that the demo's devices listen at.
func (d *heldDemo) sockets() (paths []string) {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		d.t.Fatal(err)
	}
	// A unix socket is listed in the namespace in which it was made.
	for _, pid := range d.hosts {
		if b, err := os.ReadFile("/proc/" + pid + "/net/unix"); err == nil {
			table = append(table, b...)
		}
	}
	for line := range strings.Lines(string(table)) {
		if i := strings.Index(line, d.tmp); i >= 0 && strings.Contains(line, " 00010000 ") { // listening
			paths = append(paths, strings.TrimSpace(line[i:]))
		}
	}
	return paths
}

// checkGone waits a little for what the kernel does in the background.
func (d *heldDemo) checkGone() {
	d.t.Helper()
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		processes, holders, sockets, now := d.processes(), d.holders(), d.sockets(), d.settings()
		if len(processes)+len(holders)+len(sockets) == 0 && now == d.before {
			return
		}
		if time.Since(start) > 5*time.Second {
			d.t.Errorf("left over: processes %v, holders of namespaces %v, sockets %v", processes, holders, sockets)
			if now != d.before {
				d.t.Errorf("around the demo it was\n%s\nnow it is\n%s", d.before, now)
			}
			return
		}
	}
}

// TestDemoInterrupted: Ctrl-C and SIGTERM end the demo in order, with nothing left over and no
// claim made.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			d := holdDemo(t)
			state, output := d.end(sig)
			if state.ExitCode() != 130 {
				t.Errorf("exit %d", state.ExitCode())
			}
			if strings.Contains(output, "configured successfully") {
				t.Error("an interrupted demo claims success")
			}
			d.checkGone()
			if files := d.files(); len(files) > 0 {
				t.Errorf("left in the directory for temporary files: %v", files)
			}
		})
	}
}

// TestDemoKilled: SIGKILL leaves what only the dead process could have removed, a directory with
// the devices' sockets, and nothing that does anything.
func TestDemoKilled(t *testing.T) {
	t.Parallel()
	d := holdDemo(t)
	d.end(syscall.SIGKILL)
	d.checkGone()
	if files := d.files(); len(files) > 1 || len(files) == 1 && !strings.HasPrefix(files[0], "espalier-demo-") {
		t.Errorf("left in the directory for temporary files: %v", files)
	}
}
