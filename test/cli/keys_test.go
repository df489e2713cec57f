package cli

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/test/lab"
)

// TestDeviceKeepsKeys looks for the key in everything that a device and its commands say about
// an SA that has it.
func TestDeviceKeepsKeys(t *testing.T) {
	t.Parallel()
	l := lab.New(t, "")
	h := l.A
	h.StartDevice()
	secret := filepath.Join(h.Dir, "key")
	if err := os.WriteFile(secret, []byte("0x"+key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const id = "src 192.168.1.64 dst 192.168.1.65 proto esp spi 0x28f39549"
	add := func(verb, aead string) []string {
		words := strings.Fields("state " + verb + " " + id + " reqid 1 mode transport")
		return append(append(words, "aead", "rfc4106(gcm(aes))", aead, "128"), strings.Fields("offload dev p4p1 dir out")...)
	}
	list := []string{"state", "list"}
	for _, tt := range []struct {
		code int
		args []string
	}{
		{0, add("add", "@"+secret)},
		{2, add("add", "@"+secret)}, // exists
		{2, append([]string{"-o", "json"}, add("add", "0x"+key)...)},
		{0, list},
		{0, append([]string{"-s"}, list...)},
		{0, append([]string{"-o"}, list...)},
		{0, append([]string{"-o", "wide"}, list...)},
		{0, append([]string{"-o", "json"}, list...)},
		{0, append([]string{"-o", "json", "--show-keys"}, list...)},
		{0, append([]string{"state", "get"}, strings.Fields(id)...)},
		{0, append([]string{"state", "delete"}, strings.Fields(id)...)},
	} {
		r := h.Xfrm(tt.args...)
		if r.Code != tt.code {
			t.Errorf("%q: exit %d, want %d: %s", tt.args, r.Code, tt.code, r.Stderr)
		}
		if holdsKey(r.Stdout + r.Stderr) {
			t.Errorf("%q printed the key", tt.args)
		}
	}
	batch := filepath.Join(h.Dir, "batch")
	if err := os.WriteFile(batch, []byte("ip xfrm "+quoted(add("add", "@"+secret))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := h.Xfrm("--allow-key-reuse", "-batch", batch); r.Code != 0 || holdsKey(r.Stdout+r.Stderr) {
		t.Errorf("-batch: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	// A device keeps keys even from those who ask for them.
	r := h.Xfrm("--show-keys", "state", "list")
	if r.Code != 0 || holdsKey(r.Stdout+r.Stderr) || !strings.Contains(r.Stdout, "<<Keys hidden>>") {
		t.Errorf("--show-keys: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if code := h.Stop(); code != 0 {
		t.Errorf("the device ended with %d", code)
	}
	if holdsKey(h.Log()) {
		t.Errorf("the device's log holds the key:\n%s", h.Log())
	}
}

// quoted is a command line as a shell takes it.
func quoted(words []string) string {
	return "'" + strings.Join(words, "' '") + "'"
}

// TestHoldsKey is the control of all that looks for the key.
func TestHoldsKey(t *testing.T) {
	raw, err := hex.DecodeString(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, output := range []string{"0x" + key, strings.ToUpper(key), "[" + key[10:30] + "…]", string(raw), string(raw[20:30])} {
		if !holdsKey(output) {
			t.Errorf("%q is not found to hold the key", output)
		}
	}
	if holdsKey("0x<hidden> 4b1f0c83 deadbeef") {
		t.Error("the key is found where it is not")
	}
}
