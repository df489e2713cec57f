package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"espalier/test/lab"
)

// runDir is where devices of the host's network namespace keep what they do without --listen.
func runDir(t *testing.T, h *lab.Host) string {
	t.Helper()
	info, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", h.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/run/espalier/%d", info.Sys().(*syscall.Stat_t).Ino)
}

func rpFilter(h *lab.Host) string {
	return strings.TrimSpace(h.Must("cat", "/proc/sys/net/ipv4/conf/"+h.Device+"/rp_filter"))
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestStateDir: what a device changed can be put back without knowing where its socket was, and
// only directories of its own are tidied up.
func TestStateDir(t *testing.T) {
	t.Parallel()
	h := lab.New(t, "").A
	theirs := filepath.Dir(h.Socket)
	if err := os.MkdirAll(theirs, 0o700); err != nil {
		t.Fatal(err)
	}
	strict := func() { h.Must("sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/"+h.Device+"/rp_filter") }
	strict()
	h.StartDevice()
	dir := runDir(t, h)
	if got := strings.TrimSpace(h.Must("cat", "/proc/sys/net/ipv4/conf/esp-"+h.Device+"/rp_filter")); got != "0" {
		t.Errorf("rp_filter of the TUN is %s: what an SA brings is dropped as long as the way back is in clear", got)
	}
	if rpFilter(h) != "2" || !exists(filepath.Join(dir, h.Device+".rp_filter")) {
		t.Errorf("rp_filter %s, and %s has no note of what it was", rpFilter(h), dir)
	}
	if code := h.Stop(); code != 0 || rpFilter(h) != "1" || exists(dir) || !exists(theirs) {
		t.Errorf("stopped: exit %d, rp_filter %s, %s exists: %v, the user's directory: %v", code, rpFilter(h), dir, exists(dir), exists(theirs))
	}

	h.StartDevice()
	h.Kill()
	if rpFilter(h) != "2" {
		t.Errorf("a killed device left rp_filter %s", rpFilter(h))
	}
	if r := h.Espalier("dataplane", "--release", "--dev", h.Device); r.Code != 0 {
		t.Errorf("release: exit %d: %s", r.Code, r.Stderr)
	}
	if rpFilter(h) != "1" || exists(dir) {
		t.Errorf("released: rp_filter %s, %s exists: %v", rpFilter(h), dir, exists(dir))
	}
	if r := h.Espalier("dataplane", "--release", "--dev", h.Device, "--listen", h.Socket); r.Code != 0 || exists(h.Socket) || !exists(theirs) {
		t.Errorf("release: exit %d: %s; the socket of the dead exists: %v", r.Code, r.Stderr, exists(h.Socket))
	}
}

// TestReleaseAlive: the guard of a live device is not taken away.
func TestReleaseAlive(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "nft")
	h := lab.New(t, "").A
	h.StartDevice()
	h.Batch("policy add src 192.168.1.64 dst 192.168.1.65 dir out tmpl proto esp reqid 1 mode transport\n")
	before := h.Must("nft", "list", "ruleset")
	r := h.Espalier("dataplane", "--release", "--dev", h.Device, "--listen", h.Socket)
	if want := fmt.Sprintf("runs as process %d: end it first", h.PID()); r.Code != 1 || !strings.Contains(r.Stderr, want) {
		t.Errorf("exit %d, want 1 with %q: %s", r.Code, want, r.Stderr)
	}
	if after := h.Must("nft", "list", "ruleset"); after != before || !strings.Contains(before, "192.168.1.65") {
		t.Errorf("the guard was\n%s\nis\n%s", before, after)
	}
}

// TestErrorsOnce: what a device refuses is told with operation and object once.
func TestErrorsOnce(t *testing.T) {
	t.Parallel()
	h := lab.New(t, "").A
	h.StartDevice()
	policy := "policy add src 192.168.1.64 dst 192.168.1.65 dir out tmpl proto esp reqid 1 mode transport"
	h.Batch(policy + "\n")
	for line, want := range map[string]string{
		policy: "xfrm: add policy 192.168.1.64→192.168.1.65 out: already exists",
		"policy get src 10.0.0.1 dst 10.0.0.2 dir in":            "xfrm: get policy 10.0.0.1→10.0.0.2 in: does not exist",
		"state delete src 10.0.0.1 dst 10.0.0.2 proto esp spi 9": "xfrm: delete SA 0x00000009 10.0.0.1→10.0.0.2: does not exist",
		"state get src 10.0.0.1 dst 10.0.0.2 proto esp spi 9":    "xfrm: get SA 0x00000009 10.0.0.1→10.0.0.2: does not exist",
		"policy delete src 10.0.0.1 dst 10.0.0.2 dir out":        "xfrm: delete policy 10.0.0.1→10.0.0.2 out: does not exist",
	} {
		r := h.Xfrm(strings.Fields(line)...)
		if r.Code != 2 || !strings.HasSuffix(strings.TrimSpace(r.Stderr), "\n"+want) {
			t.Errorf("%s: exit %d: %s; want %q", line, r.Code, r.Stderr, want)
		}
	}
}
