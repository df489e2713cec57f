package remote

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/test/lab"
)

// terminal is a program on a terminal of its own, and who sits there.
type terminal struct {
	cmd  *exec.Cmd
	keys io.Writer
	seen string
	out  io.Reader
}

// onTerminal runs espalier on host A.
func (r *rig) onTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	lab.Tools(t, "script")
	x := &terminal{cmd: exec.Command("script", "-qefc", lab.Binary(t)+" "+strings.Join(args, " "), "/dev/null")}
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	x.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	keys, err := x.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if x.out, err = x.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	x.keys = keys
	if err := r.A.Start(x.cmd); err != nil {
		t.Fatal(err)
	}
	stop := time.AfterFunc(time.Minute, func() { x.cmd.Process.Kill() })
	t.Cleanup(func() {
		stop.Stop()
		x.cmd.Process.Kill()
		x.cmd.Wait()
	})
	return x
}

// await reads until words appear, and forgets what was before them.
func (x *terminal) await(t *testing.T, words string) {
	t.Helper()
	buffer := make([]byte, 1000)
	for !strings.Contains(x.seen, words) {
		n, err := x.out.Read(buffer)
		x.seen += string(buffer[:n])
		if err != nil {
			t.Fatalf("no %q: %v\n%s", words, err, x.seen)
		}
	}
	_, x.seen, _ = strings.Cut(x.seen, words)
}

func (x *terminal) end(t *testing.T) (rest string, code int) {
	t.Helper()
	b, _ := io.ReadAll(x.out) // a terminal ends with an error
	x.cmd.Wait()
	return x.seen + string(b), x.cmd.ProcessState.ExitCode()
}

// TestPassword: ssh asks for passwords on the terminal, for one host after the other, and Ctrl-C ends
// that. Without a terminal nothing waits.
func TestPassword(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "openssl", "setsid")
	const setup = `echo 'PasswordAuthentication yes' | cat - sshd_config >c; mv c sshd_config
sed -i "s|^root:[^:]*:|root:$(openssl passwd -6 -salt salt geheim):|" shadow`
	r := newRig(t, setup)
	for _, name := range []string{"one", "two"} {
		r.ssh.Host(name, "HostName "+lab.B4.String(), "PubkeyAuthentication no")
	}
	doctor := []string{"doctor", "--ssh-config", r.ssh.Config, "--host", "one,two"}

	x := r.onTerminal(t, doctor...)
	for range 2 {
		x.await(t, "password:")
		io.WriteString(x.keys, "geheim\n")
	}
	got, code := x.end(t)
	if strings.Contains(got, "geheim") || !strings.Contains(got, "\none ") || !strings.Contains(got, "\ntwo ") || strings.Contains(got, "refused") || code != exitOfWorst(got) {
		t.Errorf("exit %d\n%s", code, got)
	}
	r.server.MustBeClean(t)

	x = r.onTerminal(t, doctor...)
	x.await(t, "password:")
	io.WriteString(x.keys, "\x03")
	if got, code := x.end(t); code != 130 {
		t.Errorf("Ctrl-C at the prompt: exit %d\n%s", code, got)
	}

	without := r.A.Command("setsid", append([]string{"--wait", lab.Binary(t)}, doctor...)...)
	if without.Code != 4 || strings.Count(without.Stdout, "login refused: root@192.168.1.65: Permission denied") != 2 {
		t.Errorf("without a terminal: exit %d\n%s%s", without.Code, without.Stdout, without.Stderr)
	}
	r.server.MustBeClean(t)
}
