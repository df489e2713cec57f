package aesgcm

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// eachImplementation tests by name, never through the choice that New makes.
func eachImplementation(t *testing.T, f func(t *testing.T, build func(key []byte, tagSize int) AEAD)) {
	for _, i := range implementations {
		t.Run(i.name, func(t *testing.T) {
			if missing := i.missing(); missing != "" {
				t.Skip("this CPU lacks " + missing)
			}
			f(t, func(key []byte, tagSize int) AEAD {
				a, err := i.build(key, tagSize)
				if err != nil {
					t.Fatal(err)
				}
				if a.Name() != i.name || a.TagSize() != tagSize {
					t.Fatalf("built %q with tags of %d bytes, got %q and %d", i.name, tagSize, a.Name(), a.TagSize())
				}
				return a
			})
		})
	}
}

func unhex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectors(t *testing.T) {
	eachImplementation(t, func(t *testing.T, build func([]byte, int) AEAD) {
		for _, v := range vectors {
			for _, tagSize := range []int{16, 12, 8} {
				// A shorter tag is the first bytes of the long one (NIST SP 800-38D §7.1).
				want := unhex(t, v.text)
				want = want[:len(want)-16+tagSize]
				plaintext := unhex(t, v.plaintext)
				a := build(unhex(t, v.key), tagSize)

				p := Packet{AAD: unhex(t, v.aad), Text: append(bytes.Clone(plaintext), bytes.Repeat([]byte{0xee}, tagSize)...)}
				copy(p.Nonce[:], unhex(t, v.nonce))
				batch := []Packet{p}
				a.Seal(batch)
				if !batch[0].OK || !bytes.Equal(batch[0].Text, want) {
					t.Errorf("%s, tag %d: sealed OK=%v\n got %x\nwant %x", v.name, tagSize, batch[0].OK, batch[0].Text, want)
				}
				a.Open(batch)
				if !batch[0].OK || !bytes.Equal(batch[0].Text[:len(plaintext)], plaintext) {
					t.Errorf("%s, tag %d: opened OK=%v\n got %x\nwant %x", v.name, tagSize, batch[0].OK, batch[0].Text, plaintext)
				}
			}
		}
	})
}

// One bad packet in a batch is cleared and does not touch its neighbours.
func TestOpenRefusesEveryChange(t *testing.T) {
	eachImplementation(t, func(t *testing.T, build func([]byte, int) AEAD) {
		for _, tagSize := range []int{16, 12, 8} {
			a := build(bytes.Repeat([]byte{7}, 16), tagSize)
			plaintext := []byte("thirty-three bytes, one odd block")
			sealed := func() []Packet {
				batch := []Packet{{}, {}, {}}
				for i := range batch {
					batch[i].Nonce[11] = byte(i)
					batch[i].AAD = []byte{1, 2, 3, 4, 5, 6, 7, byte(i)}
					batch[i].Text = append(bytes.Clone(plaintext), bytes.Repeat([]byte{0}, tagSize)...)
				}
				a.Seal(batch)
				return batch
			}
			check := func(what string, batch []Packet) {
				t.Helper()
				a.Open(batch)
				if batch[1].OK || !bytes.Equal(batch[1].Text, bytes.Repeat([]byte{0}, len(batch[1].Text))) {
					t.Errorf("tag %d, %s: OK=%v text %x", tagSize, what, batch[1].OK, batch[1].Text)
				}
				for _, i := range []int{0, 2} {
					if !batch[i].OK || !bytes.Equal(batch[i].Text[:len(plaintext)], plaintext) {
						t.Errorf("tag %d, %s: neighbour %d: OK=%v text %q", tagSize, what, i, batch[i].OK, batch[i].Text)
					}
				}
			}
			for bit := range (len(plaintext) + tagSize) * 8 {
				batch := sealed()
				batch[1].Text[bit/8] ^= 1 << (bit % 8)
				check("text bit flipped", batch)
			}
			for bit := range 8 * 8 {
				batch := sealed()
				batch[1].AAD[bit/8] ^= 1 << (bit % 8)
				check("AAD bit flipped", batch)
			}
			for bit := range NonceSize * 8 {
				batch := sealed()
				batch[1].Nonce[bit/8] ^= 1 << (bit % 8)
				check("nonce bit flipped", batch)
			}
			for n := range len(plaintext) + tagSize {
				batch := sealed()
				batch[1].Text = batch[1].Text[:n]
				batch[1].OK = true
				check("truncated", batch)
			}
		}
	})
}

// Bytes before and after Text belong to somebody else, spare capacity included.
func TestStaysInsideText(t *testing.T) {
	eachImplementation(t, func(t *testing.T, build func([]byte, int) AEAD) {
		a := build(bytes.Repeat([]byte{9}, 32), 16)
		for n := range 300 {
			arena := bytes.Repeat([]byte{0xa5}, n+16+64)
			batch := []Packet{{Text: arena[32 : 32+n+16]}}
			a.Seal(batch)
			a.Open(batch)
			if !batch[0].OK {
				t.Fatalf("length %d does not open", n)
			}
			for i, b := range arena {
				if (i < 32+n || i >= 32+n+16) && b != 0xa5 {
					t.Fatalf("length %d: byte %d outside the text was changed", n, i-32)
				}
			}
		}
	})
}

func TestSealTooShort(t *testing.T) {
	eachImplementation(t, func(t *testing.T, build func([]byte, int) AEAD) {
		a := build(bytes.Repeat([]byte{9}, 16), 16)
		batch := []Packet{{Text: []byte("15 bytes of tex"), OK: true}, {}}
		a.Seal(batch)
		if batch[0].OK || batch[1].OK || !bytes.Equal(batch[0].Text, bytes.Repeat([]byte{0}, 15)) {
			t.Errorf("got %v", batch)
		}
	})
}

func TestWipe(t *testing.T) {
	eachImplementation(t, func(t *testing.T, build func([]byte, int) AEAD) {
		a := build(bytes.Repeat([]byte{9}, 16), 16)
		batch := []Packet{{Text: bytes.Repeat([]byte{1}, 40)}}
		a.Seal(batch)
		a.Wipe()
		a.Open(batch)
		if batch[0].OK || !bytes.Equal(batch[0].Text, bytes.Repeat([]byte{0}, 40)) {
			t.Error("a wiped key opens packets")
		}
		batch[0].Text = bytes.Repeat([]byte{1}, 40)
		a.Seal(batch)
		if batch[0].OK || !bytes.Equal(batch[0].Text, bytes.Repeat([]byte{0}, 40)) {
			t.Error("a wiped key leaves cleartext behind")
		}
		a.Wipe()
	})
}

func TestNoAllocations(t *testing.T) {
	eachImplementation(t, func(t *testing.T, build func([]byte, int) AEAD) {
		a := build(bytes.Repeat([]byte{9}, 16), 16)
		batch := []Packet{{}, {}, {}, {}}
		for i := range batch {
			batch[i].AAD = bytes.Repeat([]byte{1}, 8)
			batch[i].Text = bytes.Repeat([]byte{2}, 1424)
		}
		if n := testing.AllocsPerRun(100, func() { a.Seal(batch) }); n != 0 {
			t.Errorf("Seal allocates %v times", n)
		}
		if n := testing.AllocsPerRun(100, func() { a.Seal(batch); a.Open(batch) }); n != 0 {
			t.Errorf("Open allocates %v times", n)
		}
		if !batch[0].OK {
			t.Fatal("the measured packets do not open")
		}
		if n := testing.AllocsPerRun(100, func() { a.Open(batch) }); n != 0 {
			t.Errorf("a failing Open allocates %v times", n)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	secret := bytes.Repeat([]byte("Kq"), 32)
	for _, c := range []struct {
		name        string
		key, tag    int
		env         string
		want        string
		unsupported bool
	}{
		{name: "no key", key: 0, tag: 16, want: "0 bytes"},
		{name: "key with salt", key: 20, tag: 16, want: "20 bytes"},
		{name: "long key", key: 33, tag: 16, want: "33 bytes"},
		{name: "13-byte tag", key: 16, tag: 13, want: "use 16, 12 or 8"},
		{name: "no tag", key: 16, tag: 0, want: "use 16, 12 or 8"},
		{name: "negative tag", key: 16, tag: -1, want: "use 16, 12 or 8"},
		{name: "unknown", key: 16, tag: 16, env: "rot13", want: "rot13"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv(EnvImplementation, c.env)
			a, err := New(secret[:c.key], c.tag)
			if a != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, %v: want an error with %q", a, err, c.want)
			}
			if errors.Is(err, errors.ErrUnsupported) != c.unsupported {
				t.Errorf("%v: unsupported is %v", err, !c.unsupported)
			}
			if strings.Contains(err.Error(), "KqKq") || strings.Contains(err.Error(), "4b71") {
				t.Errorf("the error carries key bytes: %v", err)
			}
		})
	}
}

func TestNew(t *testing.T) {
	for _, env := range []string{"", "std"} {
		t.Setenv(EnvImplementation, env)
		for _, n := range []int{16, 24, 32} {
			key := make([]byte, n)
			rand.Read(key)
			a, err := New(key, 16)
			if err != nil {
				t.Fatal(err)
			}
			batch := []Packet{{Text: make([]byte, 80)}}
			a.Seal(batch)
			clear(key) // New keeps its own copy
			if a.Open(batch); !batch[0].OK {
				t.Errorf("%d-byte key: does not open what it sealed", n)
			}
		}
	}
}

// An implementation asked for is either what one gets or an error that says what is missing.
func TestNewByName(t *testing.T) {
	for _, name := range []string{"vaes512", "vaes256", "std"} {
		t.Setenv(EnvImplementation, name)
		a, err := New(make([]byte, 16), 16)
		here := slices.ContainsFunc(implementations, func(i implementation) bool { return i.name == name && i.missing() == "" })
		switch {
		case here && (err != nil || a.Name() != name):
			t.Errorf("%s: got %v, %v", name, a, err)
		case !here && (a != nil || !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), name)):
			t.Errorf("%s: got %v, %v", name, a, err)
		}
	}
}

func TestPrintsNoKey(t *testing.T) {
	eachImplementation(t, func(t *testing.T, build func([]byte, int) AEAD) {
		a := build([]byte("KqKqKqKqKqKqKqKq"), 16)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			if got, want := fmt.Sprintf(verb, a), "AES-GCM ("+a.Name()+")"; got != want {
				t.Errorf("%s prints %s", verb, got)
			}
		}
	})
}

// Under fips140=only a nonce chosen by RFC 4106 is out of the question. The mode is
// fixed when a process starts, so the test runs itself once more.
func TestFIPSOnlyIsAnError(t *testing.T) {
	const child = "AESGCM_TEST_FIPS_CHILD"
	if os.Getenv(child) != "" {
		a, err := New(make([]byte, 16), 16)
		if a != nil || err == nil {
			t.Fatal("New succeeds under fips140=only")
		}
		os.Stdout.WriteString("refused: " + err.Error() + "\n")
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestFIPSOnlyIsAnError$")
	cmd.Env = append(os.Environ(), child+"=1", "GODEBUG=fips140=only", EnvImplementation+"=")
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte("incompatible with the purego build tag")) {
		t.Skip("this build has no FIPS 140 mode")
	}
	if err != nil || !bytes.Contains(out, []byte("refused: AES-GCM: ")) || !bytes.Contains(out, []byte("FIPS")) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func BenchmarkSeal(b *testing.B) {
	for _, i := range implementations {
		if i.missing() != "" {
			continue
		}
		for _, size := range []struct {
			name string
			n    int
		}{{"64", 64}, {"1408", 1408}} {
			b.Run(i.name+"/"+size.name, func(b *testing.B) {
				a, err := i.build(make([]byte, 16), 16)
				if err != nil {
					b.Fatal(err)
				}
				batch := make([]Packet, 32)
				for i := range batch {
					batch[i] = Packet{AAD: make([]byte, 8), Text: make([]byte, size.n+16)}
				}
				b.SetBytes(int64(len(batch) * size.n))
				for b.Loop() {
					a.Seal(batch)
				}
			})
		}
	}
}
