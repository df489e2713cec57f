package aesgcm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/aesgcm"
)

// names of all implementations there are.
var names = []string{"vaes512", "vaes256", "std"}

// EnvRequire names implementations that must not be missing, separated by commas.
const EnvRequire = "ESPALIER_REQUIRE_AESGCM"

// eachImplementation runs f for what this CPU has, each by its name.
func eachImplementation(t *testing.T, f func(t *testing.T, name string)) {
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			if !has(t, name) {
				for _, required := range bytes.Split([]byte(os.Getenv(EnvRequire)), []byte(",")) {
					if string(required) == name {
						t.Fatal("this CPU does not have it")
					}
				}
				t.Skip("this CPU does not have it")
			}
			f(t, name)
		})
	}
}

func has(t *testing.T, name string) bool {
	t.Setenv(aesgcm.EnvImplementation, name)
	_, err := aesgcm.New(make([]byte, 16), 16)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
	return err == nil
}

// newAEAD builds the implementation of that name.
func newAEAD(t *testing.T, name string, key []byte, tagSize int) aesgcm.AEAD {
	t.Helper()
	t.Setenv(aesgcm.EnvImplementation, name)
	a, err := aesgcm.New(key, tagSize)
	if err != nil {
		t.Fatal(err)
	}
	if a.Name() != name || a.TagSize() != tagSize {
		t.Fatalf("asked for %s with %d bytes, got %s with %d", name, tagSize, a.Name(), a.TagSize())
	}
	return a
}

var tagSizes = []int{16, 12, 8}

// sealed is what crypto/cipher makes of a plaintext, with a tag of tagSize bytes: a shorter tag
// is the beginning of the long one (NIST SP 800-38D §7.1).
func sealed(t *testing.T, key []byte, p *aesgcm.Packet, plaintext []byte, tagSize int) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return gcm.Seal(nil, p.Nonce[:], plaintext, p.AAD)[:len(plaintext)+tagSize]
}

// random is always the same.
func random() *rand.Rand { return rand.New(rand.NewPCG(7, 11)) }

func fill(r *rand.Rand, b []byte) []byte {
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, r.Uint64())
		b = b[8:]
	}
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	fill(r, b)
	return b
}

// fenced is memory with a page before and a page behind that nobody may touch.
type fenced struct{ inside []byte }

const canary = 0xa5

func fence(t *testing.T, size int) fenced {
	t.Helper()
	page := unix.Getpagesize()
	size = (size + page - 1) / page * page
	all, err := unix.Mmap(-1, 0, size+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(all) })
	for _, guard := range [][]byte{all[:page], all[page+size:]} {
		if err := unix.Mprotect(guard, unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	return fenced{all[page : page+size]}
}

// place returns n bytes at one end of the memory; the byte beyond is forbidden. What is left
// of the memory, as far as looked at, are canaries.
func (f fenced) place(n int, atEnd bool) []byte {
	for i := range f.inside[:min(len(f.inside), n+200)] {
		f.inside[i] = canary
	}
	for i := max(0, len(f.inside)-n-200); i < len(f.inside); i++ {
		f.inside[i] = canary
	}
	if atEnd {
		return f.inside[len(f.inside)-n:]
	}
	return f.inside[:n:n]
}

// untouched says whether the 100 bytes on the side without a fence are as they were.
func (f fenced) untouched(n int, atEnd bool) bool {
	side := f.inside[n:min(len(f.inside), n+100)]
	if atEnd {
		end := len(f.inside) - n
		side = f.inside[max(0, end-100):end]
	}
	return bytes.Count(side, []byte{canary}) == len(side)
}
