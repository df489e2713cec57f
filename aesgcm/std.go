package aesgcm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"fmt"
)

// std is the standard library's AES-GCM, one packet after the other. The zero value and a
// wiped one hold no key and fail every packet.
type std struct {
	block   cipher.Block
	gcm     cipher.AEAD
	tagSize int
}

func newStd(key []byte, tagSize int) (AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("AES-GCM (%s): %w", stdName, err)
	}
	// It has no tags of 8 bytes: they are the beginning of those of 16.
	gcm, err := cipher.NewGCMWithTagSize(block, max(tagSize, 12))
	if err != nil {
		return nil, fmt.Errorf("AES-GCM (%s): %w", stdName, err)
	}
	return &std{block: block, gcm: gcm, tagSize: tagSize}, nil
}

func (s *std) Seal(batch []Packet) {
	for len(batch) > 0 {
		key, n := run(s, batch)
		if key == AEAD(s) {
			for i := range n {
				s.seal(&batch[i])
			}
		} else {
			key.Seal(batch[:n])
		}
		batch = batch[n:]
	}
}

func (s *std) Open(batch []Packet) {
	for len(batch) > 0 {
		key, n := run(s, batch)
		if key == AEAD(s) {
			for i := range n {
				s.open(&batch[i])
			}
		} else {
			key.Open(batch[:n])
		}
		batch = batch[n:]
	}
}

func (s *std) seal(p *Packet) {
	from, ok := s.source(p)
	if p.OK = ok; !ok {
		clear(p.Text) // cleartext must not look like a sealed packet
		return
	}
	plaintext := from[:len(from)-s.tagSize]
	if s.tagSize == 8 || s.overruns(len(plaintext)) {
		copy(p.Text, s.gcm.Seal(nil, p.Nonce[:], plaintext, p.AAD))
		return
	}
	s.gcm.Seal(p.Text[:0], p.Nonce[:], plaintext, p.AAD)
}

func (s *std) open(p *Packet) {
	from, ok := s.source(p)
	if ok && s.tagSize == 8 {
		ok = s.openByHand(p, from)
	} else if ok {
		into := p.Text[:0]
		if s.overruns(len(from) - s.tagSize) {
			from = append(make([]byte, 0, len(from)+aes.BlockSize), from...)
			into = nil
		}
		plaintext, err := s.gcm.Open(into, p.Nonce[:], from, p.AAD)
		if ok = err == nil; ok && into == nil {
			copy(p.Text, plaintext)
		}
	}
	if p.OK = ok; !ok {
		clear(p.Text)
	}
}

// openByHand decrypts and seals again to have a tag of which to compare 8 bytes. It takes twice
// the time of opening, and memory.
func (s *std) openByHand(p *Packet, from []byte) bool {
	n := len(from) - s.tagSize
	plaintext := make([]byte, n)
	var counter [aes.BlockSize]byte
	copy(counter[:], p.Nonce[:])
	counter[aes.BlockSize-1] = 2 // 1 is the tag's
	cipher.NewCTR(s.block, counter[:]).XORKeyStream(plaintext, from[:n])
	again := s.gcm.Seal(nil, p.Nonce[:], plaintext, p.AAD)
	ok := subtle.ConstantTimeCompare(again[n:][:s.tagSize], from[n:]) == 1
	if ok {
		copy(p.Text, plaintext)
	}
	clear(plaintext)
	return ok
}

// overruns: on amd64 the standard library reads and writes the last block whole, as if the
// tag were of 16 bytes, and so goes past the end of Text if what follows the plaintext is
// shorter. ESP does not come here: its plaintexts have a multiple of 4 bytes.
func (s *std) overruns(plaintext int) bool {
	last := plaintext % aes.BlockSize
	return last != 0 && last+s.tagSize < aes.BlockSize
}

// source is what to transform into Text, and whether it can be done.
func (s *std) source(p *Packet) ([]byte, bool) {
	from := p.Text
	if p.From != nil {
		from = p.From
	}
	return from, s.gcm != nil && len(p.Text) >= s.tagSize && len(from) == len(p.Text)
}

func (s *std) TagSize() int { return s.tagSize }
func (s *std) Name() string { return stdName }

// Format keeps the key out of whatever prints an AEAD.
func (s *std) Format(to fmt.State, _ rune) { formatName(to, stdName) }

func (s *std) Wipe() { s.gcm, s.block = nil, nil }

// stdMissing: the standard library has an implementation for every CPU.
func stdMissing() string { return "" }
