package usedkeys

import (
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
)

// sent stands in place of a scope behind a key that was ever for sending: nobody on this host
// may send with it again.
const sent = "\x00"

// Claim is what one call of Record.Claim has recorded.
type Claim struct {
	record *Record
	fresh  map[int][]byte // by the index of a use: its entry, if there was none before
}

// Claim records uses that are about to be installed; they are on disk when it returns. refused
// has an entry for each use: nil where it may be installed, else ErrUsed. Uses of one call count
// for each other, in their order. With err nothing was recorded, and nothing may be installed.
func (r *Record) Claim(uses ...Use) (c *Claim, refused []error, err error) {
	c, refused = &Claim{record: r, fresh: make(map[int][]byte)}, make([]error, len(uses))
	err = r.db.Update(func(tx *bbolt.Tx) error {
		keys := tx.Bucket(keysBucket)
		for i, u := range uses {
			name := r.name(u.Key)
			entry := func(scope string) []byte { return slices.Concat(name, []byte(scope)) }
			has := func(scope string) bool { return keys.Get(entry(scope)) != nil }
			if u.Sends && (has(sent) || has(u.Scope)) {
				refused[i] = ErrUsed
				continue
			}
			scope := u.Scope
			if u.Sends {
				scope = sent
			}
			if has(scope) {
				continue
			}
			c.fresh[i] = entry(scope)
			if err := keys.Put(c.fresh[i], []byte{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("record of used keys: %w", err)
	}
	return c, refused, nil
}

// Installed keeps a use for good: its key is installed, or may be.
func (c *Claim) Installed(use int) { delete(c.fresh, use) }

// Close forgets the uses that were not installed. If it fails they count as used.
func (c *Claim) Close() error {
	if len(c.fresh) == 0 {
		return nil
	}
	err := c.record.db.Update(func(tx *bbolt.Tx) error {
		for _, entry := range c.fresh {
			if err := tx.Bucket(keysBucket).Delete(entry); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record of used keys: %w", err)
	}
	return nil
}
