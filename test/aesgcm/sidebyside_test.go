package aesgcm

import (
	"bytes"
	"math/rand/v2"
	"runtime/debug"
	"testing"

	"espalier/aesgcm"
)

// TestSideBySide: batches in which all packets have the same number of blocks, so that they may
// share vectors, or where one does not fit in. Each is in fenced memory of its own, with a last
// block of its own length, in place or apart; one is forged.
func TestSideBySide(t *testing.T) {
	eachImplementation(t, func(t *testing.T, name string) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		r := random()
		const most = 9
		var texts, froms, aads []fenced
		for range most {
			texts, froms, aads = append(texts, fence(t, 4096)), append(froms, fence(t, 4096)), append(aads, fence(t, 4096))
		}
		for blocks := range 66 {
			for round := range 24 {
				keySize := []int{16, 24, 32}[round%3]
				tagSize := tagSizes[round/3%3]
				s := sideBySide{key: randomBytes(r, keySize), tagSize: tagSize}
				s.aead = newAEAD(t, name, s.key, tagSize)
				for i := range 1 + r.IntN(most) {
					n := 0
					if blocks > 0 {
						n = 16*blocks - []int{0, r.IntN(16), 4 * r.IntN(4)}[r.IntN(3)]
					}
					if r.IntN(12) == 0 {
						n = r.IntN(1200)
					}
					s.add(t, r, n, texts[i], froms[i], aads[i])
				}
				s.run(t, r)
				if t.Failed() {
					t.Fatalf("%d packets of about %d blocks, key of %d bytes, tag of %d", len(s.members), blocks, keySize, tagSize)
				}
			}
		}
	})
}

type sideBySide struct {
	key     []byte
	tagSize int
	aead    aesgcm.AEAD
	members []fencedPacket
}

type fencedPacket struct {
	p                 aesgcm.Packet
	plaintext, sealed []byte
	text, from        fenced
	atEnd             bool
}

func (s *sideBySide) add(t *testing.T, r *rand.Rand, n int, text, from, aad fenced) {
	m := fencedPacket{text: text, from: from, atEnd: r.IntN(3) > 0, plaintext: randomBytes(r, n)}
	fill(r, m.p.Nonce[:])
	m.p.AAD = aad.place([]int{8, 8, 12, 0, r.IntN(40)}[r.IntN(5)], m.atEnd)
	fill(r, m.p.AAD)
	m.sealed = sealed(t, s.key, &m.p, m.plaintext, s.tagSize)
	s.members = append(s.members, m)
}

// lay makes a batch of the inputs.
func (s *sideBySide) lay(r *rand.Rand, input func(m *fencedPacket) []byte) []aesgcm.Packet {
	var batch []aesgcm.Packet
	for i := range s.members {
		m := &s.members[i]
		p, in := m.p, input(m)
		p.Text = m.text.place(len(in), m.atEnd)
		if r.IntN(2) == 0 {
			p.From = m.from.place(len(in), m.atEnd)
			copy(p.From, in)
		} else {
			copy(p.Text, in)
		}
		batch = append(batch, p)
	}
	return batch
}

func (s *sideBySide) run(t *testing.T, r *rand.Rand) {
	t.Helper()
	batch := s.lay(r, func(m *fencedPacket) []byte {
		return append(bytes.Clone(m.plaintext), bytes.Repeat([]byte{0xee}, s.tagSize)...)
	})
	s.aead.Seal(batch)
	for i, p := range batch {
		m := &s.members[i]
		if !p.OK || !bytes.Equal(p.Text, m.sealed) {
			t.Errorf("packet %d, %d bytes, apart %v: sealed OK=%v\n got %x\nwant %x", i, len(m.plaintext), p.From != nil, p.OK, p.Text, m.sealed)
		}
		m.checkAround(t, i, &p)
	}

	forged := r.IntN(2 * len(batch))
	batch = s.lay(r, func(m *fencedPacket) []byte {
		in := bytes.Clone(m.sealed)
		if forged < len(s.members) && m == &s.members[forged] {
			in[r.IntN(len(in))] ^= 1 << r.IntN(8)
		}
		return in
	})
	s.aead.Open(batch)
	for i, p := range batch {
		m := &s.members[i]
		switch {
		case i == forged && (p.OK || bytes.Count(p.Text, []byte{0}) != len(p.Text)):
			t.Errorf("packet %d, %d bytes, apart %v: forged, OK=%v, %x", i, len(m.plaintext), p.From != nil, p.OK, p.Text)
		case i != forged && (!p.OK || !bytes.Equal(p.Text[:len(m.plaintext)], m.plaintext)):
			t.Errorf("packet %d, %d bytes, apart %v: opened OK=%v\n got %x\nwant %x", i, len(m.plaintext), p.From != nil, p.OK, p.Text, m.plaintext)
		}
		m.checkAround(t, i, &p)
	}
}

func (m *fencedPacket) checkAround(t *testing.T, i int, p *aesgcm.Packet) {
	t.Helper()
	if !m.text.untouched(len(p.Text), m.atEnd) || p.From != nil && !m.from.untouched(len(p.Text), m.atEnd) {
		t.Errorf("packet %d: something outside of the text is written", i)
	}
}
