package aesgcm

import (
	"errors"
	"fmt"
	"os"
)

// NonceSize is the length of a nonce in bytes, the only one that GCM takes without hashing
// it first (NIST SP 800-38D §5.2.1.1).
const NonceSize = 12

// EnvImplementation names the environment variable that chooses an implementation. Unset
// and empty leave the choice to [New].
const EnvImplementation = "ESPALIER_AESGCM"

// Packet is one unit of a batch.
type Packet struct {
	Nonce [NonceSize]byte

	// AAD is authenticated and not encrypted. It must not overlap Text. Nil is empty.
	AAD []byte

	// Text is transformed in place. Plaintext stands at its start, the last TagSize bytes
	// are room for the tag; after Seal it is ciphertext and tag.
	Text []byte

	// OK is set by Seal and Open, whatever it was before. It is false for a packet whose
	// tag does not verify, for a Text too short to hold a tag, and for every packet after
	// Wipe; Text is then all zero.
	OK bool
}

// AEAD is AES-GCM under one key. Seal and Open are safe for concurrent use as long as the
// batches share no memory; Wipe is not, and must be the last call.
type AEAD interface {
	// Seal encrypts every packet of the batch and writes its tag. It does not know which
	// nonces were used before: a nonce used twice under one key gives away the plaintexts
	// and the authentication key (RFC 4106 §10).
	Seal(batch []Packet)

	// Open verifies and decrypts every packet of the batch: of one that verifies, Text
	// holds the plaintext followed by the tag. One packet that does not verify has no
	// influence on the others.
	Open(batch []Packet)

	// TagSize is the length of the tag in bytes, 16 or 12.
	TagSize() int

	// Name is the implementation, as EnvImplementation would ask for it.
	Name() string

	// Wipe makes the key unusable: every later Seal and Open fails every packet. What
	// happens to the key schedule in memory depends on the implementation: one that owns
	// its schedule overwrites it. The standard library's cannot be reached from outside:
	// there the reference is dropped, and the schedule stays in memory until the garbage
	// collector gives that memory to something else.
	Wipe()
}

// New returns AES-GCM under key, which has 16, 24 or 32 bytes and is copied, with tags of
// tagSize bytes: 16 or 12. Tags of 8 bytes exist (RFC 4106 §6) but no implementation here
// makes them; that error and the others about what is not built in match
// errors.ErrUnsupported. No error contains key bytes.
func New(key []byte, tagSize int) (AEAD, error) {
	switch len(key) {
	case 16, 24, 32:
	default:
		return nil, fmt.Errorf("AES-GCM: the key has %d bytes: it must have 16, 24 or 32", len(key))
	}
	switch tagSize {
	case 16, 12:
	case 8:
		return nil, fmt.Errorf("AES-GCM: a tag of 8 bytes (64-bit ICV) is %w: no implementation makes it, use 16", errors.ErrUnsupported)
	default:
		return nil, fmt.Errorf("AES-GCM: a tag of %d bytes does not exist in ESP: use 16 or 12", tagSize)
	}
	switch name := os.Getenv(EnvImplementation); name {
	case "", stdName:
		return newStd(key, tagSize)
	case "vaes512", "vaes256":
		return nil, fmt.Errorf("AES-GCM: %s=%s: this implementation is %w by this build: unset it or use %q",
			EnvImplementation, name, errors.ErrUnsupported, stdName)
	default:
		return nil, fmt.Errorf("AES-GCM: %s=%q names no implementation: unset it or use %q", EnvImplementation, name, stdName)
	}
}
