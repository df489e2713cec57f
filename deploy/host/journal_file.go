package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"espalier/deploy/steps"
	"espalier/xfrm"
)

const (
	journalName = "journal.json"
	lockName    = "lock"
	keeperName  = "keeper.lock"
)

// ReadJournal reads what is owned in a network namespace, by its directory (Dir). Where there is no
// journal nothing is owned. One that cannot be read whole is an error: what is owned must not be
// forgotten.
func ReadJournal(dir string) (*Journal, error) {
	path := filepath.Join(dir, journalName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Journal{Version: journalVersion}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the journal of tunnels: %w", err)
	}
	j, err := decodeJournal(data)
	if err != nil {
		return nil, fmt.Errorf("the journal of tunnels %s cannot be read: %w. It tells which SAs and policies are espalier's, so nothing is done without it: "+
			"put back a copy of it, or move it away and delete with `ip xfrm` (or `espalier xfrm`) what is still there", path, err)
	}
	return j, nil
}

// decodeJournal is strict: every field is known, and every policy can be read.
func decodeJournal(data []byte) (*Journal, error) {
	var j Journal
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		var any struct{ Version int }
		if json.Unmarshal(data, &any) == nil && any.Version != journalVersion {
			err = fmt.Errorf("it is of version %d, and this espalier knows version %d", any.Version, journalVersion)
		}
		return nil, err
	}
	if j.Version != journalVersion {
		return nil, fmt.Errorf("it is of version %d, and this espalier knows version %d", j.Version, journalVersion)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something stands behind it")
	}
	return &j, j.check()
}

// check finds what no Host would have written.
func (j *Journal) check() error {
	var all []Policy
	for i := range j.Owned {
		o := &j.Owned[i]
		if !o.Local.IsValid() || !o.Remote.IsValid() || o.Engine == "" {
			return fmt.Errorf("what is owned of tunnel %q has no addresses or no engine", o.Tunnel)
		}
		all = append(all, o.Policies...)
	}
	for i := range j.Detours {
		d := &j.Detours[i]
		if !d.Local.IsValid() || !d.Remote.IsValid() || d.Engine == "" {
			return fmt.Errorf("ssh outside of tunnel %q has no addresses or no engine", d.Tunnel)
		}
		all = append(all, d.Policies...)
	}
	if c := j.Change; c != nil {
		switch c.Stage {
		case steps.Open, steps.Confirmed, steps.Finished, steps.Undone:
		default:
			return fmt.Errorf("the change is %q", c.Stage)
		}
		if len(c.Pairs) != len(c.Begin.Pairs) {
			return fmt.Errorf("the change has %d pairs, and states of %d", len(c.Begin.Pairs), len(c.Pairs))
		}
		for i := range c.Pairs {
			all = append(all, c.Pairs[i].Before...)
			for _, payload := range append(c.Begin.Pairs[i].Policies, c.Begin.Pairs[i].Gone...) {
				all = append(all, Policy{Payload: payload})
			}
		}
	}
	for _, p := range all {
		if _, err := xfrm.DecodePolicy(p.Payload); err != nil {
			return fmt.Errorf("policy %q: %w", p.Text, err)
		}
	}
	return nil
}

// write puts the journal on disk. Either it is there whole when this returns, or what was there before is.
func (h *Host) write(j *Journal) error {
	j.Version = journalVersion
	h.sweep()
	data, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return fmt.Errorf("write the journal of tunnels: %w", err)
	}
	if err := h.cfg.Write(filepath.Join(h.cfg.Dir, journalName), append(data, '\n')); err != nil {
		return fmt.Errorf("write the journal of tunnels: %w", err)
	}
	return nil
}

// sweep removes what a process left behind that was killed while it wrote.
func (h *Host) sweep() {
	left, _ := filepath.Glob(filepath.Join(h.cfg.Dir, journalName+unfinished+"*"))
	for _, path := range left {
		os.Remove(path)
	}
}

// unfinished is in the names of files that are being written.
const unfinished = ".new-"

// clean removes the journal, the locks, and the directory if nothing else is in it: there is nothing
// left to know. Others wait for the locks again, see lockFile; a keeper ends.
func (h *Host) clean() {
	h.sweep()
	for _, name := range []string{journalName, keeperName, lockName} {
		os.Remove(filepath.Join(h.cfg.Dir, name))
	}
	os.Remove(h.cfg.Dir)
}

// WriteFile puts a file in the place of another, for its owner alone to read. It is on disk when this
// returns; at no moment, not even when the host loses its power, is there half of it.
func WriteFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+unfinished+"*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes names in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// lockPatience is how long an operation waits for another one; each takes a fraction of it.
const lockPatience = 30 * time.Second

// lock keeps other operations and the keeper out until it is closed, in all processes.
func (h *Host) lock(ctx context.Context) (*os.File, error) {
	for start := time.Now(); ; {
		lock, err := lockFile(filepath.Join(h.cfg.Dir, lockName))
		switch {
		case err == nil:
			return lock, nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, fmt.Errorf("lock the journal of tunnels: %w", err)
		case time.Since(start) > lockPatience:
			return nil, fmt.Errorf("another espalier has held the journal of tunnels in %s for %s", h.cfg.Dir, lockPatience)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// lockFile locks a file that it makes if need be, until it is closed; EWOULDBLOCK if somebody else has
// locked it.
func lockFile(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	if !locks(f, path) { // whoever had it has removed it: it keeps nobody out
		f.Close()
		return nil, unix.EWOULDBLOCK
	}
	return f, nil
}

// locks reports whether a locked file is still the one by that path, which others look at.
func locks(f *os.File, path string) bool {
	locked, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(locked, there)
}
