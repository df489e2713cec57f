package cli

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func listenUnix(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

func TestChooseSAD(t *testing.T) {
	root := t.TempDir()
	none, one, two := filepath.Join(root, "none"), filepath.Join(root, "one"), filepath.Join(root, "two")
	for _, dir := range []string{one, two} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		listenUnix(t, filepath.Join(dir, "p4p1.sock"))
	}
	listenUnix(t, filepath.Join(two, "p4p2.sock"))
	if err := os.WriteFile(filepath.Join(one, "p4p9.sock"), nil, 0o600); err != nil { // no socket
		t.Fatal(err)
	}
	for _, tt := range []struct {
		flag, env, dir string
		devices        []string
		want           string
	}{
		{"kernel", "unix:/x", two, nil, "kernel (--sad)"},
		{"", "kernel", two, nil, "kernel (ESPALIER_SAD)"},
		{"unix:/x", "", none, nil, "unix:/x (--sad)"},
		{"", "unix:/x", none, nil, "unix:/x (ESPALIER_SAD)"},
		{"", "", none, nil, "kernel (no device has a socket in this network namespace)"},
		{"auto", "kernel", none, []string{"p4p1"}, "kernel (no device"},
		{"", "auto", one, nil, "unix:" + one + "/p4p1.sock (p4p1 is the only device"},
		{"", "", one, []string{"p4p1"}, "p4p1.sock (the socket of p4p1)"},
		{"", "", two, []string{"p4p2"}, "p4p2.sock (the socket of p4p2)"},
		{"", "", two, []string{"p4p2", "eth0"}, "p4p2.sock (the socket of p4p2)"},
	} {
		got, err := chooseSAD(tt.flag, tt.env, tt.dir, tt.devices)
		if err != nil || !strings.Contains(got.String(), tt.want) {
			t.Errorf("%q %q %s %v: %s, %v; want %s", tt.flag, tt.env, filepath.Base(tt.dir), tt.devices, got, err, tt.want)
		}
	}
	for _, tt := range []struct {
		flag    string
		devices []string
		code    int
	}{{"", nil, 1}, {"", []string{"eth0"}, 1}, {"", []string{"p4p1", "p4p2"}, 1}, {"nic", nil, 255}, {"unix:", nil, 255}} {
		if got, err := chooseSAD(tt.flag, "", two, tt.devices); exitCode(err) != tt.code {
			t.Errorf("%q %v: %s, %v", tt.flag, tt.devices, got, err)
		}
	}
}

func TestSocketOfAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to give a socket away")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "p4p1.sock")
	listenUnix(t, path)
	if err := os.Chown(path, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if got, err := chooseSAD("", "", dir, nil); exitCode(err) != 1 || !strings.Contains(err.Error(), "keys will not be sent there") {
		t.Errorf("%s, %v", got, err)
	}
}
