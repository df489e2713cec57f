package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/test/lab"
)

// TestCut kills the command, or the ssh it goes by, when a step has been done on the far host. In the end
// both hosts have the same SAs, talk, and nothing of a tunnel that was there has been sent in clear. (Where
// one host alone has confirmed, that takes minutes: see package deploy/host's tests.)
func TestCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		command string // what is cut: apply where there is nothing, or rotate or down of what is there
		at      string // after this line of the far host
		how     string
	}{
		{"first apply begun, command killed", "apply", "ready, and undoes", "kill"},
		{"first apply sends, command killed", "apply", "sends by ESP only", "kill"},
		{"first apply requires, ssh killed", "apply", "takes nothing in clear", "ssh"},
		{"first apply guarded, command killed", "apply", "guarded", "kill"},
		{"first apply requires, command interrupted", "apply", "takes nothing in clear", "interrupt"},
		{"rotation begun, command interrupted", "rotate", "1 inbound SA", "interrupt"},
		{"rotation half way, command killed", "rotate", "1 outbound SA", "kill"},
		{"rotation half way, ssh killed", "rotate", "1 outbound SA", "ssh"},
		{"rotation proven, command killed", "rotate", "can be reached anew", "kill"},
		{"down half way, command killed", "down", "sends in clear again", "kill"},
		{"down half way, ssh killed", "down", "sends in clear again", "ssh"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cut(t, c.command, c.at, c.how)
		})
	}
}

func cut(t *testing.T, command, at, how string) {
	s := newSite(t)
	kill := s.wrapSSH(t)
	if command != "apply" {
		s.must(t, "apply", "--grace", "0s")
	}
	w := s.Watch(s.A, nil)
	before := ids(sas(t, s.A))
	args := []string{"--confirm-timeout", "20s"} // by then as much must have been done, on a busy machine too
	if command != "down" {
		args = append(args, "--grace", "1s")
	}
	cmd, out := s.start(t, command, args...)
	out.await(t, "[#] root@db2: "+at)
	switch how {
	case "kill":
		cmd.Process.Kill()
	case "interrupt":
		cmd.Process.Signal(syscall.SIGINT)
	case "ssh":
		kill()
	}
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); how == "interrupt" && (code != 130 || !strings.Contains(out.String(), "\n  root@db2: ")) { // undone, or that it does so by itself
		t.Errorf("exit %d\n%s", code, out)
	}
	s.mustConverge(t)
	counts, err := w.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if command == "rotate" && counts.Cleartext > 0 {
		t.Errorf("in clear: %+v", counts)
	}
	t.Logf("exit %d; SAs before\n%sand after\n%s%s", cmd.ProcessState.ExitCode(), before, ids(sas(t, s.A)), out)
	// Whatever it came to, it can be gone on with.
	s.must(t, "apply", "--grace", "0s")
	s.mustTalk(t)
	if command == "down" {
		s.must(t, "down")
		s.mustBeBare(t)
	}
}

// mustConverge waits until the change has come to the same end on both hosts, and they have the same SAs
// and talk.
func (s *site) mustConverge(t *testing.T) {
	t.Helper()
	var said string
	for start := time.Now(); time.Since(start) < 3*time.Minute; time.Sleep(100 * time.Millisecond) {
		a, b := s.stage(t, s.A), s.stage(t, s.B)
		sasA, sasB := sorted(ids(sas(t, s.A))), sorted(ids(sas(t, s.B)))
		if said = fmt.Sprintf("A: %s\n%sB: %s\n%s", a, sasA, b, sasB); ended(a, b) && sasA == sasB {
			if !s.A.Ping(lab.B4, 1) || !s.B.Ping(lab.A4, 1) {
				t.Errorf("the hosts do not talk:\n%s", said)
			}
			t.Logf("after %s: %s", time.Since(start).Round(100*time.Millisecond), a)
			return
		}
	}
	t.Errorf("the hosts do not agree:\n%s", said)
}

// ended reports whether a change has come to the same end on both hosts. It may have begun on one alone.
func ended(a, b string) bool {
	if a == "" || b == "" {
		a = max(a, b)
		return a == "" || a == "undone"
	}
	return a == b && (a == "finished" || a == "undone")
}

// stage is how far the last change has come on a host, by its journal; "" if there is none.
func (s *site) stage(t *testing.T, h *lab.Host) string {
	t.Helper()
	journals, _ := filepath.Glob(filepath.Join(s.state(h), "tunnels*", "journal.json"))
	if len(journals) == 0 {
		return ""
	}
	b, err := os.ReadFile(journals[0])
	if os.IsNotExist(err) {
		return ""
	}
	var journal struct{ Change struct{ Stage string } }
	if err == nil {
		err = json.Unmarshal(b, &journal)
	}
	if err != nil {
		t.Fatal(err)
	}
	return journal.Change.Stage
}

func sorted(lines string) string {
	all := slices.Sorted(strings.Lines(lines))
	return strings.Join(all, "")
}

// wrapSSH has ssh run by a script that says its process id; kill ends the one that was started last.
func (s *site) wrapSSH(t *testing.T) (kill func()) {
	t.Helper()
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	real, err := exec.LookPath("ssh")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "ssh"), []byte("#!/bin/sh\necho $$ >"+pid+"\nexec "+real+" \"$@\"\n"), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.path = dir
	return func() {
		var n int
		b, err := os.ReadFile(pid)
		if err == nil {
			_, err = fmt.Sscan(string(b), &n)
		}
		if err == nil {
			err = syscall.Kill(n, syscall.SIGKILL)
		}
		if err != nil {
			t.Error(err)
		}
	}
}
