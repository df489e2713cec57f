package remote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/remote"
	"espalier/test/lab"
)

// TestMain makes this executable a far side, where it is started as one.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 2 && os.Args[1] == remote.AgentCommand:
		if err := remote.ServeStdio(context.Background(), os.Args[len(os.Args)-1], os.Args[2] == "--copy", operations); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case len(os.Args) == 2 && os.Args[1] == "version":
	default:
		os.Exit(lab.Run(m))
	}
}

type self struct {
	Path string
	UID  int
}

var operations = remote.Operations{
	"self": remote.JSON(func(context.Context, struct{}, remote.Progress) (self, error) {
		path, err := os.Executable()
		return self{strings.TrimSuffix(path, " (deleted)"), os.Geteuid()}, err
	}),
	// hold makes a file and takes it away when nobody is there any longer.
	"hold": remote.JSON(func(ctx context.Context, path string, say remote.Progress) (bool, error) {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			return false, err
		}
		say("holding")
		<-ctx.Done()
		return true, os.Remove(path)
	}),
}

// rig is a host A that asks, and a host B with a server.
type rig struct {
	*lab.Lab
	ssh    *lab.SSH
	server *lab.SSHServer
	opt    remote.Options
}

func newRig(t *testing.T, setup string) *rig {
	l := lab.New(t, "")
	s := lab.NewSSH(t)
	return &rig{Lab: l, ssh: s, server: s.Serve(l.B, "db2", lab.B4, setup), opt: remote.Options{Config: s.Config, Connect: 5 * time.Second}}
}

// dial connects from host A.
func (r *rig) dial(t *testing.T, host string) (c *remote.Conn, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	err = r.A.Do(func() (err error) {
		c, err = remote.Dial(ctx, host, r.opt)
		return err
	})
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// ask connects and asks the far side for itself.
func (r *rig) ask(t *testing.T, host string) (*remote.Conn, self) {
	t.Helper()
	c, err := r.dial(t, host)
	if err != nil {
		t.Fatal(err)
	}
	s, err := remote.Call[self](t.Context(), c, "self", struct{}{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func mustFail(t *testing.T, err error, reason remote.Reason, words string) {
	t.Helper()
	var e *remote.Error
	if !errors.As(err, &e) || e.Reason != reason || !strings.Contains(err.Error(), words) {
		t.Errorf("%v; want %q: %q", err, reason, words)
	}
}

// program is this executable, for a server's setup to install.
func program(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// wrapped is ssh by a script that says its process id.
func wrapped(t *testing.T) (ssh string, kill func()) {
	t.Helper()
	dir := t.TempDir()
	path, pid := filepath.Join(dir, "ssh"), filepath.Join(dir, "pid")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho $$ >"+pid+"\nexec ssh \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path, func() {
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
