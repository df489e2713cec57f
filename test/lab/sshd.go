package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// SSH is the keys and the ssh configuration by which the hosts of a test reach each other.
type SSH struct {
	Dir    string
	Config string // for ssh -F
	t      testing.TB
}

// sshPort is not 22, so that nobody's own server is met.
const sshPort = 2222

// NewSSH makes keys and an ssh configuration without any host.
func NewSSH(t testing.TB) *SSH {
	t.Helper()
	Tools(t, "ssh", "ssh-keygen", "unshare", sshd)
	s := &SSH{Dir: t.TempDir(), t: t}
	s.Config = filepath.Join(s.Dir, "config")
	s.Key("id")
	along := ""
	if os.Getenv("GORACE") != "" { // else ssh is as people have it
		along = " SendEnv GORACE\n"
	}
	s.write("config", "Host *\n IdentitiesOnly yes\n IdentityFile "+s.path("id")+"\n IdentityAgent none\n Port "+fmt.Sprint(sshPort)+
		"\n User root\n UserKnownHostsFile "+s.path("known_hosts")+"\n GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n"+along)
	return s
}

const sshd = "/usr/sbin/sshd"

func (s *SSH) path(name string) string { return filepath.Join(s.Dir, name) }

func (s *SSH) write(name, text string) {
	s.t.Helper()
	f, err := os.OpenFile(s.path(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// Key makes a key pair and returns the public one.
func (s *SSH) Key(name string) string {
	s.t.Helper()
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", s.path(name)).CombinedOutput(); err != nil {
		s.t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	b, err := os.ReadFile(s.path(name + ".pub"))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// Host adds a block to the configuration: lines for one name.
func (s *SSH) Host(name string, lines ...string) {
	s.t.Helper()
	b, err := os.ReadFile(s.Config)
	if err != nil {
		s.t.Fatal(err)
	}
	// The first value counts: what is said of one host stands before what is said of all.
	block := "Host " + name + "\n " + strings.Join(lines, "\n ") + "\n"
	if err := os.WriteFile(s.Config, append([]byte(block), b...), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// Known says that the server called name at an address has the key of the file keyName.
func (s *SSH) Known(at netip.Addr, keyName string) {
	s.t.Helper()
	b, err := os.ReadFile(s.path(keyName + ".pub"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("known_hosts", fmt.Sprintf("[%s]:%d %s", at, sshPort, b))
}

// SSHServer is an OpenSSH server on a host, in a world of its own: /tmp, /var/tmp, /dev/shm and /root
// are empty, and nothing it changes is this machine's.
type SSHServer struct {
	cmd *exec.Cmd
	pid int // of the world's first process, seen from here
	log *syncBuffer
}

// Serve starts a server on h, reachable at an address by the name. setup are shell commands that are
// run in the server's world first, in a directory that has sshd_config, authorized_keys, passwd, shadow
// and group in it, and may get a bashrc; what they set noexec and small to are the directories of the
// world that are to be so.
func (s *SSH) Serve(h *Host, name string, at netip.Addr, setup string) *SSHServer {
	s.t.Helper()
	key := name + "-host-key"
	s.Key(key)
	s.Known(at, key)
	s.Host(name, "HostName "+at.String())
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		s.t.Fatal(err)
	}
	world := `set -e
mount -t tmpfs -o mode=755 none /run/sshd
cp ` + s.path(key) + ` /run/sshd/host_key; cp ` + s.path("id.pub") + ` /run/sshd/authorized_keys
chmod 600 /run/sshd/host_key; chmod 644 /run/sshd/authorized_keys; cd /run/sshd
noexec= small=
cat >sshd_config <<END
ListenAddress ` + netip.AddrPortFrom(at, sshPort).String() + `
HostKey /run/sshd/host_key
AuthorizedKeysFile /run/sshd/authorized_keys
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
AcceptEnv GORACE
END
cp /etc/passwd /etc/shadow /etc/group .
grep -q ^sshd: passwd || echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin' >>passwd
` + setup + `
for f in passwd shadow group; do mount --bind $f /etc/$f; done
for d in /tmp /var/tmp /dev/shm /root; do
	o=size=500m
	case " $small " in *" $d "*) o=size=1m ;; esac
	case " $noexec " in *" $d "*) o=$o,noexec ;; esac
	mount -t tmpfs -o $o none $d
done
[ ! -e bashrc ] || cp bashrc /root/.bashrc
exec ` + sshd + ` -D -e -f /run/sshd/sshd_config`
	v := &SSHServer{log: &syncBuffer{}}
	v.cmd = exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child=KILL", "sh", "-c", world)
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	v.cmd.Env = append(os.Environ(), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	v.cmd.Stderr, v.cmd.Stdout = v.log, v.log
	if err := h.Start(v.cmd); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		v.cmd.Process.Kill()
		v.cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("ssh server %s said:\n%s", name, v.log.String())
		}
	})
	for start := time.Now(); !strings.Contains(v.log.String(), "Server listening"); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			s.t.Fatalf("ssh server %s does not listen:\n%s", name, v.log.String())
		}
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", v.cmd.Process.Pid))
	if err == nil {
		_, err = fmt.Sscan(string(children), &v.pid)
	}
	if err != nil {
		s.t.Fatalf("ssh server %s: its first process: %v", name, err)
	}
	return v
}

// Kill ends the server, its connections, and all else in its world.
func (v *SSHServer) Kill() { v.cmd.Process.Kill() }

// PID is that of the server, the first process of its world, seen from here.
func (v *SSHServer) PID() int { return v.pid }

// Path is a path of the server's world, seen from here.
func (v *SSHServer) Path(path string) string { return fmt.Sprintf("/proc/%d/root%s", v.pid, path) }

// Left lists what is in the places for temporary files, and runs besides the server and the
// connections it still has.
func (v *SSHServer) Left() (left []string) {
	for _, dir := range []string{"/tmp", "/var/tmp", "/dev/shm", "/root"} {
		entries, err := os.ReadDir(v.Path(dir))
		if err != nil {
			left = append(left, err.Error())
		}
		for _, e := range entries {
			if e.Name() != ".bashrc" {
				left = append(left, filepath.Join(dir, e.Name()))
			}
		}
	}
	processes, _ := filepath.Glob(v.Path("/proc/[0-9]*/comm"))
	for _, p := range processes {
		if b, err := os.ReadFile(p); err == nil && !strings.HasPrefix(string(b), "sshd") {
			left = append(left, strings.TrimSpace(string(b)))
		}
	}
	return left
}

// MustBeClean waits until nothing is left in the server's world.
func (v *SSHServer) MustBeClean(t testing.TB) {
	t.Helper()
	var left []string
	for range 1000 {
		if left = v.Left(); left == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("left over: %q", left)
}
