package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain makes an agent of this executable where the bootstrap starts it as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == AgentCommand {
		nonce := os.Args[len(os.Args)-1]
		if err := ServeStdio(context.Background(), nonce, os.Args[2] == "--copy", agentOperations); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 2 && os.Args[1] == "version" {
		os.Exit(0)
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // of the far sides
	os.Exit(m.Run())
}

// where is what an agent says of itself.
type where struct {
	Path string
	PID  int
	Env  string
}

var agentOperations = Operations{
	"where": JSON(func(context.Context, struct{}, Progress) (where, error) {
		path, err := os.Executable()
		return where{strings.TrimSuffix(path, " (deleted)"), os.Getpid(), strings.Join(os.Environ(), "\n")}, err
	}),
	"complain": JSON(func(_ context.Context, text string, _ Progress) (bool, error) {
		fmt.Fprint(os.Stderr, text)
		return true, nil
	}),
	// touch makes a file, and takes it away when nobody is there any longer.
	"touch": JSON(func(ctx context.Context, path string, say Progress) (bool, error) {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return false, err
		}
		say("touched")
		<-ctx.Done()
		return true, os.Remove(path)
	}),
}

// fakeSSH is a script in the place of ssh: it runs the command that ssh would give to the login's
// shell. before comes first.
func fakeSSH(t *testing.T, shell, before string) Options {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ssh")
	script := "#!/bin/sh\nfor command; do :; done\n" + before + "\nexec " + shell + " -c \"$command\"\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return Options{SSH: path, Connect: time.Second}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// mustDial connects, and sees to it that nothing of the copy is left afterwards.
func mustDial(t *testing.T, opt Options) (*Conn, where) {
	t.Helper()
	ctx := within(t)
	c, err := Dial(ctx, "db2", opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	w, err := Call[where](ctx, c, "where", struct{}{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.Path, "/espalier.") {
		t.Fatalf("not a copy: %s", w.Path)
	}
	return c, w
}

func mustBeGone(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Lstat(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left over (%v)", p, err)
		}
	}
}

func mustEnd(t *testing.T, pid int) {
	t.Helper()
	for range 500 {
		if syscall.Kill(pid, 0) != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d lives on", pid)
}

// TestShells: whatever the login's shell is, and whatever it prints first.
func TestShells(t *testing.T) {
	noises := map[string]string{
		"quiet":       "",
		"motd":        `printf 'Welcome to db2\r\nLast login: today\r\n'`,
		"no line end": `printf 'motd without an end'`,
		"binary":      `head -c 20000 /dev/urandom | tr -d '\n'; echo`,
		"stderr":      `echo "This system is monitored." >&2`,
		"says it all": `echo "+ $command"`,
	}
	for _, shell := range []string{"sh", "bash", "dash", "zsh", "fish", "csh", "tcsh", "mksh", "busybox sh"} {
		name, _, _ := strings.Cut(shell, " ")
		if _, err := exec.LookPath(name); err != nil {
			continue
		}
		for what, noise := range noises {
			t.Run(shell+"/"+what, func(t *testing.T) {
				c, w := mustDial(t, fakeSSH(t, shell, noise))
				mustBeGone(t, w.Path, filepath.Dir(w.Path)) // while it runs
				if err := c.Close(); err != nil {
					t.Error(err)
				}
				mustEnd(t, w.PID)
			})
		}
	}
}

// TestFound: the same executable on the far side is used, another one is not.
func TestFound(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	installed := filepath.Join(dir, "espalier")
	if err := os.Symlink(self, installed); err != nil {
		t.Fatal(err)
	}
	opt := fakeSSH(t, "sh", "PATH="+dir+":$PATH")
	c, err := Dial(within(t), "db2", opt)
	if err != nil {
		t.Fatal(err)
	}
	w, err := Call[where](within(t), c, "where", struct{}{}, nil)
	if err != nil || w.Path != self {
		t.Errorf("%s, %v; want %s", w.Path, err, self)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(self); err != nil {
		t.Fatal("what was installed is gone")
	}
	if err := os.Remove(installed); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(installed, []byte("#!/bin/sh\necho another espalier\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	mustDial(t, opt)
	// Another one of the same size is found out once it runs.
	info, err := os.Stat(self)
	if err == nil {
		err = os.Truncate(installed, info.Size())
	}
	if err != nil {
		t.Fatal(err)
	}
	mustDial(t, opt)
}

// TestOtherMachine: no copy goes to another architecture; what is installed there may do.
func TestOtherMachine(t *testing.T) {
	dir := t.TempDir()
	put := func(name, script string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put("uname", `[ "$1" = -m ] && echo riscv64 || echo Linux`)
	opt := fakeSSH(t, "sh", "PATH="+dir+":$PATH")
	_, err := Dial(within(t), "db2", opt)
	mustFail(t, err, Unsuited, "it is riscv64, and this espalier is for "+machine())

	self, _ := os.Executable()
	put("espalier", "exec "+self+` "$@"`) // another file, and the same version
	c, err := Dial(within(t), "db2", opt)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()

	put("espalier", `echo 'there is no command "remote-agent"' >&2; exit 2`)
	_, err = Dial(within(t), "db2", opt)
	mustFail(t, err, Unexpected, `espalier did not start there: there is no command "remote-agent"`)

	put("uname", `[ "$1" = -m ] && echo x86_64 || echo FreeBSD`)
	_, err = Dial(within(t), "db2", opt)
	mustFail(t, err, Unsuited, "it runs FreeBSD")
}

func mustFail(t *testing.T, err error, reason Reason, words string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Reason != reason || !strings.Contains(err.Error(), words) {
		t.Errorf("%v; want %q: %q", err, reason, words)
	}
	if e != nil && e.Host != "db2" {
		t.Errorf("host %q", e.Host)
	}
}

// TestSSHFails: each of the ways in which ssh does not get there is a sentence.
func TestSSHFails(t *testing.T) {
	for _, c := range []struct {
		script string
		reason Reason
		words  string
	}{
		{`echo "ssh: Could not resolve hostname db2: Name or service not known" >&2; exit 255`, Unreachable, "Could not resolve hostname db2"},
		{`echo "ssh: connect to host db2 port 22: Connection refused" >&2; exit 255`, Unreachable, "Connection refused"},
		{`printf "ssh: connect to host db2 port 22: Connection timed out\r\n" >&2; exit 255`, Unreachable, "port 22: Connection timed out"},
		{`echo "root@db2: Permission denied (publickey,password)." >&2; exit 255`, Denied, "Permission denied (publickey,password)."},
		{`echo "Host key verification failed." >&2; exit 255`, Unverified, "Connect once with ssh db2"},
		{`printf "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\nHost key verification failed.\r\n" >&2; exit 255`, Unverified, "ssh-keygen -R"},
		{`echo "/root/.ssh/config: line 3: Bad configuration option: hots" >&2; exit 255`, Misused, "Bad configuration option: hots"},
		{`exit 255`, Misused, "did not say why"},
		{`echo "This account is currently not available."; exit 1`, Unexpected, `"This account is currently not available." and ends with status 1`},
		{`exit 0`, Unexpected, "status 0, without running a command"},
		{`printf 'evil \033]0;title\007 words\n' >&2; exit 3`, Unexpected, "evil  ]0;title  words"},
		{`while :; do echo menu: 1 2 3; done`, Unexpected, "menu: 1 2 3"},
	} {
		opt := fakeSSH(t, "sh", c.script)
		_, err := Dial(within(t), "db2", opt)
		mustFail(t, err, c.reason, c.words)
		if err != nil && strings.ContainsAny(err.Error(), "\033\007\r") {
			t.Errorf("%q goes to a terminal", err)
		}
	}
	_, err := Dial(within(t), "db2", Options{SSH: "/nowhere/ssh"})
	mustFail(t, err, Misused, "no such file")
	for _, bad := range []string{"", "-oProxyCommand=reboot", "--", "db2 reboot", "db2\nreboot", "db2\x7f"} {
		if _, err := Dial(within(t), bad, fakeSSH(t, "sh", "exit 0")); err == nil || !strings.Contains(err.Error(), "host") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestArguments: what ssh is told, whatever its configuration says. Nothing of the bootstrap
// needs more than single quotes around it.
func TestArguments(t *testing.T) {
	for _, root := range []Root{"", AsLogin, RootIfCan, RootRequired} {
		command := bootstrapCommand("nonce", root)
		inner := strings.TrimSuffix(strings.TrimPrefix(command, "exec sh -c '"), "'")
		if strings.ContainsAny(inner, "'\\!\n") || strings.Contains(inner, "@NONCE") || strings.Contains(inner, "r=;") {
			t.Errorf("not for every shell: %s", inner)
		}
	}
	args := strings.Join(sshArguments("db2", "command", Options{Config: "f", Fresh: true, Port: 2222, Identity: "~/k", Jump: "bastion"}, false), " ")
	for _, want := range []string{"-F f", "BatchMode=yes", "ConnectTimeout=10", "ClearAllForwardings=yes", "ControlPath=none", "-p 2222", "-i ~/k", "-J bastion", "-- db2 command"} {
		if !strings.Contains(args, want) {
			t.Errorf("no %q: %s", want, args)
		}
	}
	if args := sshArguments("db2", "command", Options{}, true); strings.Contains(strings.Join(args, " "), "BatchMode") {
		t.Errorf("ssh may not ask: %s", args)
	}
}

// TestTerminal: ssh asks only where it is necessary and somebody is there, one at a time.
func TestTerminal(t *testing.T) {
	const locked = `case $* in *BatchMode=yes*) echo "db2: Permission denied (password)." >&2; exit 255;; esac`
	opt := fakeSSH(t, "sh", locked)
	_, err := Dial(within(t), "db2", opt)
	mustFail(t, err, Denied, "Permission denied (password)")
	opt.Terminal = &sync.Mutex{}
	c, _ := mustDial(t, opt)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	// Two at a time would both be there.
	asks := filepath.Join(t.TempDir(), "asks")
	opt = fakeSSH(t, "sh", locked+"\nmkdir "+asks+` || { echo "somebody else is being asked" >&2; exit 255; }; sleep 0.3; rmdir `+asks)
	opt.Terminal = &sync.Mutex{}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			c, err := Dial(within(t), "db2", opt)
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
		})
	}
	all.Wait()
	opt = fakeSSH(t, "sh", `echo "ssh: connect to host db2 port 22: Connection refused" >&2; echo . >>`+filepath.Join(t.TempDir(), "tries")+`; exit 255`)
	opt.Terminal = failingLocker{t}
	_, err = Dial(within(t), "db2", opt)
	mustFail(t, err, Unreachable, "refused")
}

type failingLocker struct{ t *testing.T }

func (f failingLocker) Lock()   { f.t.Error("a person is asked, to no purpose") }
func (f failingLocker) Unlock() {}

// TestRoot: root by sudo -n, or a clear word. The sudo here is a script.
func TestRoot(t *testing.T) {
	dir := t.TempDir()
	put := func(name, script string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put("id", "echo 1000")
	opt := fakeSSH(t, "sh", "PATH="+dir+":$PATH; SUDOED=no; export SUDOED")
	sudoed := func(root Root) string {
		opt.Root = root
		c, err := Dial(within(t), "db2", opt)
		if err != nil {
			t.Error(err)
			return ""
		}
		defer c.Close()
		w, err := Call[where](within(t), c, "where", struct{}{}, nil)
		if err != nil {
			t.Error(err)
		}
		mustBeGone(t, filepath.Dir(w.Path))
		for line := range strings.Lines(w.Env) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "SUDOED="); ok {
				return v
			}
		}
		return ""
	}
	put("sudo", `[ "$1 $2" = "-n --" ] || exit 9; shift 2; SUDOED=yes; export SUDOED; exec "$@"`)
	for root, want := range map[Root]string{AsLogin: "no", RootIfCan: "yes"} {
		if got := sudoed(root); got != want {
			t.Errorf("%s: sudo %s, want %s", root, got, want)
		}
	}
	if os.Geteuid() == 0 {
		if got := sudoed(RootRequired); got != "yes" {
			t.Errorf("sudo %s", got)
		}
	}
	put("sudo", `echo "sudo: a password is required" >&2; exit 1`)
	if got := sudoed(RootIfCan); got != "no" {
		t.Errorf("sudo %s", got)
	}
	opt.Root = RootRequired
	_, err := Dial(within(t), "db2", opt)
	mustFail(t, err, NotRoot, "sudo: a password is required")
	mustFail(t, err, NotRoot, "NOPASSWD")
}

// TestStderr: what the far side says is passed on, line by line, and cannot write to the terminal.
func TestStderr(t *testing.T) {
	var said safeBuffer
	opt := fakeSSH(t, "sh", "")
	opt.Stderr = &said
	c, _ := mustDial(t, opt)
	if _, err := Call[bool](within(t), c, "complain", "one\ntwo \033[2J\n", nil); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got, want := said.String(), "db2: one\ndb2: two  [2J\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestCut: ssh is killed in the middle. The far side undoes, and leaves nothing.
func TestCut(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	// As with sshd the command is nobody's child here: without ssh it loses its input, not its life.
	opt := fakeSSH(t, "sh", `exec 3<&0; cat <&3 | setsid sh -c "$command" & echo $$ >`+pidFile+`; wait; exit 255`)
	c, w := mustDial(t, opt)
	touched := filepath.Join(t.TempDir(), "touched")
	_, err := Call[bool](within(t), c, "touch", touched, func(string) {
		b, err := os.ReadFile(pidFile)
		if err != nil {
			t.Fatal(err)
		}
		group, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(-group, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	})
	mustFail(t, err, Lost, "")
	c.Close()
	mustEnd(t, w.PID)
	mustBeGone(t, touched, filepath.Dir(w.Path))
}

// TestCutWhileCopying: half a copy is removed as well.
func TestCutWhileCopying(t *testing.T) {
	dir := t.TempDir()
	// The first directory of the bootstrap's that is its own.
	tmp := filepath.Join(dir, "mktemp")
	if err := os.WriteFile(tmp, []byte("#!/bin/sh\nmkdir "+dir+"/place && echo "+dir+"/place\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	opt := fakeSSH(t, "sh", "PATH="+dir+`:$PATH; exec 3<&0; dd bs=1 count=100000 <&3 2>/dev/null | sh -c "$command"; exit 255`)
	_, err := Dial(within(t), "db2", opt)
	mustFail(t, err, Misused, "")
	mustBeGone(t, filepath.Join(dir, "place"))
}

// TestChild: a process of this executable on this host, which ends with the connection.
func TestChild(t *testing.T) {
	c, err := Child(within(t), ".", Options{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := Call[where](within(t), c, "where", struct{}{}, nil)
	if self, _ := os.Executable(); err != nil || w.PID == os.Getpid() || w.Path != self {
		t.Errorf("%+v, %v", w, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	mustEnd(t, w.PID)
}

// TestUnresponsive: who connects and then says nothing is given up.
func TestUnresponsive(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, "db2", fakeSSH(t, "sh", "exec sleep 40")); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
