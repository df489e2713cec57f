package lab

import (
	"os"
	"os/exec"
	"testing"
)

// Root skips the test where it cannot run: without root. In CI that is a failure.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "root: network namespaces and raw sockets")
	}
}

// Tools skips the test if one of the programs is missing. In CI that is a failure.
func Tools(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			Missing(t, n)
		}
	}
}

// Missing says what the test would need.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("needs %s", what)
	}
	t.Skipf("needs %s", what)
}
