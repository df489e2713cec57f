package lab

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// Leak is the control of all that looks for keys: it finds them in every form, wherever they stand.
func TestLeak(t *testing.T) {
	key := []byte("\x49\x2e\x8f\xfe\x71\x8a\x95\xa0\x0c\x18\x93\xea\x61\xaf\xc6\x49\x97\xf4\x73\x28")
	for at := range len(key) - leakLength + 1 {
		part := key[at : at+leakLength]
		for before := range 4 {
			text := append([]byte(strings.Repeat("x", before)), part...)
			text = append(text, "yz"...)
			for form, leak := range map[string]string{
				"bytes":     string(text),
				"hex":       hex.EncodeToString(text),
				"HEX":       strings.ToUpper(hex.EncodeToString(text)),
				"colons":    strings.ReplaceAll(fmt.Sprintf("% x", text), " ", ":"),
				"Go":        fmt.Sprintf("%#v", text),
				"decimal":   fmt.Sprint(text),
				"base64":    base64.StdEncoding.EncodeToString(text),
				"base64url": base64.URLEncoding.EncodeToString(text),
			} {
				if Leak([]byte("some "+leak+" more"), key) == "" {
					t.Errorf("bytes %d… behind %d others are not found as %s: %s", at, before, form, leak)
				}
			}
		}
	}
	for _, text := range []string{"", "0x492e8ffe718a95", "<key hidden>", hex.EncodeToString([]byte("something else altogether"))} {
		if form := Leak([]byte(text), key); form != "" {
			t.Errorf("%q is found to hold %s", text, form)
		}
	}
}
