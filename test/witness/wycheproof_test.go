package witness

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"testing"

	"github.com/c2sp/wycheproof"

	"espalier/aesgcm"
)

// wycheproofCase is one case of a group of AES-GCM cases.
type wycheproofCase struct {
	ID                         int `json:"tcId"`
	Comment, Result            string
	Key, IV, AAD, Msg, CT, Tag string
	key, iv, aad, msg, ct, tag []byte
	keyBits, ivBits            int
}

func (c *wycheproofCase) decode(t *testing.T) {
	t.Helper()
	for _, f := range []struct {
		from string
		into *[]byte
	}{{c.Key, &c.key}, {c.IV, &c.iv}, {c.AAD, &c.aad}, {c.Msg, &c.msg}, {c.CT, &c.ct}, {c.Tag, &c.tag}} {
		b, err := hex.DecodeString(f.from)
		if err != nil {
			t.Fatalf("case %d: %v", c.ID, err)
		}
		*f.into = b
	}
}

// sealed is what Seal has to make of the message.
func (c *wycheproofCase) sealed() []byte { return append(bytes.Clone(c.ct), c.tag...) }

// wycheproofCases are all AES-GCM cases, those with IVs of 96 bits first.
func wycheproofCases(t *testing.T) (fitting, others []wycheproofCase) {
	t.Helper()
	raw, err := fs.ReadFile(wycheproof.TestVectors, "aes_gcm_test.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		NumberOfTests int
		TestGroups    []struct {
			IVSize, KeySize, TagSize int
			Tests                    []wycheproofCase
		}
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.TestGroups {
		for _, c := range g.Tests {
			c.keyBits, c.ivBits = g.KeySize, g.IVSize
			c.decode(t)
			if g.IVSize == 8*aesgcm.NonceSize && g.TagSize == 128 {
				fitting = append(fitting, c)
			} else {
				others = append(others, c)
			}
		}
	}
	if n := len(fitting) + len(others); n != file.NumberOfTests || len(fitting) == 0 || len(others) == 0 {
		t.Fatalf("%d and %d cases of %d", len(fitting), len(others), file.NumberOfTests)
	}
	return fitting, others
}

// implementations runs f once for each implementation of AES-GCM that this machine has.
func implementations(t *testing.T, f func(t *testing.T)) {
	for _, name := range []string{"std", "vaes256", "vaes512"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(aesgcm.EnvImplementation, name)
			if _, err := aesgcm.New(make([]byte, 16), 16); errors.Is(err, errors.ErrUnsupported) {
				t.Skip(err)
			}
			f(t)
		})
	}
}

func newAEAD(t *testing.T, key []byte) aesgcm.AEAD {
	t.Helper()
	aead, err := aesgcm.New(key, 16)
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

func packet(c *wycheproofCase, text []byte) aesgcm.Packet {
	p := aesgcm.Packet{AAD: bytes.Clone(c.aad), Text: bytes.Clone(text)}
	copy(p.Nonce[:], c.iv)
	return p
}

// TestWycheproof: what is valid seals to exactly the vector and opens to the message; what is
// invalid does not open and leaves nothing behind.
func TestWycheproof(t *testing.T) {
	implementations(t, func(t *testing.T) {
		cases, _ := wycheproofCases(t)
		results, keys := map[string]int{}, map[int]int{}
		for i := range cases {
			c := &cases[i]
			results[c.Result]++
			keys[c.keyBits]++
			aead := newAEAD(t, c.key)
			if c.Result == "valid" {
				batch := []aesgcm.Packet{packet(c, append(bytes.Clone(c.msg), make([]byte, 16)...))}
				if aead.Seal(batch); !batch[0].OK || !bytes.Equal(batch[0].Text, c.sealed()) {
					t.Errorf("case %d (%s): sealed to %x, want %x", c.ID, c.Comment, batch[0].Text, c.sealed())
				}
			}
			batch := []aesgcm.Packet{packet(c, c.sealed())}
			aead.Open(batch)
			checkOpened(t, c, &batch[0])
		}
		t.Logf("%d cases: %v, key sizes %v", len(cases), results, keys)
		if results["valid"] == 0 || results["invalid"] == 0 || results["valid"]+results["invalid"] != len(cases) {
			t.Errorf("cases by result: %v", results)
		}
		for _, bits := range []int{128, 192, 256} {
			if keys[bits] == 0 {
				t.Errorf("no case with a key of %d bits", bits)
			}
		}
	})
}

func checkOpened(t *testing.T, c *wycheproofCase, p *aesgcm.Packet) {
	t.Helper()
	if valid := c.Result == "valid"; p.OK != valid {
		t.Errorf("case %d (%s) is %s; opened: %v", c.ID, c.Comment, c.Result, p.OK)
	} else if valid && !bytes.Equal(p.Text[:len(c.msg)], c.msg) {
		t.Errorf("case %d (%s): opened to %x, want %x", c.ID, c.Comment, p.Text[:len(c.msg)], c.msg)
	} else if !valid && !bytes.Equal(p.Text, make([]byte, len(p.Text))) {
		t.Errorf("case %d (%s): what does not verify was left in the packet", c.ID, c.Comment)
	}
}

// TestWycheproofBatches puts a damaged copy between two good ones: it must not open, and must
// not harm its neighbours.
func TestWycheproofBatches(t *testing.T) {
	implementations(t, func(t *testing.T) {
		cases, _ := wycheproofCases(t)
		for i := range cases {
			c := &cases[i]
			if c.Result != "valid" {
				continue
			}
			damaged := c.sealed()
			damaged[i%len(damaged)] ^= 1 << (i % 8)
			batch := []aesgcm.Packet{packet(c, c.sealed()), packet(c, damaged), packet(c, c.sealed())}
			newAEAD(t, c.key).Open(batch)
			checkOpened(t, c, &batch[0])
			checkOpened(t, c, &batch[2])
			if batch[1].OK {
				t.Errorf("case %d: opened with bit %d of byte %d flipped", c.ID, i%8, i%len(damaged))
			}
		}
	})
}

// TestWycheproofOtherIVs: a nonce is an array of 12 bytes, so that the hashing of other IVs
// (where the bugs are) has no way in. What fits of such an IV into the array verifies nothing.
func TestWycheproofOtherIVs(t *testing.T) {
	var p aesgcm.Packet
	if len(p.Nonce) != 12 {
		t.Fatalf("a nonce has %d bytes", len(p.Nonce))
	}
	implementations(t, func(t *testing.T) {
		_, others := wycheproofCases(t)
		for i := range others {
			c := &others[i]
			if len(c.iv) == len(p.Nonce) {
				t.Fatalf("case %d (%s) has a nonce of 96 bits", c.ID, c.Comment)
			}
			batch := []aesgcm.Packet{packet(c, c.sealed())}
			if newAEAD(t, c.key).Open(batch); batch[0].OK {
				t.Errorf("case %d (%s): opened with an IV of %d bits", c.ID, c.Comment, c.ivBits)
			}
		}
		t.Logf("%d cases", len(others))
	})
}
