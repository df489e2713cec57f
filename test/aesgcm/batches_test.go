package aesgcm

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"espalier/aesgcm"
)

// sa is a key with its AEAD.
type sa struct {
	key  []byte
	aead aesgcm.AEAD
}

// TestBatches: what becomes of a packet does not depend on its company, of whatever length,
// SA, implementation and fate.
func TestBatches(t *testing.T) {
	eachImplementation(t, func(t *testing.T, name string) {
		r := random()
		for range 300 {
			sas := []sa{newSA(t, r, name)}
			for range r.IntN(3) {
				sas = append(sas, newSA(t, r, name))
			}
			if r.IntN(4) == 0 {
				sas = append(sas, newSA(t, r, "std"))
			}
			checkBatch(t, r, sas)
		}
	})
}

func newSA(t *testing.T, r *rand.Rand, name string) sa {
	key := randomBytes(r, []int{16, 24, 32}[r.IntN(3)])
	return sa{key, newAEAD(t, name, key, tagSizes[r.IntN(3)])}
}

// member is a packet of a batch and what should become of it.
type member struct {
	sa        sa
	plaintext []byte
	sealed    []byte
	short     bool // no room for a tag
	forged    bool
}

func checkBatch(t *testing.T, r *rand.Rand, sas []sa) {
	t.Helper()
	batch := make([]aesgcm.Packet, r.IntN(40))
	members := make([]member, len(batch))
	for i := range batch {
		p, m := &batch[i], &members[i]
		m.sa = sas[0]
		if s := r.IntN(len(sas)); s > 0 || r.IntN(2) == 0 {
			m.sa, p.Key = sas[s], sas[s].aead
		}
		fill(r, p.Nonce[:])
		p.AAD = randomBytes(r, []int{8, 12, r.IntN(50)}[r.IntN(3)])
		m.plaintext = randomBytes(r, []int{r.IntN(20), 64, r.IntN(300), r.IntN(2000)}[r.IntN(4)])
		m.sealed = sealed(t, m.sa.key, p, m.plaintext, m.sa.aead.TagSize())
		p.Text = append(bytes.Clone(m.plaintext), make([]byte, m.sa.aead.TagSize())...)
		if m.short = r.IntN(15) == 0; m.short {
			p.Text = p.Text[:r.IntN(m.sa.aead.TagSize())]
		}
		if r.IntN(3) == 0 {
			p.From, p.Text = p.Text, randomBytes(r, len(p.Text))
		}
		p.OK = r.IntN(2) == 0
	}

	sas[0].aead.Seal(batch)
	for i := range batch {
		m, p := &members[i], &batch[i]
		switch {
		case m.short && (p.OK || bytes.Count(p.Text, []byte{0}) != len(p.Text)):
			t.Fatalf("packet %d of %d is too short and becomes OK=%v, %x", i, len(batch), p.OK, p.Text)
		case !m.short && (!p.OK || !bytes.Equal(p.Text, m.sealed)):
			t.Fatalf("packet %d of %d, %d bytes: sealed OK=%v\n got %x\nwant %x", i, len(batch), len(m.plaintext), p.OK, p.Text, m.sealed)
		}
		p.From = nil
		if m.forged = !m.short && r.IntN(6) == 0; m.forged {
			p.Text[r.IntN(len(p.Text))] ^= 1 << r.IntN(8)
		}
		if r.IntN(3) == 0 {
			p.From, p.Text = p.Text, randomBytes(r, len(p.Text))
		}
		p.OK = r.IntN(2) == 0
	}

	sas[0].aead.Open(batch)
	for i := range batch {
		m, p := &members[i], &batch[i]
		switch bad := m.short || m.forged; {
		case bad && (p.OK || bytes.Count(p.Text, []byte{0}) != len(p.Text)):
			t.Fatalf("packet %d of %d must not open and becomes OK=%v, %x", i, len(batch), p.OK, p.Text)
		case !bad && (!p.OK || !bytes.Equal(p.Text[:len(m.plaintext)], m.plaintext)):
			t.Fatalf("packet %d of %d, %d bytes: opened OK=%v\n got %x\nwant %x", i, len(batch), len(m.plaintext), p.OK, p.Text, m.plaintext)
		}
	}
}

// A From that is not as long as Text is refused.
func TestFromOfAnotherLength(t *testing.T) {
	eachImplementation(t, func(t *testing.T, name string) {
		a := newAEAD(t, name, make([]byte, 16), 16)
		for _, n := range []int{0, 1, 79, 81, 200} {
			for what, f := range map[string]func([]aesgcm.Packet){"Seal": a.Seal, "Open": a.Open} {
				batch := []aesgcm.Packet{{From: make([]byte, n), Text: bytes.Repeat([]byte{1}, 80), OK: true}}
				if f(batch); batch[0].OK || bytes.Count(batch[0].Text, []byte{0}) != 80 {
					t.Errorf("%s from %d bytes to 80: %+v", what, n, batch[0])
				}
			}
		}
	})
}
