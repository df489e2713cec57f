package cli

import (
	"encoding/hex"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/test/lab"
)

// TestBundleKeepsKeys looks for the keys of a device's SAs in a support archive that tells of them.
func TestBundleKeepsKeys(t *testing.T) {
	t.Parallel()
	h := lab.New(t, "").A
	startListed(t, h)
	secret := filepath.Join(h.Dir, "key")
	if err := os.WriteFile(secret, []byte("0x"+key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	add := "xfrm state add src 192.168.1.64 dst 192.168.1.65 proto esp spi 0x28f39549 reqid 1 mode transport aead rfc4106(gcm(aes)) @" + secret + " 128 offload dev p4p1 dir out"
	policy := "xfrm policy add src 192.168.1.64 dst 192.168.1.65 dir out tmpl proto esp reqid 1 mode transport"
	for _, words := range []string{add, policy} {
		if r := h.Espalier(strings.Fields(words)...); r.Code != 0 {
			t.Fatalf("%s: exit %d: %s", words, r.Code, r.Stderr)
		}
	}
	archive := filepath.Join(h.Dir, "support.tar.gz")
	r := h.Espalier("doctor", "--bundle", archive)
	if r.Code == 1 || r.Code == 2 {
		t.Fatalf("exit %d: %s", r.Code, r.Stderr)
	}
	all := lab.Unpack(t, archive)
	for _, want := range []string{`"spi":"0x28f39549"`, `"key_bits":288`, `"reqid":1`, "device-p4p1-policies.json", "XfrmInNoStates"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in the archive", want)
		}
	}
	raw, err := hex.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	if form := lab.Leak([]byte(all+r.Stdout+r.Stderr), raw); form != "" {
		t.Errorf("the archive holds a key: %s", form)
	}
	// The control: it would have been found.
	if lab.Leak([]byte(all+"0x"+key), raw) == "" {
		t.Error("a key in the archive is not found")
	}
}

// startListed runs a device where commands look for it, until the test's end.
func startListed(t *testing.T, h *lab.Host) {
	t.Helper()
	cmd := exec.Command(lab.Binary(t), "dataplane", "--dev", h.Device)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		timer.Stop()
	})
	ready := make([]byte, len("ready"))
	if _, err := io.ReadFull(out, ready); err != nil || string(ready) != "ready" {
		t.Fatalf("the device did not start: %v", err)
	}
}
