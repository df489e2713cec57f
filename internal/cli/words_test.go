package cli

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"
)

// What is wrong with a command line or a file is said in the program's own words, with its exit status.
func TestWordsOfWrongCommandLines(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.yaml")
	t.Setenv("ESPALIER_STATE_DIR", t.TempDir())
	for _, c := range []struct {
		args string
		exit int
		want string
	}{
		{"plan", 2, "which file? (see espalier plan --help)"},
		{"apply", 2, "which file? (see espalier apply --help)"},
		{"down a b", 2, `there is no place for "b" (see espalier down --help)`},
		{"pair", 2, "with which host? (see espalier pair --help)"},
		{"accept db1", 2, "which two hosts? (. is this one) (see espalier accept --help)"},
		{"plan " + missing, 1, missing + ": no such file or directory"},
		{"apply " + missing, 1, missing + ": no such file or directory"},
		{"plan -", 2, "hosts know tunnels by the file they come from: standard input will not do"},
		{"plan - -o json", 2, ""},
		{"verify --require HARDWARE --count 0", 2, "--count 0: 1 to 10000 probes"},
	} {
		var stdout, stderr bytes.Buffer
		exit := Main(context.Background(), strings.Fields(c.args), strings.NewReader(""), &stdout, &stderr)
		if got := strings.TrimSpace(stderr.String()); exit != c.exit || got != c.want {
			t.Errorf("%s: exit %d\n%s", c.args, exit, got)
		}
	}
}
