package packets

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
)

// Lengths in bytes of what stands around an ESP payload.
const (
	saltLen   = 4 // RFC 4106 §4
	headerLen = 8 // SPI and sequence number
	ivLen     = 8 // RFC 4106 §3.1
)

// SA is one ESP SA with AES-GCM.
type SA struct {
	SPI    uint32
	Key    []byte // AES key, then the salt
	ICVLen int    // bytes; 0 is 16
	ESN    bool   // the ICV covers 64-bit sequence numbers
}

// Seal makes an ESP packet from a payload. The IV is the sequence number.
func (sa SA) Seal(seq uint64, next byte, payload []byte) []byte {
	return sa.SealText(seq, Trail(payload, next))
}

// Trail appends padding 1, 2, 3 … up to a multiple of 4 bytes, its length and the next
// header (RFC 4303 §2.4–2.6).
func Trail(payload []byte, next byte) []byte {
	text := append([]byte(nil), payload...)
	pad := byte(0)
	for (len(text)+2)%4 != 0 {
		pad++
		text = append(text, pad)
	}
	return append(text, pad, next)
}

// SealText makes an ESP packet from any text, however ill its trailer.
func (sa SA) SealText(seq uint64, text []byte) []byte {
	pkt := binary.BigEndian.AppendUint32(nil, sa.SPI)
	pkt = binary.BigEndian.AppendUint32(pkt, uint32(seq))
	pkt = binary.BigEndian.AppendUint64(pkt, seq)
	return sa.seal(pkt, sa.nonce(pkt), text, sa.authenticated(seq))
}

// Open verifies and decrypts an ESP packet; high is the part of its sequence number that does
// not travel (0 without ESN).
func (sa SA) Open(pkt []byte, high uint32) (seq uint64, next byte, payload []byte, err error) {
	if len(pkt) < headerLen+ivLen {
		return 0, 0, nil, errors.New("ESP packet is too short")
	}
	if spi := binary.BigEndian.Uint32(pkt); spi != sa.SPI {
		return 0, 0, nil, fmt.Errorf("SPI %#x, want %#x", spi, sa.SPI)
	}
	seq = uint64(high)<<32 | uint64(binary.BigEndian.Uint32(pkt[4:]))
	text, err := sa.open(sa.nonce(pkt), pkt[headerLen+ivLen:], sa.authenticated(seq))
	if err != nil {
		return seq, 0, nil, err
	}
	if len(text) < 2 {
		return seq, 0, nil, errors.New("ESP packet without a trailer")
	}
	pad, next := int(text[len(text)-2]), text[len(text)-1]
	end := len(text) - 2 - pad
	if end < 0 || len(text)%4 != 0 {
		return seq, next, nil, fmt.Errorf("%d bytes of padding in a text of %d", pad, len(text))
	}
	for i, b := range text[end : end+pad] {
		if int(b) != i+1 {
			return seq, next, nil, fmt.Errorf("padding byte %d is %d", i+1, b)
		}
	}
	return seq, next, text[:end], nil
}

// seal appends the ciphertext of text and the ICV, which is the beginning of GCM's tag
// (RFC 4106 §6).
func (sa SA) seal(dst, nonce, text, authenticated []byte) []byte {
	sealed := sa.gcm().Seal(dst, nonce, text, authenticated)
	return sealed[:len(dst)+len(text)+sa.icvLen()]
}

// open is the reverse. GCM encrypts in counter mode, where encrypting once more decrypts.
func (sa SA) open(nonce, sealed, authenticated []byte) ([]byte, error) {
	n := len(sealed) - sa.icvLen()
	if n < 0 {
		return nil, errors.New("ESP packet is shorter than its ICV")
	}
	text := sa.gcm().Seal(nil, nonce, sealed[:n], nil)[:n]
	if !bytes.Equal(sa.seal(nil, nonce, text, authenticated), sealed) {
		return nil, errors.New("ICV does not verify")
	}
	return text, nil
}

func (sa SA) icvLen() int {
	if sa.ICVLen == 0 {
		return 16
	}
	return sa.ICVLen
}

func (sa SA) gcm() cipher.AEAD {
	block, err := aes.NewCipher(sa.Key[:len(sa.Key)-saltLen])
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return gcm
}

// nonce is salt and IV (RFC 4106 §4).
func (sa SA) nonce(pkt []byte) []byte {
	salt := sa.Key[len(sa.Key)-saltLen:]
	return append(append([]byte(nil), salt...), pkt[headerLen:headerLen+ivLen]...)
}

// authenticated is SPI and sequence number, the extended one in full (RFC 4106 §5).
func (sa SA) authenticated(seq uint64) []byte {
	a := binary.BigEndian.AppendUint32(nil, sa.SPI)
	if sa.ESN {
		return binary.BigEndian.AppendUint64(a, seq)
	}
	return binary.BigEndian.AppendUint32(a, uint32(seq))
}
