package deploy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"espalier/test/lab"
)

// TestPair writes the file for two hosts, and sets the tunnel up; then its keys are rotated. No key is ever to
// be seen.
func TestPair(t *testing.T) {
	t.Parallel()
	s := newDevices(t)
	s.from = s.A
	s.serve(s.B, "db2", lab.B4)
	s.file = filepath.Join(s.A.Dir, "db2.yaml")
	keysOf := s.tapKeys(t)
	spied, env := s.spies(t)
	espalier := func(args ...string) (r lab.Result) {
		spied.during(func() {
			r = s.A.Command("env", slices.Concat(env, []string{lab.Binary(t)}, args, []string{"--ssh-config", s.ssh.Config, "--grace", "0s"})...)
		})
		spied.add("output", []byte(r.Stdout+r.Stderr))
		return r
	}
	pair := func(args ...string) lab.Result {
		return espalier(append([]string{"pair", "root@db2", "--output", s.file}, args...)...)
	}
	if r := pair("--from", "192.168.1.99"); r.Code != 1 || !strings.Contains(r.Stderr, "does not have the address 192.168.1.99") {
		t.Errorf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	r := pair()
	if r.Code != 0 || !strings.HasSuffix(r.Stdout, "\nIPSec tunnel configured successfully\n") {
		t.Fatalf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	t.Logf("%s", r.Stdout)
	b, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`{address: "192.168.1.64", dev: "p4p1"}`, `{address: "192.168.1.65", dev: "p4p1", ssh: "root@db2"}`} {
		if !strings.Contains(string(b), want) || !strings.Contains(r.Stdout, want) {
			t.Errorf("no %s in\n%s", want, b)
		}
	}
	s.mustTalk(t)
	if r := espalier("rotate", s.file, "-o", "json"); r.Code != 0 || !strings.Contains(r.Stdout, `"result":"confirmed"`) {
		t.Errorf("rotate: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	keys := keysOf()
	if len(keys) != 8 {
		t.Errorf("%d keys were given to two devices, twice for each direction", len(keys))
	}
	spied.mustHide(t, keys)
	spied.plantIn(t, s.B, keys[len(keys)-1])
	if r := pair(); r.Code != 0 || !strings.Contains(r.Stdout, "nothing to change") {
		t.Errorf("again: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := pair("--name", "other"); r.Code != 1 || !strings.Contains(r.Stderr, "never written over") {
		t.Errorf("another over it: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if after, err := os.ReadFile(s.file); err != nil || string(after) != string(b) {
		t.Errorf("the file was changed: %v\n%s", err, after)
	}
}
