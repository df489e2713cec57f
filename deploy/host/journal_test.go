package host

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/deploy/steps"
)

// written is the journal of a host in the middle of a change.
func written(t *testing.T) []byte {
	t.Helper()
	w := prepared(t, 2, 1)
	w.carryOut(w.plan(steps.Apply, 2, 1), func(n, _ int, operation string, deliver func() error) error {
		if operation == steps.Confirm {
			panic(died{})
		}
		return deliver()
	})
	data, err := os.ReadFile(filepath.Join(w.hosts[0].host.cfg.Dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What is written is read again, whole. What is damaged is an error that says what to do.
func TestJournal(t *testing.T) {
	data := written(t)
	dir := t.TempDir()
	path := filepath.Join(dir, journalName)
	put := func(b []byte) {
		if err := WriteFile(path, b); err != nil {
			t.Fatal(err)
		}
	}
	if j, err := ReadJournal(dir); err != nil || len(j.Owned) > 0 || j.Change != nil {
		t.Fatalf("no journal: %+v, %v", j, err)
	}
	put(data)
	j, err := ReadJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := json.MarshalIndent(j, "", "  "); !bytes.Equal(append(again, '\n'), data) {
		t.Error("it reads otherwise than it was written")
	}
	if len(j.Owned) != 1 || j.Change == nil || j.Change.Stage != steps.Open || len(j.Change.Pairs[0].Before) != 5 {
		t.Errorf("%+v", j)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	for name, damaged := range map[string]string{
		"empty":              "",
		"cut":                string(data[:len(data)/2]),
		"something behind":   string(data) + "{}",
		"another version":    strings.Replace(string(data), `"version": 1`, `"version": 2`, 1),
		"an unknown field":   strings.Replace(string(data), `"version": 1`, `"version": 1, "more": 1`, 1),
		"an unknown stage":   strings.Replace(string(data), `"stage": "open"`, `"stage": "half"`, 1),
		"a damaged policy":   strings.Replace(string(data), `"payload": "`, `"payload": "AAAA`, 1),
		"an owner of naught": strings.Replace(string(data), `"engine": "kernel"`, `"engine": ""`, 1),
	} {
		put([]byte(damaged))
		if _, err := ReadJournal(dir); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "put back a copy") {
			t.Errorf("%s: %v", name, err)
		}
		if now, _ := os.ReadFile(path); string(now) != damaged {
			t.Errorf("%s: it was overwritten", name)
		}
	}
}

// A damaged journal keeps every operation from doing anything.
func TestDamagedJournal(t *testing.T) {
	w := prepared(t, 2, 1)
	n := w.hosts[0]
	path := filepath.Join(n.host.cfg.Dir, journalName)
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := w.picture()
	if got := w.carryOut(w.plan(steps.Apply, 2, 1), direct); got != "rolled back" {
		t.Error(got)
	}
	if _, err := n.host.Tick(t.Context()); err == nil {
		t.Error("the keeper does not say anything")
	}
	if !w.picture()[0].equal(before[0]) {
		t.Error("something was changed")
	}
	if now, _ := os.ReadFile(path); string(now) != "{" {
		t.Error("it was overwritten")
	}
}

// One that cannot be written leaves what was there.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sub", "file")
	for _, text := range []string{"one", "two"} {
		if err := WriteFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(path); string(b) != text {
			t.Errorf("%q, want %q", b, text)
		}
	}
	if err := WriteFile(filepath.Join(path, "below"), nil); err == nil {
		t.Error("a directory that cannot be made")
	}
	if all, _ := os.ReadDir(filepath.Dir(path)); len(all) != 1 {
		t.Errorf("%v is left over", all)
	}
}
