package usedkeys

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"espalier/ipsec"
)

func open(t *testing.T, dir string) *Record {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// claim has uses recorded as installed and tells which were refused.
func claim(t *testing.T, dir string, uses ...Use) (refused []bool) {
	t.Helper()
	r := open(t, dir)
	defer r.Close()
	c, errs, err := r.Claim(uses...)
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range errs {
		if err != nil && !errors.Is(err, ErrUsed) {
			t.Fatal(err)
		}
		refused = append(refused, err != nil)
		c.Installed(i)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return refused
}

func TestClaim(t *testing.T) {
	key, other := ipsec.RandomKey(36), ipsec.RandomKey(36)
	sends := func(k ipsec.Key, scope string) Use { return Use{k, true, scope} }
	receives := func(k ipsec.Key, scope string) Use { return Use{k, false, scope} }
	for _, tt := range []struct {
		name          string
		first, second Use
		refused       bool
	}{
		{"sending twice", sends(key, "a"), sends(key, "a"), true},
		{"sending in two places", sends(key, "a"), sends(key, "b"), true},
		{"sending what was received by", receives(key, "a"), sends(key, "a"), true},
		{"both ends on one host, the receiver first", receives(key, "a"), sends(key, "b"), false},
		{"both ends on one host, the sender first", sends(key, "a"), receives(key, "b"), false},
		{"receiving twice", receives(key, "a"), receives(key, "a"), false},
		{"another key", sends(key, "a"), sends(other, "a"), false},
		{"another length", sends(ipsec.NewKey(make([]byte, 20)), "a"), sends(ipsec.NewKey(make([]byte, 36)), "a"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			if claim(t, dir, tt.first)[0] {
				t.Fatal("the first use was refused")
			}
			if got := claim(t, dir, tt.second)[0]; got != tt.refused {
				t.Errorf("the second use: refused is %v, want %v", got, tt.refused)
			}
			together := claim(t, t.TempDir(), tt.first, tt.second)
			if together[0] || together[1] != tt.refused {
				t.Errorf("in one call: refused are %v, want false and %v", together, tt.refused)
			}
		})
	}
}

// What was not installed after all may be used later.
func TestNotInstalled(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	defer r.Close()
	use := Use{ipsec.RandomKey(20), true, ""}
	for try := range 3 {
		c, refused, err := r.Claim(use)
		if err != nil || refused[0] != nil {
			t.Fatalf("try %d: %v, %v", try, refused, err)
		}
		if _, refused, _ := r.Claim(use); !errors.Is(refused[0], ErrUsed) {
			t.Error("a claim does not count while it is open")
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// A refused use, and one that was there before, are not forgotten with a claim.
	claimed, _, _ := r.Claim(use)
	claimed.Installed(0)
	claimed.Close()
	again, refused, err := r.Claim(use, Use{use.Key, false, "a"})
	if err != nil || refused[0] == nil || refused[1] != nil {
		t.Fatal(refused, err)
	}
	again.Close()
	if _, refused, _ := r.Claim(use); !errors.Is(refused[0], ErrUsed) {
		t.Error("a closed claim took along what was installed")
	}
}

// The file holds no key, is for its owner alone, and knows keys by names that no other file has.
func TestFile(t *testing.T) {
	key := ipsec.NewKey(bytes.Repeat([]byte("0123456789abcdef"), 2)[:20])
	var files [2][]byte
	for i := range files {
		dir := filepath.Join(t.TempDir(), "state")
		claim(t, dir, Use{key, true, "a"})
		path := filepath.Join(dir, "used-keys.db")
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if files[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(files[i], key.ExposeSecretBytes()[:8]) {
			t.Error("the key is in the file")
		}
		r := open(t, dir)
		name := r.name(key)
		r.Close()
		if !bytes.Contains(files[i], name) || i == 1 && bytes.Contains(files[0], name) {
			t.Error("the key's name is not the file's own")
		}
	}
}

func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "used-keys.db"), bytes.Repeat([]byte("no record "), 2000), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := Open(dir); err == nil {
		r.Close()
		t.Error("a file of something else was opened")
	}
}
