package aesgcm

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
)

const stdName = "std"

// std is the standard library's AES-GCM, one packet after the other. The zero value and a
// wiped one hold no key and fail every packet.
type std struct {
	gcm     cipher.AEAD
	tagSize int
}

func newStd(key []byte, tagSize int) (AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("AES-GCM (%s): %w", stdName, err)
	}
	// Under GODEBUG=fips140=only the standard library chooses nonces itself or refuses.
	// RFC 4106 nonces are salt and IV, so the refusal stands.
	gcm, err := cipher.NewGCMWithTagSize(block, tagSize)
	if err != nil {
		return nil, fmt.Errorf("AES-GCM (%s): %w", stdName, err)
	}
	return &std{gcm: gcm, tagSize: tagSize}, nil
}

func (s *std) Seal(batch []Packet) {
	for i := range batch {
		p := &batch[i]
		n := len(p.Text) - s.tagSize
		if p.OK = s.gcm != nil && n >= 0; !p.OK {
			clear(p.Text) // cleartext must not look like a sealed packet
			continue
		}
		s.gcm.Seal(p.Text[:0], p.Nonce[:], p.Text[:n], p.AAD)
	}
}

func (s *std) Open(batch []Packet) {
	for i := range batch {
		p := &batch[i]
		p.OK = false
		if s.gcm != nil && len(p.Text) >= s.tagSize {
			_, err := s.gcm.Open(p.Text[:0], p.Nonce[:], p.Text, p.AAD)
			p.OK = err == nil
		}
		if !p.OK {
			clear(p.Text)
		}
	}
}

func (s *std) TagSize() int { return s.tagSize }
func (s *std) Name() string { return stdName }
func (s *std) Wipe()        { s.gcm = nil }
