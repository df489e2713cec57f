package aesgcm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"testing"
)

// FuzzAgainstStandard: for any key, nonce, additional data, text and tag length every
// implementation makes of a packet what crypto/cipher makes of it, and opens it again unless
// one bit is flipped.
func FuzzAgainstStandard(f *testing.F) {
	f.Add([]byte("key"), []byte("nonce"), []byte("SPI, seq"), []byte("text"), uint8(0), uint32(0))
	f.Add([]byte{2}, []byte{}, []byte{}, bytes.Repeat([]byte{7}, 700), uint8(1), uint32(77))
	f.Add([]byte{1}, []byte{}, make([]byte, 12), bytes.Repeat([]byte{7}, 239), uint8(2), uint32(1000))
	f.Fuzz(func(t *testing.T, keySeed, nonce, aad, plaintext []byte, size uint8, flip uint32) {
		key := make([]byte, 16+8*(int(size/3)%3))
		copy(key, keySeed)
		tagSize := []int{16, 12, 8}[size%3]
		var p Packet
		copy(p.Nonce[:], nonce)
		p.AAD = aad

		block, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil {
			t.Fatal(err)
		}
		want := gcm.Seal(nil, p.Nonce[:], plaintext, aad)[:len(plaintext)+tagSize]

		for _, i := range implementations {
			if i.missing() != "" {
				continue
			}
			a, err := i.build(key, tagSize)
			if err != nil {
				t.Fatal(err)
			}
			p.Text = append(bytes.Clone(plaintext), make([]byte, tagSize)...)
			batch := []Packet{p, p, p, p, p} // enough to be done side by side, and one over
			for k := range batch {
				batch[k].Text = bytes.Clone(p.Text)
			}
			batch[2].From, batch[2].Text = p.Text, make([]byte, len(p.Text))
			a.Seal(batch)
			for k := range batch {
				if !batch[k].OK || !bytes.Equal(batch[k].Text, want) {
					t.Fatalf("%s: packet %d: OK=%v, sealed\n%x, want\n%x", i.name, k, batch[k].OK, batch[k].Text, want)
				}
				batch[k].From = nil
			}
			batch[1].Text[int(flip/8)%len(want)] ^= 1 << (flip % 8)
			batch[2].From, batch[2].Text = batch[2].Text, make([]byte, len(want))
			a.Open(batch)
			for _, k := range []int{0, 2, 3, 4} {
				if !batch[k].OK || !bytes.Equal(batch[k].Text[:len(plaintext)], plaintext) {
					t.Fatalf("%s: packet %d: OK=%v, opened\n%x, want\n%x", i.name, k, batch[k].OK, batch[k].Text, plaintext)
				}
			}
			if batch[1].OK || bytes.Count(batch[1].Text, []byte{0}) != len(want) {
				t.Fatalf("%s: forged: OK=%v, %x", i.name, batch[1].OK, batch[1].Text)
			}
		}
	})
}
