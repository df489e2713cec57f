package remote

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/accept"
	"espalier/internal/netns"
	"espalier/test/lab"
)

// acceptance is the two hosts of the lab with a userspace device each, and a third that reaches both by
// cables of their own.
type acceptance struct {
	*lab.Lab
	from    *lab.Host
	ssh     *lab.SSH
	servers []*lab.SSHServer
	dir     string
}

func newAcceptance(t *testing.T) *acceptance {
	t.Helper()
	a := &acceptance{Lab: lab.New(t, ""), from: lab.NewHost(t, "C", ""), ssh: lab.NewSSH(t), dir: t.TempDir()}
	for i, h := range a.Hosts() {
		here, there := netip.AddrFrom4([4]byte{10, 9, byte(i), 1}), netip.AddrFrom4([4]byte{10, 9, byte(i), 2})
		err := netns.Cable(netns.End{NS: a.from.NS, Name: "to" + h.Name, Addresses: []netip.Prefix{netip.PrefixFrom(here, 30)}},
			netns.End{NS: h.NS, Name: "eno1", Addresses: []netip.Prefix{netip.PrefixFrom(there, 30)}})
		if err != nil {
			t.Fatal(err)
		}
		// Where espalier looks for it.
		var st unix.Stat_t
		if err := unix.Fstat(h.NS.Fd(), &st); err != nil {
			t.Fatal(err)
		}
		h.Socket = fmt.Sprintf("/run/espalier/%d/p4p1.sock", st.Ino)
		t.Cleanup(func() { os.RemoveAll(filepath.Dir(h.Socket)) })
		h.StartDevice()
		a.servers = append(a.servers, a.ssh.Serve(h, "nova"+fmt.Sprint(i+1), there, "echo 'SetEnv ESPALIER_STATE_DIR=/run/sshd/state' >>sshd_config"))
	}
	return a
}

// command is `espalier accept nova1 nova2` on the third host.
func (a *acceptance) command(args ...string) []string {
	return append([]string{"accept", "nova1", "nova2", "--own-traffic", "--ssh-config", a.ssh.Config, "--duration", "2s", "--report", filepath.Join(a.dir, "report.md")}, args...)
}

// mustBeAsBefore looks for anything that was left on the hosts.
func (a *acceptance) mustBeAsBefore(t *testing.T) {
	t.Helper()
	for i, h := range a.Hosts() {
		a.servers[i].MustBeClean(t)
		for _, object := range []string{"state", "policy"} {
			if r := h.Xfrm(object, "list"); r.Code != 0 || r.Stdout != "" {
				t.Errorf("host %s: %s list: exit %d\n%s%s", h.Name, object, r.Code, r.Stdout, r.Stderr)
			}
		}
	}
	if !a.A.Ping(lab.B4, 1) || !a.B.Ping(lab.A6, 1) {
		t.Error("the hosts do not reach each other any more")
	}
}

func (a *acceptance) report(t *testing.T) (text string, r accept.Report) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(a.dir, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "```json\n")
	if err := json.Unmarshal([]byte(strings.TrimSuffix(after, "\n```\n")), &r); err != nil {
		t.Fatal(err)
	}
	return string(b), r
}

func TestAccept(t *testing.T) {
	t.Parallel()
	a := newAcceptance(t)
	r := a.from.Espalier(a.command("--yes", "--require", "emulated")...)
	if r.Code != 0 {
		t.Fatalf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	a.mustBeAsBefore(t)
	text, report := a.report(t)
	if !report.OK || report.Verdict != "EMULATED" || len(report.Steps) != 7 {
		t.Errorf("%s", text)
	}
	if strings.Contains(text, "stays up") || strings.Count(text, "of 2 SAs are left") != 4 { // once for people, once as JSON
		t.Errorf("the links were not taken down and up:\n%s", text)
	}
	for _, line := range strings.Split(r.Stdout, "\n") {
		if len([]rune(line)) > 100 && !strings.HasPrefix(line, "report: ") {
			t.Errorf("too wide: %s", line)
		}
	}
	verdicts := 0
	for _, s := range report.Steps {
		if s.Result != accept.Passed || s.Error != "" {
			t.Errorf("%s: %s %s", s.Name, s.Result, s.Error)
		}
		verdicts += len(s.Verdicts)
	}
	if verdicts != 3*2 {
		t.Errorf("%d verdicts", verdicts)
	}
	for _, secret := range []string{"192.168.1.6", "10.9.", "nova", "fd00:"} {
		if strings.Contains(text, secret) {
			t.Errorf("%q is in the report:\n%s", secret, text)
		}
	}
	t.Logf("%s", r.Stdout)
}

// TestAcceptIperf measures by the program that people know.
func TestAcceptIperf(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "iperf3")
	a := newAcceptance(t)
	r := a.from.Espalier(a.command("--yes", "--own-traffic=false", "--keep-links", "-o", "json")...)
	var report accept.Report
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil || r.Code != 0 || !report.OK || report.Traffic != "iperf3" {
		t.Fatalf("exit %d, %v\n%s%s", r.Code, err, r.Stdout, r.Stderr)
	}
	for _, s := range report.Steps {
		for _, x := range s.Transfers {
			if x.Bytes == 0 || x.Gbit <= 0 {
				t.Errorf("%s: %+v", s.Name, x)
			}
		}
	}
	if len(report.Steps[1].Transfers) != 2 {
		t.Errorf("%+v", report.Steps[1])
	}
	a.mustBeAsBefore(t)
}

// TestAcceptRefuses what is not its to touch, and what nobody has agreed to.
func TestAcceptRefuses(t *testing.T) {
	t.Parallel()
	a := newAcceptance(t)
	if r := a.from.Espalier(a.command()...); r.Code != 2 || !strings.Contains(r.Stderr, "--yes") || !strings.Contains(r.Stdout, "GOES DOWN") {
		t.Errorf("without a yes: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := a.from.Espalier(a.command("--yes", "--dev-a", "eno1")...); r.Code != 1 || !strings.Contains(r.Stderr, "no IPv4 network joins") {
		t.Errorf("devices that are not joined: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	a.mustBeAsBefore(t)
	policy := "policy add src 192.168.1.0/24 dst 192.168.0.0/16 dir out tmpl proto esp reqid 7 mode transport\n"
	a.A.Batch(policy)
	if r := a.from.Espalier(a.command("--yes")...); r.Code != 1 || !strings.Contains(r.Stdout, "host A has a policy (out) between the two addresses") {
		t.Errorf("with a policy of others: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	a.A.Batch("policy flush\n")
	a.B.Batch(a.States(a.B, lab.Pair{}))
	before := a.B.Xfrm("state", "list").Stdout
	r := a.from.Espalier(a.command("--yes")...)
	if r.Code != 1 || !strings.Contains(r.Stdout, "host B has an SA between the two addresses") {
		t.Errorf("with SAs of others: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if after := a.B.Xfrm("state", "list").Stdout; after != before || before == "" {
		t.Errorf("SAs of others were touched:\n%s\n%s", before, after)
	}
}

// TestAcceptLeavesOthers: what is between other addresses stays, and is in nobody's way.
func TestAcceptLeavesOthers(t *testing.T) {
	t.Parallel()
	a := newAcceptance(t)
	a.A.Batch("state add src 192.168.1.64 dst 192.168.1.99 proto esp spi 0x1000 reqid 7 mode transport aead 'rfc4106(gcm(aes))' 0x" +
		strings.Repeat("5a", 36) + " 128 offload dev p4p1 dir out\n" +
		"policy add src 192.168.1.64 dst 192.168.1.99 dir out tmpl proto esp reqid 7 mode transport\n")
	there := func() string { return a.A.Xfrm("state", "list").Stdout + a.A.Xfrm("policy", "list").Stdout }
	before := there()
	if r := a.from.Espalier(a.command("--yes", "--keep-links")...); r.Code != 0 || !strings.Contains(r.Stdout, "p4p1 on host A stays up: links are to be left alone") {
		t.Errorf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if after := there(); after != before || strings.Count(before, "192.168.1.99") < 2 {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if _, report := a.report(t); report.Steps[5].Result != accept.Skipped {
		t.Errorf("%+v", report.Steps[5])
	}
}

// TestAcceptOverTheLink: the link by which a host is reached stays up, and addresses by which it is
// reached are not put into ESP.
func TestAcceptOverTheLink(t *testing.T) {
	t.Parallel()
	a := newAcceptance(t)
	a.A.Must("ip", "route", "add", "10.9.1.0/30", "via", lab.B4.String())
	a.B.Must("sysctl", "-qw", "net.ipv4.ip_forward=1")
	a.from.Must("ip", "route", "add", lab.A4.String(), "via", "10.9.1.2") // host A is reached through host B
	a.servers = append(a.servers, a.ssh.Serve(a.A, "far", lab.A4, "echo 'SetEnv ESPALIER_STATE_DIR=/run/sshd/state' >>sshd_config"))
	args := a.command("--yes")
	args[1] = "far"
	r := a.from.Espalier(args...)
	if r.Code != 0 || !strings.Contains(r.Stdout, "p4p1 on host A stays up") || !strings.Contains(r.Stdout, "p4p1 on host B GOES DOWN") {
		t.Errorf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	a.mustBeAsBefore(t)
	// From host B itself there is nothing but the addresses to be tried.
	r = a.B.Espalier("accept", ".", "far", "--yes", "--ssh-config", a.ssh.Config, "--report", "-")
	if r.Code != 1 || !strings.Contains(r.Stderr, "it would be cut") {
		t.Errorf("over itself: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// TestAcceptHere is run on one of the two hosts, which is reached without ssh. It reaches the other by
// the link that is tried: that one stays up. It is killed, and run again.
func TestAcceptHere(t *testing.T) {
	t.Parallel()
	a := newAcceptance(t)
	a.A.Must("ip", "route", "add", "10.9.1.0/30", "via", lab.B4.String())
	args := a.command("--yes")
	args[1] = "."
	cmd := exec.Command(lab.Binary(t), args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), "ESPALIER_STATE_DIR="+a.dir, "GORACE=atexit_sleep_ms=0")
	if err := a.A.Start(cmd); err != nil {
		t.Fatal(err)
	}
	said := killAt(t, cmd, out, "traffic, and who", syscall.SIGKILL)
	if !strings.Contains(said, "p4p1 on host A stays up") || !strings.Contains(said, "p4p1 on host B stays up") {
		t.Errorf("%s", said)
	}
	a.mustBeAsBefore(t)
	if r := a.A.Espalier(args...); r.Code != 0 {
		t.Errorf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	a.mustBeAsBefore(t)
}

// TestAcceptInterrupted: whenever it ends, and however, the hosts are as they were.
func TestAcceptInterrupted(t *testing.T) {
	t.Parallel()
	a := newAcceptance(t)
	for _, c := range []struct {
		at  string // a step, by the words it begins with
		how syscall.Signal
	}{
		{"traffic, and who", syscall.SIGINT}, {"traffic, and who", syscall.SIGKILL}, {"new keys", syscall.SIGKILL}, {"links down", syscall.SIGKILL}, {"links down", syscall.SIGINT},
		{"SAs and policies", syscall.SIGKILL},
	} {
		t.Run(c.at+" "+c.how.String(), func(t *testing.T) {
			cmd := exec.Command(lab.Binary(t), a.command("--yes")...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			cmd.Env = append(os.Environ(), "ESPALIER_STATE_DIR="+a.dir, "GORACE=atexit_sleep_ms=0")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := a.from.Start(cmd); err != nil {
				t.Fatal(err)
			}
			said := killAt(t, cmd, out, c.at, c.how)
			if code := cmd.ProcessState.ExitCode(); c.how == syscall.SIGINT && code != 130 {
				t.Errorf("exit %d\n%s", code, said)
			}
			a.mustBeAsBefore(t)
		})
	}
}

// killAt sends the program a signal once it has begun a step, and waits for its end.
func killAt(t *testing.T, cmd *exec.Cmd, out io.Reader, step string, how os.Signal) (said string) {
	t.Helper()
	found := false
	buffer := make([]byte, 4096)
	for {
		n, err := out.Read(buffer)
		said += string(buffer[:n])
		if !found && strings.Contains(said, "[#] "+step) {
			found = true
			time.Sleep(300 * time.Millisecond) // into the step
			cmd.Process.Signal(how)
		}
		if err != nil {
			break
		}
	}
	cmd.Wait()
	if !found {
		t.Errorf("it did not come to %s:\n%s", step, said)
	}
	return said
}
