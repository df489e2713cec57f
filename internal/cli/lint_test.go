package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"espalier/lint"
)

func lintCall(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(context.Background(), append([]string{"lint"}, args...), strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// lintPair copies a pair of scripts for their owner alone to read.
func lintPair(t *testing.T, change func(name, text string) string) (a, b string) {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for _, name := range []string{"a.xfrm", "b.xfrm"} {
		text, err := os.ReadFile(filepath.Join("../../lint/testdata/correct/transport", name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(change(name, string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths[0], paths[1]
}

func asItIs(_, text string) string { return text }

// wrongOut has a's out template ask for the reqid of the other direction.
func wrongOut(name, text string) string {
	if name == "a.xfrm" {
		return strings.Replace(text, "proto esp reqid 1 mode", "proto esp reqid 2 mode", 1)
	}
	return text
}

func TestLint(t *testing.T) {
	a, b := lintPair(t, asItIs)
	code, stdout, stderr := lintCall(t, "", a, b)
	if want := "a (192.168.1.64): 2 SAs, 3 policies\nb (192.168.1.65): 2 SAs, 3 policies\nnothing is wrong\n"; code != 0 || stdout != want || stderr != "" {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}

	a, b = lintPair(t, wrongOut)
	code, stdout, stderr = lintCall(t, "", a, b)
	joined := strings.Join(strings.Fields(stdout), " ")
	for _, part := range []string{
		a + ":5: error: policy 192.168.1.64→192.168.1.65 out: wants reqid 2, which is the other direction's;",
		"nothing is sent (XfrmOutNoStates) [reqid-mismatch] fix: give the template reqid 1, or the SA reqid 2",
		"1 error",
	} {
		if code != 3 || stderr != "" || !strings.Contains(joined, part) {
			t.Errorf("exit %d, no %q in\n%s%s", code, part, stdout, stderr)
		}
	}
	for line := range strings.Lines(stdout) {
		if n := len([]rune(line)); n > 101 && !strings.Contains(line, a) {
			t.Errorf("%d columns: %s", n-1, line)
		}
	}

	text, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	if code, stdout, _ := lintCall(t, string(text), "-"); code != 3 || !strings.HasPrefix(stdout, "stdin:5: error") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
	if code, stdout, _ := lintCall(t, "", "one="+a, "one="+b); code != 3 || !strings.Contains(stdout, "one (") {
		t.Errorf("named alike: exit %d\n%s", code, stdout)
	}
}

func TestLintData(t *testing.T) {
	a, b := lintPair(t, wrongOut)
	code, stdout, stderr := lintCall(t, "", "-o", "json", a, b)
	var v lintView
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != 3 || stderr != "" {
		t.Fatalf("exit %d, %v\n%s%s", code, err, stdout, stderr)
	}
	f := v.Findings[0]
	if v.Schema != "espalier/lint/v1" || v.OK || len(v.Hosts) != 2 || len(v.Findings) != 1 || f.ID != lint.ReqidMismatch || f.Line != 5 || f.File != a || f.Counter != "XfrmOutNoStates" || f.Host != "a" {
		t.Errorf("%s", stdout)
	}
	if code, stdout, _ := lintCall(t, "", "-o", "yaml", a, b); code != 3 || !strings.Contains(stdout, "id: reqid-mismatch") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}

// TestLintSARIF: what SARIF 2.1.0 requires is there, where it has to be, and nothing that it does not know.
func TestLintSARIF(t *testing.T) {
	a, b := lintPair(t, func(name, text string) string {
		return strings.Replace(wrongOut(name, text), "spi 0x1001", map[string]string{"a.xfrm": "spi 0x1001", "b.xfrm": "spi 0x1011"}[name], 1)
	})
	code, stdout, stderr := lintCall(t, "", "-o", "sarif", a, b)
	d := json.NewDecoder(strings.NewReader(stdout))
	d.DisallowUnknownFields()
	var log sarifLog
	if err := d.Decode(&log); err != nil || code != 3 || stderr != "" {
		t.Fatalf("exit %d, %v\n%s", code, err, stderr)
	}
	// §3.13.2 version, §3.14.6 tool, §3.19.2 name, §3.49.3 id, §3.27.11 message, §3.28.3, §3.29.3, §3.30.5 from 1 on.
	if log.Version != "2.1.0" || len(log.Runs) != 1 || log.Runs[0].Tool.Driver.Name != "espalier" || log.Runs[0].Results == nil {
		t.Fatalf("%s", stdout)
	}
	rules := log.Runs[0].Tool.Driver.Rules
	ids := map[string]bool{}
	for _, r := range rules {
		if r.ID == "" || ids[r.ID] || r.Short.Text == "" || r.Full.Text == "" || r.Help.Text == "" || !isLevel(r.Default.Level) {
			t.Errorf("%+v", r)
		}
		ids[r.ID] = true
	}
	var found []string
	for _, r := range log.Runs[0].Results {
		if r.RuleIndex < 0 || r.RuleIndex >= len(rules) || rules[r.RuleIndex].ID != r.RuleID || r.Message.Text == "" || !isLevel(r.Level) || len(r.Locations) != 1 {
			t.Errorf("%+v", r)
			continue
		}
		for _, l := range append(r.Locations, r.Related...) {
			if !strings.HasPrefix(l.Physical.Artifact.URI, "file:///") || l.Physical.Region.StartLine < 1 {
				t.Errorf("%+v", l)
			}
		}
		found = append(found, r.RuleID)
	}
	if want := []string{"spi-mismatch", "reqid-mismatch"}; !slices.Equal(found, want) {
		t.Errorf("%v, want %v", found, want)
	}
	for _, c := range []struct{ file, uri string }{{"a b.sh", "a%20b.sh"}, {"c:d", "./c:d"}, {"/x/y", "file:///x/y"}} {
		if got := sarifAt(lint.Place{File: c.file, Line: 1}).Physical.Artifact.URI; got != c.uri {
			t.Errorf("%s is %s, want %s", c.file, got, c.uri)
		}
	}
	// A clean pair has no results, not none at all.
	a, b = lintPair(t, asItIs)
	if code, stdout, _ := lintCall(t, "", "-o", "sarif", a, b); code != 0 || !strings.Contains(stdout, `"results":[]`) {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}

func isLevel(level string) bool {
	return slices.Contains([]string{"none", "note", "warning", "error"}, level)
}

// TestLintFix: corrected scripts are new files for their owner alone, and clean of what was put right.
func TestLintFix(t *testing.T) {
	a, b := lintPair(t, wrongOut)
	was, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := lintCall(t, "", "--fix", a, b)
	if code != 0 || stderr != "" || !strings.Contains(stdout, "1 put right\n") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	info, err := os.Stat(a + ".fixed")
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if now, err := os.ReadFile(a); err != nil || !bytes.Equal(now, was) {
		t.Errorf("the script itself has changed: %v", err)
	}
	if _, err := os.Stat(b + ".fixed"); err == nil {
		t.Error("the other script was written, too, and there was nothing to correct")
	}
	if code, stdout, _ := lintCall(t, "", a+".fixed", b); code != 0 {
		t.Errorf("corrected: exit %d\n%s", code, stdout)
	}
	// Never over a file that is there.
	if code, stdout, stderr := lintCall(t, "", "--fix", a, b); code != 1 || stdout != "" || !strings.Contains(stderr, "is there already") {
		t.Errorf("exit %d\n%s%s", code, stdout, stderr)
	}
	to := filepath.Join(t.TempDir(), "corrected")
	code, stdout, _ = lintCall(t, "", "--fix", "--to", to, "-o", "json", a, b)
	var v lintView
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || code != 0 || !v.OK || len(v.Fixed.Mended) != 1 || len(v.Fixed.Left) != 0 || v.Fixed.Files[0].To != filepath.Join(to, "a.xfrm") {
		t.Errorf("exit %d, %v\n%s", code, err, stdout)
	}
	// What cannot be decided is left, and told.
	a, b = lintPair(t, func(name, text string) string {
		return strings.ReplaceAll(text, "flag esn", map[string]string{"a.xfrm": "flag esn", "b.xfrm": ""}[name])
	})
	if code, stdout, _ := lintCall(t, "", "--fix", a, b); code != 3 || !strings.Contains(stdout, "left: ") || !strings.Contains(stdout, "left\n") {
		t.Errorf("exit %d\n%s", code, stdout)
	}
}

func TestLintUsage(t *testing.T) {
	a, _ := lintPair(t, asItIs)
	for _, args := range [][]string{{}, {"-o", "xml", a}, {"--kernel", "new", a}, {"--to", "x", a}, {a, a}, {"--nonsense", a}, {"--fix", "-"}} {
		if code, stdout, stderr := lintCall(t, "", args...); code != 2 || stdout != "" || stderr == "" {
			t.Errorf("%q: exit %d\n%s%s", args, code, stdout, stderr)
		}
	}
	for _, args := range [][]string{{a, "/nonexistent"}, {t.TempDir()}} {
		if code, stdout, stderr := lintCall(t, "", args...); code != 1 || stdout != "" || stderr == "" {
			t.Errorf("%q: exit %d\n%s%s", args, code, stdout, stderr)
		}
	}
	if code, _, stderr := lintCall(t, "\x00", "-"); code != 1 || !strings.Contains(stderr, "not text") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}
