package deploy

import (
	"strings"
	"testing"
)

// Hosts of one name are told apart by their machine ID, which stays here; without one the name has to do.
func TestOrigin(t *testing.T) {
	const one, two = "0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdee"
	a, b := originOf("ubuntu", one+"\n", "/root/t.yaml"), originOf("ubuntu", two+"\n", "/root/t.yaml")
	if a == b || a != originOf("ubuntu", one, "/root/t.yaml") {
		t.Error(a, b)
	}
	if !strings.HasPrefix(a, "ubuntu#") || !strings.HasSuffix(a, ":/root/t.yaml") || strings.Contains(a, one[:8]) {
		t.Error(a)
	}
	for _, none := range []string{"", "uninitialized\n", "12"} {
		if got := originOf("ubuntu", none, "/root/t.yaml"); got != "ubuntu:/root/t.yaml" {
			t.Errorf("%q: %s", none, got)
		}
	}
}
