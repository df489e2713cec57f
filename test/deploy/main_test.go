package deploy

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/internal/netns"
	"espalier/internal/wire"
	"espalier/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// site is two hosts with a device each. Commands are given on the first, or on a third, which has cables of
// its own to both.
type site struct {
	*lab.Lab
	ssh     *lab.SSH
	from    *lab.Host
	servers map[*lab.Host]*lab.SSHServer
	file    string
	path    string // of programs, before those of all; "": none
	t       testing.TB
}

// management is the network of a host that ssh goes by.
var management = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/30"), netip.MustParsePrefix("10.9.1.0/30")}

// newSite has the commands given on host A, which reaches B at the address that is protected.
func newSite(t *testing.T) *site {
	t.Helper()
	s := newDevices(t)
	s.from = s.A
	s.serve(s.B, "db2", lab.B4)
	s.write(t, `tunnels:
  - name: db
    hosts: [{address: 192.168.1.64, dev: p4p1}, {address: 192.168.1.65, dev: p4p1, ssh: root@db2}]
    offload: auto        # no | crypto | packet | auto | require
    sas: 1
`)
	return s
}

// newManaged has the commands given on a third host.
func newManaged(t *testing.T) *site {
	t.Helper()
	s := newDevices(t)
	s.from = lab.NewHost(t, "C", "")
	for i, h := range s.Hosts() {
		at := management[i].Addr().Next().Next()
		err := netns.Cable(netns.End{NS: s.from.NS, Name: "to" + h.Name, Addresses: []netip.Prefix{netip.PrefixFrom(management[i].Addr().Next(), 30)}},
			netns.End{NS: h.NS, Name: "eno1", Addresses: []netip.Prefix{netip.PrefixFrom(at, 30)}})
		if err != nil {
			t.Fatal(err)
		}
		s.serve(h, fmt.Sprintf("db%d", i+1), at)
	}
	s.write(t, managed)
	return s
}

// managed is the file of a third host.
const managed = `tunnels:
  - name: db
    hosts: [{address: 192.168.1.64, dev: p4p1, ssh: root@db1}, {address: 192.168.1.65, dev: p4p1, ssh: root@db2}]
`

func newDevices(t *testing.T) *site {
	t.Helper()
	lab.Tools(t, "ping")
	s := &site{Lab: lab.New(t, ""), ssh: lab.NewSSH(t), servers: map[*lab.Host]*lab.SSHServer{}, t: t}
	for _, h := range s.Hosts() {
		s.startDevice(t, h)
	}
	return s
}

// startDevice starts a host's device where espalier looks for it.
func (s *site) startDevice(t *testing.T, h *lab.Host) {
	t.Helper()
	h.Socket = filepath.Join("/run/espalier", fmt.Sprint(inode(t, h)), "p4p1.sock")
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(h.Socket)) })
	h.StartDevice()
}

func inode(t *testing.T, h *lab.Host) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(h.NS.Fd(), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// serve starts a host's ssh server, with espalier installed. Its state is where the host's is.
func (s *site) serve(h *lab.Host, name string, at netip.Addr) {
	s.servers[h] = s.ssh.Serve(h, name, at, "echo 'SetEnv ESPALIER_STATE_DIR="+stateThere+"' >>sshd_config\n"+
		"mkdir bin; touch bin/espalier; mount --bind "+lab.Binary(s.t)+" bin/espalier; mount --rbind bin /usr/local/bin\n")
}

// stateThere is the state directory in the world of an ssh server.
const stateThere = "/run/sshd/state"

// state is the state directory of a host, seen from here.
func (s *site) state(h *lab.Host) string {
	if v := s.servers[h]; v != nil {
		return v.Path(stateThere)
	}
	return filepath.Join(h.Dir, "state") // as lab.Host.Command has it
}

func (s *site) write(t *testing.T, text string) {
	t.Helper()
	s.file = filepath.Join(s.from.Dir, "tunnels.yaml")
	if err := os.WriteFile(s.file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run gives a command about the file.
func (s *site) run(command string, args ...string) lab.Result {
	return s.from.Espalier(append([]string{command, s.file, "--ssh-config", s.ssh.Config}, args...)...)
}

// must gives a command that has to succeed.
func (s *site) must(t *testing.T, command string, args ...string) string {
	t.Helper()
	r := s.run(command, args...)
	if r.Code != 0 {
		t.Fatalf("%s: exit %d\n%s%s", command, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// report is what -o json prints.
type report struct {
	OK     bool
	Result string
	Error  string
	Hosts  []struct{ Name, Stage, Problem string }
	SAs    []struct{ Host, Dir, SPI, Offload, Verdict string }
}

func (s *site) report(t *testing.T, command string, args ...string) (r report, code int) {
	t.Helper()
	result := s.run(command, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(result.Stdout), &r); err != nil {
		t.Fatalf("%s: exit %d, %v\n%s%s", command, result.Code, err, result.Stdout, result.Stderr)
	}
	return r, result.Code
}

// start begins a command, and returns what it prints as it comes.
func (s *site) start(t *testing.T, command string, args ...string) (*exec.Cmd, *output) {
	t.Helper()
	cmd := exec.Command(lab.Binary(t), append([]string{command, s.file, "--ssh-config", s.ssh.Config}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = append(os.Environ(), "ESPALIER_STATE_DIR="+s.state(s.from), "GORACE=halt_on_error=1 exitcode=66 atexit_sleep_ms=0", "PATH="+s.path+":"+os.Getenv("PATH"))
	out := &output{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second
	if err := s.from.Start(cmd); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// watch counts the packets between the hosts while f runs.
func (s *site) watch(t *testing.T, f func()) wire.Counts {
	t.Helper()
	w := s.Watch(s.A, nil)
	f()
	counts, err := w.Stop()
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

// mustTalk has the hosts talk by ESP, and nothing of it in clear.
func (s *site) mustTalk(t *testing.T) {
	t.Helper()
	counts := s.watch(t, func() {
		if !s.A.Ping(lab.B4, 3) || !s.B.Ping(lab.A4, 3) {
			t.Error("pings are lost")
		}
		if err := lab.Exchange(s.A, s.B, netip.AddrPortFrom(lab.B4, 0), 1<<20); err != nil {
			t.Errorf("TCP: %v", err)
		}
	})
	if counts.Cleartext > 0 || counts.ESP < 100 {
		t.Errorf("on the wire: %+v", counts)
	}
}

// sas and policies are those of a host.
func sas(t *testing.T, h *lab.Host) string      { t.Helper(); return h.SAD() }
func policies(t *testing.T, h *lab.Host) string { t.Helper(); return h.SPD() }

// mustBeBare looks for anything that was left when a command has ended: SAs, policies, guards, files,
// processes; also where it was given.
func (s *site) mustBeBare(t *testing.T) {
	t.Helper()
	for _, h := range s.Hosts() {
		if left := s.files(t, h); len(left) > 0 {
			t.Errorf("host %s: left over: %q", h.Name, left)
		}
	}
	if left := s.files(t, s.from); len(left) > 0 {
		t.Errorf("where the command was given: left over: %q", left)
	}
	for _, h := range s.Hosts() {
		if left := sas(t, h) + policies(t, h); left != "" {
			t.Errorf("host %s: %s", h.Name, left)
		}
		s.mustBeQuiet(t, h)
		// The device keeps a table of its own, without any of the tunnel's in it.
		if now := h.Command("nft", "list", "ruleset").Stdout; strings.Contains(now, "inet espalier") || strings.Contains(now, "192.168.1.") {
			t.Errorf("host %s: rules are left:\n%s", h.Name, now)
		}
	}
	if !s.A.Ping(lab.B4, 1) {
		t.Error("the hosts do not reach each other any more")
	}
}

// mustBeQuiet looks for processes of a change on a host. Those that end by themselves are not waited for:
// only those that the machine has not had the time to end.
func (s *site) mustBeQuiet(t *testing.T, h *lab.Host) {
	t.Helper()
	var left []string
	for start := time.Now(); time.Since(start) < 30*time.Second; time.Sleep(50 * time.Millisecond) {
		if left = processes(t, h); len(left) == 0 {
			return
		}
	}
	t.Errorf("host %s: processes are left: %q", h.Name, left)
}

// processes are those of espalier in a host's network namespace, besides its device.
func processes(t *testing.T, h *lab.Host) (left []string) {
	t.Helper()
	ns := inode(t, h)
	all, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, p := range all {
		var st unix.Stat_t
		if unix.Stat(p, &st) != nil || st.Ino != ns {
			continue
		}
		program, _ := os.Readlink(strings.TrimSuffix(p, "ns/net") + "exe")
		b, err := os.ReadFile(strings.TrimSuffix(p, "ns/net") + "cmdline")
		words := strings.Split(string(b), "\x00")
		if err == nil && strings.Contains(program, "espalier") && len(words) > 1 && words[1] != "dataplane" {
			left = append(left, strings.TrimSpace(strings.Join(words, " ")))
		}
	}
	return left
}

// files are those in a host's state directory that are not the record of used keys, and directories but the
// state directory itself.
func (s *site) files(t *testing.T, h *lab.Host) (names []string) {
	t.Helper()
	err := filepath.WalkDir(s.state(h), func(path string, d fs.DirEntry, err error) error {
		if err == nil && path != s.state(h) && !strings.HasPrefix(d.Name(), "used") {
			names = append(names, strings.TrimPrefix(path, s.state(h)))
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return names
}
