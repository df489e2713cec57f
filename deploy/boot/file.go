package boot

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// The guard file has a line of its own for each pair, so that damage takes no more than one with it. It is
// there twice: what cannot be read in one may be read in the other.
const (
	guardFile  = "guard.json"
	guardCopy  = "guard-copy.json"
	lockFile   = "guard.lock"
	fileFormat = 1
)

// header is the first line of a guard file.
type header struct {
	Format int    `json:"espalier_guard"`
	Pairs  int    `json:"pairs"`
	Sum    string `json:"sha256"` // of the lines that follow
}

func encodeGuard(pairs []Pair) ([]byte, error) {
	var lines bytes.Buffer
	for i := range pairs {
		line, err := json.Marshal(&pairs[i])
		if err != nil {
			return nil, err
		}
		lines.Write(append(line, '\n'))
	}
	first, err := json.Marshal(header{fileFormat, len(pairs), sumOf(lines.Bytes())})
	if err != nil {
		return nil, err
	}
	return append(append(first, '\n'), lines.Bytes()...), nil
}

func sumOf(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// decodeGuard reads what can be read; an error tells that something could not.
func decodeGuard(text []byte) ([]Pair, error) {
	first, lines, _ := bytes.Cut(text, []byte("\n"))
	var h header
	err := json.Unmarshal(first, &h)
	switch {
	case err != nil:
		err = errors.New("its first line is damaged")
		lines = text
	case h.Format != fileFormat:
		return nil, fmt.Errorf("it is of another version of espalier (format %d)", h.Format)
	case sumOf(lines) != h.Sum:
		err = errors.New("it is damaged")
	}
	var pairs []Pair
	bad := 0
	for line := range bytes.SplitSeq(lines, []byte("\n")) {
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var p Pair
		if json.Unmarshal(line, &p) != nil || !p.Local.IsValid() || !p.Remote.IsValid() {
			bad++
			continue
		}
		pairs = append(pairs, p)
	}
	if err != nil {
		err = fmt.Errorf("%w: %d of %d pairs can be read", err, len(pairs), max(h.Pairs, len(pairs)))
	}
	return pairs, err
}

// writeGuard writes both files. An error of one does not keep the other from being written.
func (p *Place) writeGuard(pairs []Pair) error {
	text, err := encodeGuard(pairs)
	if err != nil {
		return err
	}
	return errors.Join(p.write(guardFile, text), p.write(guardCopy, text))
}

// readGuard reads the pairs that were written down. found tells that there was a file at all.
func (p *Place) readGuard() (pairs []Pair, found bool, err error) {
	for _, name := range []string{guardFile, guardCopy} {
		path := filepath.Join(p.Dir, name)
		text, readErr := os.ReadFile(path)
		if errors.Is(readErr, fs.ErrNotExist) {
			continue
		}
		found = true
		if readErr == nil {
			var some []Pair
			some, readErr = decodeGuard(text)
			pairs = union(pairs, some)
			if readErr != nil {
				readErr = fmt.Errorf("%s: %w", path, readErr)
			}
		}
		if readErr == nil {
			return pairs, true, err
		}
		err = errors.Join(err, readErr)
	}
	return pairs, found, err
}

// union is a, and what of b is about other ends.
func union(a, b []Pair) []Pair {
	for _, p := range b {
		if !slices.ContainsFunc(a, func(have Pair) bool {
			return have.Tunnel == p.Tunnel && have.Local == p.Local && have.Remote == p.Remote
		}) {
			a = append(a, p)
		}
	}
	return a
}

// write replaces a file of the state as a whole, or leaves it as it was. What it would say already is
// not written again.
func (p *Place) write(name string, text []byte) error {
	return writeFile(filepath.Join(p.Dir, name), text, 0o600)
}

func writeFile(path string, text []byte, mode os.FileMode) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, text) {
		return nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// remove takes files away, those that are not there too.
func remove(paths ...string) error {
	var all error
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// locked runs do while no other process changes the guard, or what lasts of it. The guard does not wait
// for a lock that cannot be had.
func (p *Place) locked(do func() error) error {
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return errors.Join(do(), err)
	}
	f, err := lock(filepath.Join(p.Dir, lockFile))
	if err != nil {
		return errors.Join(do(), err)
	}
	defer f.Close()
	return do()
}

// lock waits for a lock on a file, which may be removed and made anew meanwhile.
func lock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		ours, err := f.Stat()
		if there, thereErr := os.Stat(path); err == nil && thereErr == nil && os.SameFile(ours, there) {
			return f, nil
		}
		f.Close()
	}
}

// closed is a pair of which nothing but its ends is certain: between them nothing passes in clear.
func closed(p Pair) Pair {
	src, dst := hostPrefix(p.Local), hostPrefix(p.Remote)
	var policies []hostPolicy
	for _, d := range []ipsec.Direction{ipsec.Outbound, ipsec.Inbound} {
		policies = append(policies, hostPolicy{Policy: ipsec.Policy{Direction: d, Action: ipsec.Discard, Selector: ipsec.Selector{Src: src, Dst: dst}}, Device: p.Device})
		src, dst = dst, src
	}
	return Pair{Tunnel: p.Tunnel, Local: p.Local, Remote: p.Remote, Device: p.Device, Policies: policies}
}

func describe(p Pair) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s→%s", p.Tunnel, p.Local, p.Remote))
}
