package deploy

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"espalier/internal/wire"
	"espalier/ipsec"
	"espalier/test/lab"
)

// TestReboot: a host whose ssh goes by the address that is protected is booted anew, and gets its tunnel back. In
// between nothing but ssh goes in clear.
func TestReboot(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.impatient(t)
	s.must(t, "apply", "--grace", "0s")
	s.reboot(t, s.B)
	leaks := s.watchLeaks(t)
	if s.A.Ping(lab.B4, 1) || s.B.Ping(lab.A4, 1) {
		t.Error("the hosts talk although one of them has no SAs")
	}

	// What was killed is taken back by who comes later.
	cmd, out := s.start(t, "rotate", "--due", "--grace", "0s", "--confirm-timeout", "8s")
	out.await(t, "ssh goes outside of it until the tunnel is back")
	cmd.Process.Kill()
	cmd.Wait()
	for start := time.Now(); strings.Contains(policies(t, s.A), "port 2222"); time.Sleep(100 * time.Millisecond) {
		if time.Since(start) > time.Minute {
			t.Fatalf("policies for ssh are left:\n%s", policies(t, s.A))
		}
	}

	cmd, out = s.start(t, "rotate", "--due", "--grace", "0s")
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit %d\n%s", code, out)
	}
	t.Logf("%s", out)
	if leaked := leaks(); leaked.ssh == 0 || leaked.others > 0 {
		t.Errorf("in clear: %+v", leaked)
	}
	s.mustTalk(t)
	for _, h := range s.Hosts() {
		if now := h.Command("nft", "list", "table", "inet", "espalier"); now.Code != 0 || strings.Contains(now.Stdout, "2222") {
			t.Errorf("host %s lets ssh pass still:\n%s%s", h.Name, now.Stdout, now.Stderr)
		}
		if strings.Contains(policies(t, h), "port 2222") {
			t.Errorf("host %s has policies for ssh still:\n%s", h.Name, policies(t, h))
		}
	}
	leaks = s.watchLeaks(t)
	s.must(t, "plan", "--exit-code")
	if leaked := leaks(); leaked.ssh+leaked.others > 0 {
		t.Errorf("in clear with the tunnel back: %+v", leaked)
	}

	// Both have lost it: ssh goes in clear at both ends.
	s.reboot(t, s.A)
	s.reboot(t, s.B)
	leaks = s.watchLeaks(t)
	if s.A.Ping(lab.B4, 1) || s.B.Ping(lab.A4, 1) {
		t.Error("the hosts talk although they have no SAs")
	}
	s.must(t, "rotate", "--due", "--grace", "0s")
	if leaked := leaks(); leaked.ssh == 0 || leaked.others > 0 {
		t.Errorf("in clear after a boot of both: %+v", leaked)
	}
	s.mustTalk(t)
}

// reboot takes a host's device and rules away, and has it boot.
func (s *site) reboot(t *testing.T, h *lab.Host) {
	t.Helper()
	h.Kill()
	h.Must("nft", "flush", "ruleset")
	dirs, err := filepath.Glob(filepath.Join(s.state(h), "tunnels*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("the state of host %s: %q, %v", h.Name, dirs, err)
	}
	h.Must("env", "ESPALIER_STATE_DIR="+s.state(h), lab.Binary(t), "boot", "--dir", dirs[0])
	s.startDevice(t, h)
}

// impatient has ssh give up soon.
func (s *site) impatient(t *testing.T) {
	t.Helper()
	s.path = t.TempDir()
	real, err := exec.LookPath("ssh")
	if err == nil {
		err = os.WriteFile(filepath.Join(s.path, "ssh"), []byte("#!/bin/sh\nexec "+real+" -o ConnectTimeout=3 \"$@\"\n"), 0o700) // the first value counts
	}
	if err != nil {
		t.Fatal(err)
	}
}

// leaked are packets that went in clear.
type leaked struct{ ssh, others uint64 }

// watchLeaks counts them until the function that it returns is called.
func (s *site) watchLeaks(t *testing.T) (stop func() leaked) {
	t.Helper()
	all := s.Watch(s.A, nil)
	port, between := ipsec.Port(2222), netip.MustParsePrefix("192.168.1.64/31")
	var ssh *wire.Watcher
	err := s.A.Do(func() (err error) {
		ssh, err = wire.Watch(s.Device, wire.Classifier{Protected: []ipsec.Selector{
			{Src: between, Dst: between, Protocol: 6, DstPort: port}, {Src: between, Dst: between, Protocol: 6, SrcPort: port},
		}}, nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return func() leaked {
		a, errA := all.Stop()
		b, errB := ssh.Stop()
		if errA != nil || errB != nil || a.Dropped+b.Dropped > 0 {
			t.Fatalf("the taps: %v, %v, %+v, %+v", errA, errB, a, b)
		}
		return leaked{b.Cleartext, a.Cleartext - b.Cleartext}
	}
}
