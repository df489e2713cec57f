package remote

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"espalier/remote"
	"espalier/test/lab"
)

func TestCopied(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	c, s := r.ask(t, "db2")
	if !strings.HasPrefix(s.Path, "/tmp/espalier.") || s.UID != 0 {
		t.Errorf("%+v", s)
	}
	if got := c.Session(); got.Client != lab.A4 || got.Server != lab.B4 || got.Port != 2222 {
		t.Errorf("%+v", got)
	}
	if entries, err := os.ReadDir(r.server.Path("/tmp")); err != nil || len(entries) != 0 {
		t.Errorf("while it runs: %v %v", entries, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	r.server.MustBeClean(t)
}

func TestFound(t *testing.T) {
	t.Parallel()
	r := newRig(t, "mount -t tmpfs none /usr/local/bin; cp "+program(t)+" /usr/local/bin/espalier")
	c, s := r.ask(t, "db2")
	if s.Path != "/usr/local/bin/espalier" {
		t.Errorf("%+v", s)
	}
	c.Close()
	if _, err := os.Stat(r.server.Path("/usr/local/bin/espalier")); err != nil {
		t.Error(err)
	}
	r.server.MustBeClean(t)
}

// TestAnotherFound: another espalier there is left alone.
func TestAnotherFound(t *testing.T) {
	t.Parallel()
	r := newRig(t, "mount -t tmpfs none /usr/local/bin; cp /bin/false /usr/local/bin/espalier")
	c, s := r.ask(t, "db2")
	if !strings.HasPrefix(s.Path, "/tmp/espalier.") {
		t.Errorf("%+v", s)
	}
	c.Close()
	r.server.MustBeClean(t)
}

// TestKilled: ssh is killed while an operation is under way.
func TestKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	var kill func()
	r.opt.SSH, kill = wrapped(t)
	c, _ := r.ask(t, "db2")
	_, err := remote.Call[bool](t.Context(), c, "hold", "/root/held", func(string) {
		if _, err := os.Stat(r.server.Path("/root/held")); err != nil {
			t.Error(err)
		}
		kill()
	})
	mustFail(t, err, remote.Lost, "")
	r.server.MustBeClean(t)
}

// TestServerStops: what the server says at the end is told.
func TestServerStops(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	c, _ := r.ask(t, "db2")
	_, err := remote.Call[bool](t.Context(), c, "hold", "/root/held", func(string) { r.server.Kill() })
	mustFail(t, err, remote.Lost, "db2")
}

// TestPlaces: the copy goes where a program can be run, and has room.
func TestPlaces(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ setup, want string }{
		"noexec":     {`noexec="/tmp"`, "/var/tmp/espalier."},
		"no room":    {`small="/tmp"`, "/var/tmp/espalier."},
		"only shm":   {`noexec="/tmp" small="/var/tmp"`, "/dev/shm/espalier."},
		"only home":  {`noexec="/tmp /var/tmp /dev/shm"`, "/root/espalier."},
		"none is so": {`noexec="/tmp /dev/shm" small="/var/tmp /root"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.setup)
			conn, err := r.dial(t, "db2")
			if c.want == "" {
				mustFail(t, err, remote.Unsuited, "no directory there takes a program of")
			} else if err != nil {
				t.Error(err)
			} else {
				s, err := remote.Call[self](t.Context(), conn, "self", struct{}{}, nil)
				if err != nil || !strings.HasPrefix(s.Path, c.want) {
					t.Errorf("%+v, %v", s, err)
				}
				conn.Close()
			}
			r.server.MustBeClean(t)
		})
	}
}

// TestNoise: what a login's shell prints before the command.
func TestNoise(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		setup  string
		reason remote.Reason
		words  string
	}{
		"bashrc":      {setup: `printf 'echo "Welcome to db2"; printf "no end of line"; echo "watch out" >&2\n' >bashrc`},
		"banner":      {setup: `echo 'Monitored.' >banner; echo 'Banner /run/sshd/banner' >>sshd_config`},
		"long bashrc": {setup: `echo 'seq 5000' >bashrc`},
		"endless":     {`echo 'while :; do echo menu; done' >bashrc`, remote.Unexpected, `"menu"`},
		"exit":        {`echo 'echo "no commands here"; exit 4' >bashrc`, remote.Unexpected, `"no commands here" and ends with status 4`},
		"forced":      {`echo 'ForceCommand echo "only rsync"' >>sshd_config`, remote.Unexpected, `"only rsync"`},
		"nologin":     {`sed -i 's|^root:\(.*\):[^:]*$|root:\1:/usr/sbin/nologin|' passwd`, remote.Unexpected, "This account is currently not available."},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.setup)
			conn, err := r.dial(t, "db2")
			if c.reason != "" {
				mustFail(t, err, c.reason, c.words)
			} else if err != nil {
				t.Error(err)
			} else if err := conn.Close(); err != nil {
				t.Error(err)
			}
			r.server.MustBeClean(t)
		})
	}
}

// TestRefused: why ssh does not get there.
func TestRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, "")
	r.ssh.Host("elsewhere", "HostName "+lab.B4.String(), "Port 2223")
	r.ssh.Host("nobody", "HostName 192.168.1.99")
	r.ssh.Host("silent", "HostName "+lab.B6.String())
	r.ssh.Host("stranger", "HostName "+lab.B4.String(), "User stranger")
	r.ssh.Host("unknown", "HostName "+lab.B4.String(), "UserKnownHostsFile /dev/null")
	r.ssh.Key("another")
	wrong := filepath.Join(r.ssh.Dir, "wrong")
	known, err := os.ReadFile(filepath.Join(r.ssh.Dir, "another.pub"))
	if err == nil {
		err = os.WriteFile(wrong, append([]byte("["+lab.B4.String()+"]:2222 "), known...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.ssh.Host("changed", "HostName "+lab.B4.String(), "UserKnownHostsFile "+wrong)
	r.ssh.Host("misspelt", "Hostnam "+lab.B4.String())
	r.B.Must("nft", "add table inet t; add chain inet t c { type filter hook input priority 0; }; add rule inet t c meta nfproto ipv6 tcp dport 2222 drop")
	r.opt.Connect = 2 * time.Second
	_, err = r.dial(t, "misspelt")
	mustFail(t, err, remote.Misused, "onfiguration option")
	config, err := os.ReadFile(r.ssh.Config)
	if err == nil {
		err = os.WriteFile(r.ssh.Config, []byte(strings.Replace(string(config), "Hostnam ", "HostName ", 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host   string
		reason remote.Reason
		words  string
	}{
		{"elsewhere", remote.Unreachable, "Connection refused"},
		{"nobody", remote.Unreachable, "192.168.1.99"},
		{"silent", remote.Unreachable, "timed out"},
		{"nowhere.invalid", remote.Unreachable, "Could not resolve hostname"},
		{"stranger", remote.Denied, "Permission denied (publickey)"},
		{"unknown", remote.Unverified, "Connect once with ssh unknown"},
		{"changed", remote.Unverified, "ssh-keygen -R"},
	} {
		_, err := r.dial(t, c.host)
		mustFail(t, err, c.reason, c.words)
	}
	c, _ := r.ask(t, "db2") // the control: nothing but that stood in the way
	c.Close()
	r.server.MustBeClean(t)
}

const ordinary = `
echo 'ada:x:4242:4242::/root:/bin/sh' >>passwd; echo 'ada:*:19000::::::' >>shadow; echo 'ada:x:4242:' >>group
printf 'root ALL=(ALL) ALL\n%s\n' "$sudo" >sudoers; chmod 440 sudoers; mount --bind sudoers /etc/sudoers
`

// TestSudo is Debian's sudo, and a login that is not root's.
func TestSudo(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "sudo")
	for name, c := range map[string]struct {
		sudo string
		root remote.Root
		uid  int // -1: refused
	}{
		"no need":               {"ada ALL=(root) NOPASSWD: ALL", remote.AsLogin, 4242},
		"may, if it can":        {"ada ALL=(root) NOPASSWD: ALL", remote.RootIfCan, 0},
		"may, and must":         {"ada ALL=(root) NOPASSWD: ALL", remote.RootRequired, 0},
		"password, if it can":   {"ada ALL=(root) ALL", remote.RootIfCan, 4242},
		"password, and must":    {"ada ALL=(root) ALL", remote.RootRequired, -1},
		"not allowed, and must": {"", remote.RootRequired, -1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "sudo='"+c.sudo+"'"+ordinary)
			r.ssh.Host("ada", "HostName "+lab.B4.String(), "User ada")
			r.opt.Root = c.root
			conn, err := r.dial(t, "ada")
			if c.uid < 0 {
				mustFail(t, err, remote.NotRoot, "sudo -n was refused (sudo: ")
			} else if err != nil {
				t.Error(err)
			} else {
				s, err := remote.Call[self](t.Context(), conn, "self", struct{}{}, nil)
				if err != nil || s.UID != c.uid {
					t.Errorf("%+v, %v", s, err)
				}
				conn.Close()
			}
			r.server.MustBeClean(t)
		})
	}
}
