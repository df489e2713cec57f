package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/config"
)

func importCall(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(context.Background(), append([]string{"import"}, args...), strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestImport(t *testing.T) {
	a, b := lintPair(t, asItIs)
	code, stdout, stderr := importCall(t, "", a, b)
	const want = `# From scripts of ip xfrm, by espalier import. Keys and SPIs are made anew.
tunnels:
- name: a-b
  hosts:
  - {address: 192.168.1.64, dev: p4p1}
  - {address: 192.168.1.65, dev: p4p1}
  esn: 'on'
  window: 64
  offload: crypto
`
	if code != 0 || stdout != want || stderr != "note: keys and SPIs are not carried over: they are made anew when the file is applied\n" {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	if f, err := config.Parse("x", []byte(stdout)); err != nil || len(f.Tunnels) != 1 {
		t.Errorf("%v", err)
	}

	// What is lost is told, also as data.
	a, b = lintPair(t, func(_, text string) string { return strings.ReplaceAll(text, " 128 offload", " 96 offload") })
	code, stdout, stderr = importCall(t, "", "--name", "db", a, b)
	if code != 3 || !strings.Contains(stdout, "name: db\n") || !strings.Contains(stderr, "lost: an ICV of 96 bits: the file has 128") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = importCall(t, "", "-o", "json", a, b)
	var v importView
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != 3 || stderr != "" || v.OK || v.Schema != "espalier/import/v1" || v.Tunnels != 1 || !strings.Contains(v.Text, "tunnels:") ||
		len(v.Remarks) != 1 || !v.Remarks[0].Lost || v.Remarks[0].Line < 1 {
		t.Errorf("exit %d, %v\n%s%s", code, err, stdout, stderr)
	}
}

func TestImportToFile(t *testing.T) {
	a, b := lintPair(t, asItIs)
	to := filepath.Join(t.TempDir(), "tunnels.yaml")
	if code, stdout, stderr := importCall(t, "", "--output", to, a, b); code != 0 || stdout != "" || !strings.HasPrefix(stderr, "note: ") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	if code, _, stderr := importCall(t, "", "--output", to, a, b); code != 1 || !strings.Contains(stderr, "--force") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if err := os.WriteFile(to, bytes.Repeat([]byte("#"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := importCall(t, "", "--output", to, "--force", a, b); code != 0 {
		t.Errorf("exit %d, %s", code, stderr)
	}
	text, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := config.Parse(to, text); err != nil {
		t.Error(err)
	}
}

func TestImportUsage(t *testing.T) {
	a, _ := lintPair(t, asItIs)
	for _, args := range [][]string{{}, {"-o", "xml", a}, {"--force", a}, {"--dev", "x=y", a}, {"--dev", "", a}, {"--nonsense", a}} {
		if code, stdout, stderr := importCall(t, "", args...); code != 2 || stdout != "" || stderr == "" {
			t.Errorf("%q: exit %d\n%s%s", args, code, stdout, stderr)
		}
	}
	if code, stdout, stderr := importCall(t, "echo nothing\n", "-"); code != 1 || stdout != "" || !strings.Contains(stderr, "no policy") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
}
