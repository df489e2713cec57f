package aesgcm

import (
	"bytes"
	"runtime/debug"
	"testing"

	"espalier/aesgcm"
)

// lengths are all that a packet has, and some of what nobody sends.
func lengths() (all []int) {
	for n := range 1101 {
		all = append(all, n)
	}
	for n := 1101; n < 65536; n += n/9 + 1 {
		all = append(all, n)
	}
	for _, n := range []int{1408, 2048, 4096, 8960, 9000, 16384, 32768, 65535, 65536} {
		all = append(all, n-1, n, n+1)
	}
	return all
}

// additional data: the two lengths of ESP, none, and others up to several blocks.
var aadSizes = []int{8, 12, 8, 12, 0, 1, 7, 9, 11, 13, 15, 16, 17, 20, 31, 32, 33, 48, 100, 300}

// TestEveryLength: every length, at both ends of memory that is fenced off, in place and
// apart: what comes out is what crypto/cipher says, opens again, and does not once it is
// changed. A byte read or written outside of the slices is a fault or a changed canary.
func TestEveryLength(t *testing.T) {
	eachImplementation(t, func(t *testing.T, name string) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		r := random()
		text, from, aad := fence(t, 65537+16), fence(t, 65537+16), fence(t, 4096)
		for i, n := range lengths() {
			key := randomBytes(r, []int{16, 24, 32}[i%3])
			for _, tagSize := range tagSizes {
				c := lengthCase{aead: newAEAD(t, name, key, tagSize), key: key, tagSize: tagSize, text: text, from: from}
				c.plaintext = randomBytes(r, n)
				fill(r, c.p.Nonce[:])
				for _, atEnd := range []bool{true, false} {
					c.atEnd = atEnd
					c.p.AAD = aad.place(aadSizes[i%len(aadSizes)], atEnd)
					fill(r, c.p.AAD)
					for _, apart := range []bool{false, true} {
						c.run(t, apart)
					}
				}
				if t.Failed() {
					t.Fatalf("%d bytes, tag %d, AAD %d", n, tagSize, len(c.p.AAD))
				}
			}
		}
	})
}

type lengthCase struct {
	aead       aesgcm.AEAD
	key        []byte
	tagSize    int
	p          aesgcm.Packet // nonce and additional data
	plaintext  []byte
	text, from fenced
	atEnd      bool
}

// lay makes a packet whose input is in; what is apart is written over something.
func (c *lengthCase) lay(in []byte, apart bool) []aesgcm.Packet {
	p := c.p
	p.Text = c.text.place(len(in), c.atEnd)
	if apart {
		p.From = c.from.place(len(in), c.atEnd)
		copy(p.From, in)
	} else {
		copy(p.Text, in)
	}
	return []aesgcm.Packet{p}
}

func (c *lengthCase) run(t *testing.T, apart bool) {
	t.Helper()
	want := sealed(t, c.key, &c.p, c.plaintext, c.tagSize)
	room := append(bytes.Clone(c.plaintext), bytes.Repeat([]byte{0xee}, c.tagSize)...)
	n := len(want)

	batch := c.lay(room, apart)
	c.aead.Seal(batch)
	if !batch[0].OK || !bytes.Equal(batch[0].Text, want) {
		t.Errorf("apart %v, at end %v: sealed OK=%v\n got %x\nwant %x", apart, c.atEnd, batch[0].OK, batch[0].Text, want)
	}
	c.checkAround(t, batch[0].From, room)

	batch = c.lay(want, apart)
	c.aead.Open(batch)
	if !batch[0].OK || !bytes.Equal(batch[0].Text[:n-c.tagSize], c.plaintext) {
		t.Errorf("apart %v, at end %v: opened OK=%v\n got %x\nwant %x", apart, c.atEnd, batch[0].OK, batch[0].Text, c.plaintext)
	}
	// Where the tag is, or was not copied to, nothing changes. The standard library decrypts
	// the last block whole.
	after := want[n-c.tagSize:]
	if apart {
		after = bytes.Repeat([]byte{canary}, c.tagSize)
	}
	if c.aead.Name() != "std" && !bytes.Equal(batch[0].Text[n-c.tagSize:], after) {
		t.Errorf("apart %v, at end %v: opened, and after the plaintext there is %x, not %x", apart, c.atEnd, batch[0].Text[n-c.tagSize:], after)
	}
	c.checkAround(t, batch[0].From, want)

	forged := bytes.Clone(want)
	forged[(n*7+len(c.p.AAD))%n] ^= 1 << (n % 8)
	batch = c.lay(forged, apart)
	c.aead.Open(batch)
	if batch[0].OK || bytes.Count(batch[0].Text, []byte{0}) != n {
		t.Errorf("apart %v, at end %v: forged: OK=%v, %x", apart, c.atEnd, batch[0].OK, batch[0].Text)
	}
	c.checkAround(t, batch[0].From, forged)
}

// checkAround looks at the memory beside the text, and whether what was only read is as it was.
func (c *lengthCase) checkAround(t *testing.T, from, in []byte) {
	t.Helper()
	if !c.text.untouched(len(in), c.atEnd) || from != nil && !c.from.untouched(len(in), c.atEnd) {
		t.Errorf("at end %v: something outside of the text is written", c.atEnd)
	}
	if from != nil && !bytes.Equal(from, in) {
		t.Errorf("at end %v: From is written", c.atEnd)
	}
}

// TestEveryAlignment: input and output at every offset in a cache line, the same and others.
func TestEveryAlignment(t *testing.T) {
	eachImplementation(t, func(t *testing.T, name string) {
		r := random()
		key := randomBytes(r, 32)
		a := newAEAD(t, name, key, 16)
		arena, other := make([]byte, 4096), make([]byte, 4096)
		for offset := range 64 {
			for _, n := range []int{0, 1, 4, 15, 16, 17, 31, 32, 33, 47, 48, 64, 65, 100, 112, 128, 200, 239, 240, 241, 255, 256, 300, 496, 500, 752, 1024, 1408} {
				for _, toOffset := range []int{offset, 0, 63 - offset, (offset + 16) % 64} {
					p := aesgcm.Packet{AAD: randomBytes(r, 8)}
					plaintext := randomBytes(r, n)
					want := sealed(t, key, &p, plaintext, 16)
					p.Text = other[64+toOffset:][:n+16]
					p.From = arena[64+offset:][:n+16]
					copy(p.From, plaintext)
					batch := []aesgcm.Packet{p}
					if a.Seal(batch); !batch[0].OK || !bytes.Equal(p.Text, want) {
						t.Fatalf("%d bytes from %d to %d: sealed %x, want %x", n, offset, toOffset, p.Text, want)
					}
					batch[0].From, batch[0].Text = p.Text, p.From
					if a.Open(batch); !batch[0].OK || !bytes.Equal(batch[0].Text[:n], plaintext) {
						t.Fatalf("%d bytes from %d to %d: opened %x, want %x", n, toOffset, offset, batch[0].Text, plaintext)
					}
				}
			}
		}
	})
}
