package server

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/xfrm/client"
)

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "dev.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700, filepath.Join(dir, "a"): 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %v", name, info.Mode().Perm(), err, want)
		}
	}
	if _, err := Listen(path); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("a live socket: %v", err)
	}
	// A crash leaves the socket behind.
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Dial(path); !errors.Is(err, unix.ECONNREFUSED) || !strings.Contains(err.Error(), "nobody listens") {
		t.Errorf("dial of a dead socket: %v", err)
	}
	if l, err = Listen(path); err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	l.Close()
	if _, err := client.Dial(path); !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "is the device running?") {
		t.Errorf("dial of no socket: %v", err)
	}

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file in its place: %v", err)
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("the file was harmed")
	}
	if _, err := Listen(filepath.Join(dir, strings.Repeat("x", 200))); err == nil {
		t.Error("a path that no socket address holds")
	}
	open := filepath.Join(dir, "open")
	os.Mkdir(open, 0o700)
	os.Chmod(open, 0o777)
	if _, err := Listen(filepath.Join(open, "dev.sock")); err == nil || !strings.Contains(err.Error(), "written to by others") {
		t.Errorf("a directory for all: %v", err)
	}
}
