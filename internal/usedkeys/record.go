package usedkeys

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"espalier/ipsec"
)

// Use is a key that is about to be installed.
type Use struct {
	// Key is the AES key and its salt: together they fix the nonces.
	Key ipsec.Key
	// Sends says that the SA is for sending.
	Sends bool
	// Scope is where the SA is, such as a network namespace. A key that one scope receives by
	// may be another's for sending: they are both ends of one SA.
	Scope string
}

// ErrUsed is a key that was installed before, and must not be used for sending.
var ErrUsed = errors.New("this key was installed on this host before: sending with it again would repeat nonces")

// lockTimeout is how long another process may hold the record.
const lockTimeout = 30 * time.Second

// Record is the file of used keys, open and locked.
type Record struct {
	db   *bbolt.DB
	salt []byte
}

var (
	metaBucket = []byte("meta")
	keysBucket = []byte("keys")
	saltName   = []byte("salt")
)

// Open opens the record in a directory, and makes both if they are not there, for root alone to
// read. It waits for other processes that hold it.
func Open(dir string) (*Record, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("record of used keys: %w", err)
	}
	path := filepath.Join(dir, "used-keys.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout})
	if err != nil {
		return nil, fmt.Errorf("record of used keys %s: %w", path, err)
	}
	r := &Record{db: db}
	err = db.View(r.read)
	if err == nil && r.salt == nil { // it is new: to write takes time
		err = db.Update(r.prepare)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("record of used keys %s: %w", path, err), db.Close())
	}
	return r, nil
}

// read reads the salt of a file that has one.
func (r *Record) read(tx *bbolt.Tx) error {
	if meta := tx.Bucket(metaBucket); meta != nil && tx.Bucket(keysBucket) != nil {
		r.salt = bytes.Clone(meta.Get(saltName))
	}
	return nil
}

// prepare fills what is missing of a file.
func (r *Record) prepare(tx *bbolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(keysBucket); err != nil {
		return err
	}
	if salt := meta.Get(saltName); salt != nil {
		r.salt = bytes.Clone(salt)
		return nil
	}
	r.salt = make([]byte, sha256.Size)
	rand.Read(r.salt) // never fails (crypto/rand)
	return meta.Put(saltName, r.salt)
}

// Close lets the next process in.
func (r *Record) Close() error { return r.db.Close() }

// name is how the record knows a key.
func (r *Record) name(k ipsec.Key) []byte {
	mac := hmac.New(sha256.New, r.salt)
	mac.Write(k.ExposeSecretBytes())
	return mac.Sum(nil)
}
