package cli

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDeadSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "dev.sock")
	if dead, err := deadSocket(path); dead || err != nil {
		t.Errorf("nothing there: %v, %v", dead, err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("unix:%s runs as process %d: end it first", path, os.Getpid())
	if _, err := deadSocket(path); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a live device: %v, want %q", err, want)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if dead, err := deadSocket(path); !dead || err != nil {
		t.Errorf("a dead device: %v, %v", dead, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if dead, err := deadSocket(file); dead || err != nil {
		t.Errorf("a file: %v, %v", dead, err)
	}
	other, err := net.Listen("unix", filepath.Join(dir, "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := deadSocket(filepath.Join(dir, "stream")); err == nil {
		t.Error("somebody else's socket counts as a dead device's")
	}
}
