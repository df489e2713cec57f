package aesgcm

import (
	"crypto/fips140"
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

const (
	vaes512Name = "vaes512"
	vaes256Name = "vaes256"
	stdName     = "std"
)

// Packet is one unit of a batch.
type Packet struct {
	Nonce [NonceSize]byte

	// AAD is authenticated and not encrypted. It must not overlap Text. Nil is empty.
	AAD []byte

	// Text is transformed in place. Plaintext stands at its start, the last TagSize bytes
	// are room for the tag; after Seal it is ciphertext and tag.
	Text []byte

	// From, unless nil, is read in place of Text, which then is only written. It is as long
	// as Text and does not overlap it; for Seal its last TagSize bytes mean nothing, and
	// Open does not copy the tag.
	From []byte

	// Key, unless nil, is used for this packet in place of the AEAD whose Seal or Open is
	// called: so one batch carries packets of several SAs. Those of one should stand together.
	Key AEAD

	// OK is set by Seal and Open, whatever it was before. It is false for a packet whose
	// tag does not verify, for a Text too short to hold a tag, for a From of another length,
	// and for every packet after Wipe; Text is then all zero.
	OK bool

	hash [2]uint64 // scratch memory of an implementation: nobody else may count on it
}

// AEAD is AES-GCM under one key. Seal and Open are safe for concurrent use as long as the
// batches share no memory; Wipe is not, and must be the last call.
type AEAD interface {
	// Seal encrypts every packet of the batch and writes its tag. It does not know which
	// nonces were used before: a nonce used twice under one key gives away the plaintexts
	// and the authentication key (RFC 4106 §10).
	Seal(batch []Packet)

	// Open verifies and decrypts every packet of the batch: of one that verifies, Text
	// holds the plaintext, in place followed by the tag. One packet that does not verify has
	// no influence on the others.
	Open(batch []Packet)

	// TagSize is the length of the tag in bytes: 16, 12 or 8.
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

// run is how many packets at the start of batch are under the same key, and that key.
func run(self AEAD, batch []Packet) (AEAD, int) {
	key := batch[0].Key
	n := 1
	if key == nil {
		for n < len(batch) && batch[n].Key == nil {
			n++
		}
		return self, n
	}
	for n < len(batch) && batch[n].Key == key {
		n++
	}
	return key, n
}

func formatName(to fmt.State, name string) { fmt.Fprintf(to, "AES-GCM (%s)", name) }

// implementation is one way to do AES-GCM on this architecture.
type implementation struct {
	name    string
	missing func() string // the CPU feature that it would need, "" if it can be used here
	build   func(key []byte, tagSize int) (AEAD, error)
}

// New returns AES-GCM under key, which has 16, 24 or 32 bytes and is copied, with tags of
// tagSize bytes: 16, 12 or 8 (RFC 4106 §6). It takes the fastest implementation that this
// CPU has, or the one that EnvImplementation names: if that cannot be had here, the error
// matches errors.ErrUnsupported. No error contains key bytes.
func New(key []byte, tagSize int) (AEAD, error) {
	switch len(key) {
	case 16, 24, 32:
	default:
		return nil, fmt.Errorf("AES-GCM: the key has %d bytes: it must have 16, 24 or 32", len(key))
	}
	switch tagSize {
	case 16, 12, 8:
	default:
		return nil, fmt.Errorf("AES-GCM: a tag of %d bytes does not exist in ESP: use 16, 12 or 8", tagSize)
	}
	if fips140.Enforced() {
		return nil, fmt.Errorf("AES-GCM: GODEBUG=fips140=only is set: RFC 4106 nonces and this package are not validated under FIPS 140: unset it")
	}
	chosen, err := choose(os.Getenv(EnvImplementation))
	if err != nil {
		return nil, err
	}
	return chosen.build(key, tagSize)
}

// choose returns the implementation of that name, or with "" the first that can be used.
func choose(name string) (implementation, error) {
	for _, i := range implementations {
		missing := i.missing()
		switch {
		case name == i.name && missing != "":
			return i, fmt.Errorf("AES-GCM: %s=%s is %w here: the CPU or its kernel lacks %s: unset it or use %q",
				EnvImplementation, name, errors.ErrUnsupported, missing, stdName)
		case name == i.name, name == "" && missing == "":
			return i, nil
		}
	}
	switch name {
	case vaes512Name, vaes256Name:
		return implementation{}, fmt.Errorf("AES-GCM: %s=%s is %w by this build: unset it or use %q",
			EnvImplementation, name, errors.ErrUnsupported, stdName)
	}
	return implementation{}, fmt.Errorf("AES-GCM: %s=%q names no implementation: unset it or use %q, %q or %q",
		EnvImplementation, name, vaes512Name, vaes256Name, stdName)
}
