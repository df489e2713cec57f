package ipsec

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"log/slog"
)

const redacted = "<key hidden>"

// Key is secret key material. It prints as a placeholder under every fmt verb, in slog,
// JSON and text encodings, so that no log, error or dump can carry it. The zero Key holds
// nothing: a SAD that does not give keys back returns it.
type Key struct {
	// Behind two pointers: where fmt cannot or does not call Format (unexported fields of
	// other structs, %p, a verb that does not fit) it follows one pointer, never two.
	secret **secret
}

type secret struct{ b []byte }

func hide(b []byte) Key {
	p := &secret{b}
	return Key{&p}
}

// NewKey copies b; the caller may wipe its own copy.
func NewKey(b []byte) Key { return hide(bytes.Clone(b)) }

// RandomKey returns n fresh bytes from the system's generator.
func RandomKey(n int) Key {
	b := make([]byte, n)
	rand.Read(b) // never fails (crypto/rand)
	return hide(b)
}

// Len is the number of bytes held.
func (k Key) Len() int { return len(k.ExposeSecretBytes()) }

// ExposeSecretBytes returns the bytes themselves, not a copy. They are for a cipher or a
// netlink message, never for a person.
func (k Key) ExposeSecretBytes() []byte {
	if k.secret == nil {
		return nil
	}
	return (*k.secret).b
}

// Equal compares in constant time.
func (k Key) Equal(other Key) bool {
	return subtle.ConstantTimeCompare(k.ExposeSecretBytes(), other.ExposeSecretBytes()) == 1
}

// Wipe overwrites the bytes. Every copy of this Key value shares them.
func (k Key) Wipe() { clear(k.ExposeSecretBytes()) }

func (Key) String() string               { return redacted }
func (Key) GoString() string             { return redacted }
func (Key) Format(s fmt.State, _ rune)   { s.Write([]byte(redacted)) }
func (Key) LogValue() slog.Value         { return slog.StringValue(redacted) }
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
func (Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }
func (Key) MarshalYAML() (any, error)    { return redacted, nil }
