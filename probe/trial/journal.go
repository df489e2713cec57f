package trial

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Files in the state directory.
const (
	lockFile    = "trial.lock"
	journalFile = "trial.json"
)

// ErrBusy says that another trial is under way.
var ErrBusy = errors.New("another trial is under way on this host")

// lock keeps other trials of the host out until it is closed, if only by the end of the process.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w (it holds %s)", ErrBusy, f.Name())
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

// journal tells which SAs a trial adds. There are no keys in it. It is in the state directory from
// before the first is added until none is left.
type journal struct {
	Scope string `json:"scope"` // Options.Scope
	Reqid uint32 `json:"reqid"`
	SAs   []sa   `json:"sas"`
}

// readJournal is that of a trial that did not come to its end; nil if there is none. What is no
// journal was not written here: a journal is there whole or not at all.
func readJournal(dir string) (*journal, error) {
	file := filepath.Join(dir, journalFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var j journal
	if err := json.Unmarshal(text, &j); err != nil {
		return nil, fmt.Errorf("%s is not the journal of a trial: %w: look at it, and delete it", file, err)
	}
	return &j, nil
}

// write puts the journal on disk: it is there when write returns, whatever happens thereafter.
func (j *journal) write(dir string) error {
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, journalFile+".new"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, journalFile)); err != nil {
		return err
	}
	return syncDir(dir)
}

// remove says that nothing is left. Should it come back after a crash, nothing is found by it.
func (j *journal) remove(dir string) error { return os.Remove(filepath.Join(dir, journalFile)) }

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
