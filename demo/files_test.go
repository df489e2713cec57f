package demo

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"espalier/ipsec"
)

// names of the entries of a directory.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "esp_sa")
	if err := os.WriteFile(path, []byte("of another run"), 0o644); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	k, err := newKeyFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sa := ipsec.SA{
		Src: netip.MustParseAddr("192.168.1.64"), Dst: netip.MustParseAddr("192.168.1.65"), SPI: 0x1000,
		Key: ipsec.NewKey([]byte("0123456789abcdef0123456789abcdefsalt")),
	}
	if err := k.save([]ipsec.SA{sa}); err != nil {
		t.Fatal(err)
	}
	if err := k.discard(); err != nil {
		t.Error(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, mode %v", err, info.Mode())
	}
	got, err := os.ReadFile(path)
	if want := `"IPv4","192.168.1.64","192.168.1.65","0x00001000","AES-GCM with 16 octet ICV [RFC4106]","0x3031`; err != nil || !strings.HasPrefix(string(got), want) {
		t.Errorf("%q, %v", got, err)
	}
	old := make([]byte, 100)
	if n, _ := reader.Read(old); string(old[:n]) != "of another run" {
		t.Error("who had the file open before reads the keys")
	}
	if all := names(t, dir); all != "esp_sa" {
		t.Errorf("left over: %s", all)
	}
}

// TestKeyFilePlace: nothing but a regular file is replaced.
func TestKeyFilePlace(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(os.WriteFile(in("target"), nil, 0o600), os.Symlink("target", in("link")), os.Symlink("nowhere", in("dangling")),
		syscall.Mkfifo(in("fifo"), 0o600), os.Mkdir(in("dir"), 0o700)); err != nil {
		t.Fatal(err)
	}
	before := names(t, dir)
	for name, want := range map[string]string{
		"link": "not a regular file", "dangling": "not a regular file", "fifo": "not a regular file", "dir": "not a regular file",
		"dir/": "not a regular file", "nosuch/esp_sa": "no such file or directory", "target/esp_sa": "not a directory",
	} {
		var f files
		path := dir + "/" + name
		if err := f.open(path, ""); err == nil || !strings.HasPrefix(err.Error(), "write keys to "+path+": ") || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if err := f.close(); err != nil {
			t.Errorf("%s: close: %v", name, err)
		}
	}
	if after := names(t, dir); after != before {
		t.Errorf("there is %s now, there was %s", after, before)
	}
}

// TestRunFiles: a bad path fails before anything is made, and a run that fails leaves no keys.
func TestRunFiles(t *testing.T) {
	dir := t.TempDir()
	stopped, stop := context.WithCancel(t.Context())
	stop()
	for name, run := range map[string]struct {
		ctx        context.Context
		keys, pcap string
		want       string
	}{
		"pcap": {t.Context(), filepath.Join(dir, "keys"), filepath.Join(dir, "nosuch", "pcap"), "no such file"},
		"keys": {t.Context(), filepath.Join(dir, "nosuch", "keys"), filepath.Join(dir, "pcap"), "no such file"},
		"stop": {stopped, filepath.Join(dir, "keys"), "", "canceled"},
	} {
		step := func(format string, _ ...any) { t.Errorf("%s: the run went on: %s", name, format) }
		if _, err := Run(run.ctx, Options{Keys: run.keys, Pcap: run.pcap, Step: step}); err == nil || !strings.Contains(err.Error(), run.want) {
			t.Errorf("%s: %v", name, err)
		}
		if all := names(t, dir); all != "" {
			t.Errorf("%s: left over: %s", name, all)
		}
	}
}
