package aesgcm

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"time"

	ours "espalier/aesgcm"
)

const (
	batchSize = 32 // packets
	tagSize   = 16
	aadSize   = 8 // SPI and sequence number
)

var errNotOpened = errors.New("a packet does not open")

// batches seals one batch in place, or opens it into other memory, again and again.
type batches struct {
	w     what
	aead  ours.AEAD
	batch []ours.Packet
}

func newBatches(name string, w what) (*batches, error) {
	aead, err := newAEAD(name, w.keyBits)
	if err != nil {
		return nil, err
	}
	b := &batches{w: w, aead: aead, batch: make([]ours.Packet, batchSize)}
	for i := range b.batch {
		p := &b.batch[i]
		p.Nonce[ours.NonceSize-1] = byte(i)
		p.AAD = make([]byte, aadSize)
		p.Text = make([]byte, w.size+tagSize)
	}
	if w.open {
		aead.Seal(b.batch)
		for i := range b.batch {
			p := &b.batch[i]
			p.From, p.Text = p.Text, make([]byte, w.size+tagSize)
		}
	}
	return b, nil
}

func (b *batches) time(packets int) (float64, error) {
	f := b.aead.Seal
	if b.w.open {
		f = b.aead.Open
	}
	f(b.batch)
	done := 0
	begin := time.Now()
	for ; done < packets; done += batchSize {
		f(b.batch)
	}
	elapsed := time.Since(begin)
	for i := range b.batch {
		if !b.batch[i].OK {
			return 0, fmt.Errorf("%s: %w", b.aead.Name(), errNotOpened)
		}
	}
	return float64(elapsed.Nanoseconds()) / float64(done), nil
}

// standard does the same with crypto/cipher.
type standard struct {
	open     bool
	gcm      cipher.AEAD
	nonces   [][]byte
	aad      []byte
	from, to [][]byte
}

func newStandard(w what) (*standard, error) {
	block, err := aes.NewCipher(make([]byte, w.keyBits/8))
	if err != nil {
		return nil, err
	}
	s := &standard{open: w.open, aad: make([]byte, aadSize)}
	if s.gcm, err = cipher.NewGCM(block); err != nil {
		return nil, err
	}
	for i := range batchSize {
		nonce, text := make([]byte, ours.NonceSize), make([]byte, w.size+tagSize)
		nonce[ours.NonceSize-1] = byte(i)
		s.nonces = append(s.nonces, nonce)
		if w.open {
			s.gcm.Seal(text[:0], nonce, text[:w.size], s.aad)
			s.from, s.to = append(s.from, text), append(s.to, make([]byte, w.size))
		} else {
			s.from, s.to = append(s.from, text[:w.size]), append(s.to, text)
		}
	}
	return s, nil
}

func (s *standard) once() error {
	for i, nonce := range s.nonces {
		if !s.open {
			s.gcm.Seal(s.to[i][:0], nonce, s.from[i], s.aad)
		} else if _, err := s.gcm.Open(s.to[i][:0], nonce, s.from[i], s.aad); err != nil {
			return errNotOpened
		}
	}
	return nil
}

func (s *standard) time(packets int) (float64, error) {
	if err := s.once(); err != nil {
		return 0, err
	}
	done := 0
	begin := time.Now()
	for ; done < packets; done += batchSize {
		if err := s.once(); err != nil {
			return 0, err
		}
	}
	return float64(time.Since(begin).Nanoseconds()) / float64(done), nil
}
