package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/test/lab"
)

// TestApply is the whole life of a tunnel, by ssh over the very addresses that it protects.
func TestApply(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.life(t)
}

// TestManagement is the same from a third host, over other addresses.
func TestManagement(t *testing.T) {
	t.Parallel()
	s := newManaged(t)
	s.life(t)
}

func (s *site) life(t *testing.T) {
	t.Helper()
	out := s.must(t, "apply")
	if !strings.HasSuffix(out, "\nIPSec tunnel configured successfully\n") || !strings.Contains(out, "[#] root@db2: 1 inbound SA") ||
		!strings.Contains(out, "SOFTWARE") || !strings.Contains(out, "espalier down ") {
		t.Errorf("%s", out)
	}
	t.Logf("%s", out)
	for _, line := range strings.Split(out, "\n") {
		if len([]rune(line)) > 100 && !strings.Contains(line, s.file) {
			t.Errorf("too wide: %s", line)
		}
	}
	s.mustTalk(t)
	before := map[*lab.Host]string{}
	for _, h := range s.Hosts() {
		before[h] = ids(sas(t, h)) + policies(t, h)
		if n := strings.Count(sas(t, h), "proto esp"); n != 2 {
			t.Errorf("host %s has %d SAs", h.Name, n)
		}
	}

	out = s.must(t, "apply")
	if !strings.Contains(out, "nothing to change") || !strings.HasSuffix(out, "\nIPSec tunnel configured successfully\n") {
		t.Errorf("a second time: %s", out)
	}
	if r, code := s.report(t, "apply"); code != 0 || !r.OK || r.Result != "unchanged" || len(r.SAs) != 0 {
		t.Errorf("a third time: exit %d, %+v", code, r)
	}
	for _, h := range s.Hosts() {
		if after := ids(sas(t, h)) + policies(t, h); after != before[h] {
			t.Errorf("host %s: a second apply has changed something:\n%s\n%s", h.Name, before[h], after)
		}
	}

	link, file := t.TempDir()+"/link", s.file
	if err := os.Symlink(filepath.Dir(file), link); err != nil {
		t.Fatal(err)
	}
	s.file = filepath.Join(link, filepath.Base(file))
	s.must(t, "plan", "--exit-code") // it is the same file
	s.file = file
	s.loses(t, before)

	counts := s.watch(t, func() { out = s.must(t, "rotate") })
	if counts.Cleartext > 0 {
		t.Errorf("in clear while keys were rotated: %+v", counts)
	}
	t.Logf("%s", out)
	for _, h := range s.Hosts() {
		if after := ids(sas(t, h)); strings.Contains(before[h], after) || strings.Count(after, "\n") != 2 {
			t.Errorf("host %s after a rotation:\n%s", h.Name, after)
		}
	}
	s.mustTalk(t)
	if out = s.must(t, "rotate", "--due"); out != "" {
		t.Errorf("nothing is due, and it says: %s", out)
	}

	t.Logf("%s", s.must(t, "down"))
	s.mustBeBare(t)
	if out = s.must(t, "down"); !strings.Contains(out, "nothing to change") {
		t.Errorf("%s", out)
	}
}

// loses has something lost of what lasts: it is told of, and put back with the same SAs.
func (s *site) loses(t *testing.T, before map[*lab.Host]string) {
	t.Helper()
	for _, repair := range [][]string{{"apply", "--grace", "0s"}, {"rotate", "--due", "--grace", "0s"}} {
		for _, h := range s.Hosts() {
			h.Must("nft", "delete", "table", "inet", "espalier")
		}
		if r := s.run("plan", "--exit-code"); r.Code != 3 || strings.Count(r.Stdout, "the guard is not loaded on") != 2 {
			t.Errorf("plan without the guard: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		out := s.must(t, repair[0], repair[1:]...)
		t.Logf("%s", out)
		for _, h := range s.Hosts() {
			if r := h.Command("nft", "list", "table", "inet", "espalier"); r.Code != 0 {
				t.Errorf("host %s has no guard after %v", h.Name, repair)
			}
			if after := ids(sas(t, h)) + policies(t, h); after != before[h] {
				t.Errorf("host %s: to put the guard back changed more:\n%s\n%s", h.Name, before[h], after)
			}
		}
		if r := s.run("plan", "--exit-code"); r.Code != 0 {
			t.Errorf("plan after %v: exit %d\n%s%s", repair, r.Code, r.Stdout, r.Stderr)
		}
	}
}

// ids are the SAs of a listing, one a line.
func ids(listing string) string {
	var b strings.Builder
	for _, line := range strings.Split(listing, "\n") {
		if strings.Contains(line, "proto esp") {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// TestRequire: where no NIC encrypts, nothing is set up that requires one.
func TestRequire(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, strings.Replace(string(b), "offload: auto", "offload: require", 1))
	if r := s.run("apply"); r.Code != 3 || !strings.Contains(r.Stderr, "offload") {
		t.Errorf("exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	for _, h := range s.Hosts() {
		if left := sas(t, h) + policies(t, h); left != "" {
			t.Errorf("host %s: %s", h.Name, left)
		}
	}
}
