package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"espalier/test/lab"
)

// TestGone: a host that cannot be reached any more does not lock the other one in. Commands are given on a third.
func TestGone(t *testing.T) {
	t.Parallel()
	s := newManaged(t)
	s.write(t, managed+"    bypass: [icmp, tcp/22]\n") // probes find another way
	s.must(t, "apply", "--grace", "0s")
	s.moves(t)
	s.path = t.TempDir()
	real, err := exec.LookPath("ssh")
	if err != nil {
		t.Fatal(err)
	}
	unreachable := "#!/bin/sh\ncase \"$*\" in *root@db2*) echo 'ssh: connect to host db2 port 22: No route to host' >&2; exit 255;; esac\nexec " + real + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(s.path, "ssh"), []byte(unreachable), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		code  int
		words string
		args  []string
	}{
		{1, "No route to host", []string{"rotate", "--due"}},
		{1, "down " + s.file + " --without root@db2\n", []string{"down"}},
		{1, "plan " + s.file + " --without root@db2\n", []string{"plan"}},
		{1, "has no two hosts that are left", []string{"plan", "--without", "db2"}},
		{1, "has no two hosts that are left", []string{"apply", "--without", "db2"}},
		{2, "has no host db3", []string{"down", "--without", "db3"}},
		{0, "root@db2 was left out: what it has stays", []string{"down", "--without", "db2"}},
		{0, "no tunnel of " + s.file, []string{"down", "--without", "db2"}},
	} {
		cmd, out := s.start(t, c.args[0], c.args[1:]...)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(out.String(), c.words) {
			t.Errorf("%q: exit %d\n%s", c.args, code, out)
		}
		t.Logf("%q\n%s", c.args, out)
	}
	if left := sas(t, s.A) + policies(t, s.A); left != "" {
		t.Errorf("host A is left with\n%s", left)
	}
	if left := policies(t, s.B); left == "" {
		t.Error("host B has nothing left")
	}
	s.path = ""
	s.must(t, "apply", "--grace", "0s")
	s.leavesTheFile(t)
}

// moves: a file under another name takes the tunnels over as they are, called otherwise as well, without traffic
// seeing anything of it, and the timer leaves them to it.
func (s *site) moves(t *testing.T) {
	t.Helper()
	former := s.file
	text, err := os.ReadFile(former)
	if err != nil {
		t.Fatal(err)
	}
	before := ids(sas(t, s.A)) + policies(t, s.A)
	text = []byte(strings.Replace(string(text), "name: db", "name: data", 1))
	s.file = filepath.Join(filepath.Dir(former), "moved.yaml")
	if err := os.WriteFile(s.file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	pinged := make(chan lab.Result)
	go func() { pinged <- s.A.Command("ping", "-q", "-i", "0.02", "-c", "100", "-W", "20", lab.B4.String()) }()
	s.must(t, "apply", "--adopt")
	if r := <-pinged; !strings.Contains(r.Stdout, "100 received") {
		t.Errorf("ping while the file was moved: %s%s", r.Stdout, r.Stderr)
	}
	s.must(t, "plan", "--exit-code")
	if after := ids(sas(t, s.A)) + policies(t, s.A); after != before {
		t.Errorf("other SAs or policies after the file was moved:\n%s\n%s", before, after)
	}
	moved := s.file
	s.file = former
	if out := s.must(t, "rotate", "--due"); !strings.Contains(out, "moved.yaml now") {
		t.Errorf("%s", out)
	}
	s.file = moved
}

// leavesTheFile: a host that is taken out of the file loses what it has of it, if not at once then by the next
// change that reaches it.
func (s *site) leavesTheFile(t *testing.T) {
	t.Helper()
	const without = `tunnels:
  - name: db
    hosts: [{address: 192.168.1.64, dev: p4p1, ssh: root@db1}, {address: 192.168.1.99, dev: p4p1, ssh: root@db9}]
`
	if err := os.WriteFile(s.file, []byte(without), 0o600); err != nil {
		t.Fatal(err)
	}
	out := s.must(t, "apply", "--without", "db9", "--without", "db2")
	if !strings.Contains(out, "root@db2 was left out") || sas(t, s.A)+policies(t, s.A) != "" || policies(t, s.B) == "" {
		t.Errorf("host B is not in the file any more, and not asked:\n%s\nhost A:\n%s", out, policies(t, s.A))
	}
	s.must(t, "apply", "--without", "db9")
	if left := sas(t, s.B) + policies(t, s.B); left != "" {
		t.Errorf("host B is left with\n%s", left)
	}
	s.must(t, "down", "--without", "db9")
	s.mustBeBare(t)
}
