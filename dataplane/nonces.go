package dataplane

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"sync"

	"espalier/esp"
	"espalier/ipsec"
)

// nonces sees to it that no nonce is used twice under one key and salt, as long as the device
// lives: SAs that send with the same key, at once or one after the other, draw their sequence
// numbers from one sequence. So a script that is run again after a flush goes on where it was,
// and a receiver that started anew takes the higher numbers.
//
// It remembers keys by a hash under a secret of its own, from which nobody gets the key back.
// What was sent before the device started it cannot know.
type nonces struct {
	secret [32]byte

	mu    sync.Mutex
	byKey map[keyID]*esp.Numbers
}

// keyID is half of a hash: two keys that had the same would only share their numbers.
type keyID [sha256.Size / 2]byte

func newNonces() *nonces {
	n := &nonces{byKey: make(map[keyID]*esp.Numbers)}
	rand.Read(n.secret[:]) // never fails (crypto/rand)
	return n
}

// numbers is the sequence of a key and salt.
func (n *nonces) numbers(key ipsec.Key) *esp.Numbers {
	h := hmac.New(sha256.New, n.secret[:])
	h.Write(key.ExposeSecretBytes())
	id := keyID(h.Sum(nil))
	n.mu.Lock()
	defer n.mu.Unlock()
	seq := n.byKey[id]
	if seq == nil {
		seq = new(esp.Numbers)
		n.byKey[id] = seq
	}
	return seq
}
