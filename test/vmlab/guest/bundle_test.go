package guest

import (
	"encoding/hex"
	"path/filepath"
	"strings"
	"testing"

	"espalier/test/lab"
)

// The kernel gives keys to whoever lists its SAs, and a support archive gives none of them on.
func TestBundleKeepsKernelKeys(t *testing.T) {
	l := lab.New(t, "p4p1")
	h := l.A
	const other = "0x909192939495969798999a9b9c9d9e9fa0a1a2a3"
	for _, words := range []string{
		state + aead + "128" + offload,
		tunnel + aead + "128",
		strings.Replace(state, "0x1000", "0x3000", 1) + "enc cbc(aes) 0xb0b1b2b3b4b5b6b7b8b9babbbcbdbebf auth-trunc hmac(sha256) " + other + " 128",
		"policy add src 192.168.1.64 dst 192.168.1.65 dir out tmpl " + ends + "reqid 1 mode transport",
	} {
		h.Must("ip", strings.Fields("xfrm "+strings.Replace(words, tunnel, strings.Replace(tunnel, "0x1000", "0x2000", 1), 1))...)
	}
	archive := filepath.Join(h.Dir, "support.tar.gz")
	if r := h.Command(Espalier, "doctor", "--bundle", archive); r.Code == 1 || r.Code == 2 {
		t.Fatalf("exit %d: %s", r.Code, r.Stderr)
	}
	all := lab.Unpack(t, archive)
	for _, want := range []string{`"spi":"0x00001000"`, `"spi":"0x00002000"`, `"key_bits":288`, "hmac(sha256)", "kernel-policies.json", "XfrmInNoStates"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in the archive", want)
		}
	}
	given := h.Must("ip", "xfrm", "state", "list")
	for _, text := range []string{key256, other, "0xb0b1b2b3b4b5b6b7b8b9babbbcbdbebf"} {
		key, err := hex.DecodeString(strings.TrimPrefix(text, "0x"))
		if err != nil {
			t.Fatal(err)
		}
		if form := lab.Leak([]byte(all), key); form != "" {
			t.Errorf("the archive holds the key %s: %s", text, form)
		}
		if lab.Leak([]byte(given), key) == "" { // the control: the kernel has given it
			t.Errorf("the key %s is not found in\n%s", text, given)
		}
	}
}
