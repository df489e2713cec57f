package differential

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/internal/netns"
	"espalier/test/lab"
)

// namespace is a network namespace whose kernel both programs look at.
type namespace struct {
	*netns.NS
	t *testing.T
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	lab.Root(t)
	lab.Tools(t, "ip")
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return &namespace{ns, t}
}

// run returns what a program prints, and its exit code.
func (n *namespace) run(words ...string) (string, int) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), words[0], words[1:]...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := n.Start(cmd); err != nil {
		n.t.Fatal(err)
	}
	cmd.Wait()
	return out.String(), cmd.ProcessState.ExitCode()
}

func (n *namespace) ip(ip, line string) (string, int) {
	return n.run(append([]string{ip}, strings.Fields(line)...)...)
}

func (n *namespace) espalier(options []string, words ...string) (string, int) {
	args := append([]string{lab.Binary(n.t), "xfrm", "--sad", "kernel", "--show-keys"}, options...)
	return n.run(append(args, words...)...)
}

// fill runs commands, of which many are wrong.
func (n *namespace) fill(script string) {
	n.t.Helper()
	var good strings.Builder
	file := filepath.Join(n.t.TempDir(), "batch")
	bad := map[int]bool{}
	for _, text := range []*string{&script, nil} {
		if text == nil {
			line := 0
			for l := range strings.Lines(script) {
				if line++; !bad[line] {
					good.WriteString(l)
				}
			}
			script = good.String()
		}
		if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
			n.t.Fatal(err)
		}
		out, _ := n.espalier([]string{"--ip-compat", "-o", "json", "-force", "-batch", file})
		for _, r := range results(n.t, []byte(out)) {
			if !r.OK {
				bad[r.Line] = true
			}
		}
	}
}

// TestLists fills the kernel with policies and larval SAs, and lets both list them under many
// filters.
func TestLists(t *testing.T) {
	ip := newIP(t)
	n := newNamespace(t)
	g := &generator{rand.New(rand.NewPCG(*seed, 11))}
	var policies, larval strings.Builder
	for range 500 {
		if p := g.policyAdd(g.chance(40)); !slices.Contains(p, "limit") { // none may expire
			fmt.Fprintln(&policies, quote(p))
		}
		if a := g.allocSPI(g.chance(40)); !slices.Contains(a, "pcpu-num") { // which ip does not print
			fmt.Fprintln(&larval, quote(a))
		}
	}
	n.fill(policies.String())
	n.fill(larval.String())
	filled := time.Now()
	kept, _ := n.ip(ip, "-o xfrm policy list")
	spis, _ := n.ip(ip, "-o xfrm state list")
	if strings.Count(kept, "\n") < 100 || strings.Count(spis, "\n") < 100 {
		t.Fatalf("%d policies, %d states are few", strings.Count(kept, "\n"), strings.Count(spis, "\n"))
	}
	commands := [][]string{{"state", "list"}, {"policy", "list"}, {"state", "count"}, {"policy", "count"}, {"policy", "getdefault"}}
	for len(commands) < 40 {
		var c []string
		if g.chance(50) {
			c = g.stateOther(g.chance(40))
		} else {
			c = g.policyOther(g.chance(40))
		}
		if slices.Contains(c, "ipsec-any") { // see Differences
			continue
		}
		if strings.HasPrefix("list", c[1]) || strings.HasPrefix("show", c[1]) {
			commands = append(commands, c)
		}
	}
	slices.SortStableFunc(commands, func(a, b []string) int { return strings.Compare(b[0], a[0]) }) // states first: they expire
	printed := 0
	for i, c := range commands {
		options := [][]string{nil, {"-s"}, {"-o"}, {"-s", "-o"}, {"-4"}, {"-6", "-s"}}
		if len(c) > 2 {
			options = options[i%len(options):][:1]
		}
		for _, o := range options {
			if c[0] == "state" && time.Since(filled) > 25*time.Second {
				n.fill(larval.String())
				filled = time.Now()
			}
			theirs, code := n.run(append(append([]string{ip}, o...), append([]string{"xfrm"}, c...)...)...)
			ours, ourCode := n.espalier(o, c...)
			what := strings.Join(append(o, c...), " ")
			if code != ourCode {
				judged := &comparison{options: o, words: c, ip: outcome(code), ours: outcome(ourCode), newIP: true}
				judge(t, judged, map[string]int{})
				continue
			}
			sameText(t, what, theirs, ours)
			printed += len(theirs)
		}
	}
	if printed < 100000 {
		t.Errorf("only %d bytes were compared", printed)
	}
}

// TestMonitor lets both listen to the same events of the kernel.
func TestMonitor(t *testing.T) {
	ip := newIP(t)
	n := newNamespace(t)
	const last = "spi 0x00000fff"
	listen := func(words ...string) func() string {
		cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Start(cmd); err != nil {
			t.Fatal(err)
		}
		text := make(chan string, 1)
		go func() {
			var b strings.Builder
			lines := bufio.NewScanner(out)
			for lines.Scan() {
				b.WriteString(lines.Text() + "\n")
				if strings.Contains(b.String(), last) && strings.Contains(lines.Text(), "sel ") {
					break
				}
			}
			text <- b.String()
		}()
		return func() string {
			select {
			case s := <-text:
				cmd.Process.Signal(syscall.SIGINT)
				cmd.Wait()
				return s
			case <-time.After(30 * time.Second):
				cmd.Process.Kill()
				t.Fatalf("%v: the last event has not come", words)
				return ""
			}
		}
	}
	// One other namespace has an id here.
	other := fmt.Sprintf("espalier-test-%d", os.Getpid())
	if _, code := n.ip(ip, "netns add "+other); code != 0 {
		t.Fatal("no other namespace")
	}
	t.Cleanup(func() {
		if out, err := exec.Command(ip, "netns", "del", other).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	n.ip(ip, "netns set "+other+" 77")
	theirs := listen(ip, "xfrm", "monitor")
	ours := listen(lab.Binary(t), "xfrm", "--sad", "kernel", "monitor")
	allTheirs := listen(ip, "xfrm", "monitor", "all-nsid")
	allOurs := listen(lab.Binary(t), "xfrm", "--sad", "kernel", "monitor", "all-nsid")
	n.awaitListeners(6) // espalier's have a second ear for SAs that are lost with their links
	n.ip(ip, "-n "+other+" xfrm policy add dir in")
	for _, line := range []string{
		"link add v0 type veth peer name v1",
		"link set v0 up",
		"link set v1 up",
		"addr add 192.0.2.1/24 dev v0",
		"xfrm policy add src 10.0.0.1 dst 10.0.0.2 dir out priority 5 tmpl proto esp reqid 7 mode transport",
		"xfrm policy update src 10.0.0.1 dst 10.0.0.2 dir out priority 6 limit time-hard 1 tmpl src 127.0.0.1 dst 10.0.0.2 proto esp reqid 7 mode tunnel",
		"xfrm policy add src 2001:db8::/32 proto tcp dport 80 dir in ptype sub action block",
		"xfrm policy delete src 2001:db8::/32 proto tcp dport 80 dir in ptype sub",
		"xfrm policy setdefault in block",
		"xfrm policy flush",
		"xfrm policy add dst 192.0.2.2 dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 7 mode tunnel",
		"xfrm policy add dst 127.9.9.8 dir fwd limit time-soft 1 limit time-hard 2",
		"xfrm state allocspi dst 10.0.0.9 proto esp min 9 max 9",
		"xfrm state flush proto esp",
	} {
		n.ip(ip, line)
	}
	n.Do(func() error { // an acquire
		c, err := net.Dial("udp", "192.0.2.2:9")
		if err == nil {
			c.Write([]byte("x"))
			c.Close()
		}
		return nil
	})
	n.ip(ip, "xfrm state allocspi src 10.0.0.1 dst 10.0.0.2 proto esp min 5 max 5 reqid 3")
	n.ip(ip, "xfrm state delete src 10.0.0.1 dst 10.0.0.2 proto esp spi 5")
	time.Sleep(2500 * time.Millisecond) // POLEXPIRE, soft and hard, by the kernel's clock
	n.ip(ip, "xfrm state allocspi src 10.0.0.1 dst 10.0.0.2 proto esp min 0xfff max 0xfff")
	n.ip(ip, "xfrm state delete src 10.0.0.1 dst 10.0.0.2 proto esp spi 0xfff")
	want, got := theirs(), ours()
	sameText(t, "monitor", want, got)
	wantAll, gotAll := allTheirs(), allOurs()
	sameText(t, "monitor all-nsid", wantAll, gotAll)
	if !strings.HasPrefix(gotAll, "[nsid 77]src") || !strings.Contains(gotAll, "\n[nsid current]src 10.0.0.1/32") {
		t.Errorf("monitor all-nsid:\n%s", gotAll)
	}
	for _, word := range []string{"Updated src", "Deleted src", "Flushed policy", "Flushed state proto esp", "Default policies", "acquire proto esp", "Expired src", "hard 0", "hard 1"} {
		if !strings.Contains(want, word) {
			t.Errorf("no event with %q:\n%s", word, want)
		}
	}
}

// awaitListeners waits until as many sockets listen to XFRM's groups.
func (n *namespace) awaitListeners(count int) {
	n.t.Helper()
	for range 300 {
		table, _ := n.run("cat", "/proc/net/netlink")
		listeners := 0
		for line := range strings.Lines(table) {
			f := strings.Fields(line) // sk, protocol, pid, groups
			if len(f) > 3 && f[1] == "6" && f[3] != "00000000" {
				listeners++
			}
		}
		if listeners >= count {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	n.t.Fatal("nobody listens")
}

// TestMonitorStops: an interrupt ends it at once, with the exit code of one.
func TestMonitorStops(t *testing.T) {
	n := newNamespace(t)
	cmd := exec.CommandContext(t.Context(), lab.Binary(t), "xfrm", "--sad", "kernel", "-o", "json", "monitor", "SA")
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	n.awaitListeners(2)
	cmd.Process.Signal(syscall.SIGINT)
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		if code := cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("exit %d, want 130", code)
		}
	case <-time.After(10 * time.Second):
		cmd.Process.Kill()
		t.Error("an interrupt does not end the monitor")
	}
}
