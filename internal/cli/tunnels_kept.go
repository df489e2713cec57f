package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"espalier/config"
	"espalier/deploy/boot"
	"espalier/deploy/host"
	"espalier/tunnel"
)

// wholePath is where a file is, wherever commands are given from.
func wholePath(file string) (string, error) {
	if file == "-" {
		return "", usageError(errors.New("hosts know tunnels by the file they come from: standard input will not do"))
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(dir, filepath.Base(path))
	}
	return path, nil
}

// tunnelPlace is where this host keeps what lasts of tunnels.
func tunnelPlace() (*boot.Place, error) {
	dir, err := host.Dir(stateDir())
	if err != nil {
		return nil, err
	}
	return boot.Find(dir)
}

// keptFile is where the copy of a file is kept, as it was applied.
func keptFile(p *boot.Place, path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(p.Dir, "files", hex.EncodeToString(sum[:8])+".yaml")
}

// applied reads a file as it was applied from here; if it never was, as it is.
func applied(path string) ([]byte, error) {
	place, err := tunnelPlace()
	if err != nil {
		return nil, err
	}
	text, err := readTunnels(keptFile(place, path))
	if errors.Is(err, fs.ErrNotExist) {
		return readTunnels(path)
	}
	return text, err
}

func readTunnels(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, plainPathError(err)
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, config.MaxSize+1))
}

// soon is how often it is looked whether SAs are due, at least.
const soon = 5 * time.Minute

// remember keeps a copy of a file that is in force, and has its SAs rotated in time.
func (r *tunnelRun) remember(c *change) error {
	if err := r.setRotation(c); err != nil {
		return &exitError{exitFailed, fmt.Errorf("in force, but SAs will not be rotated by themselves: %w", err)}
	}
	return nil
}

func (r *tunnelRun) setRotation(c *change) error {
	place, err := tunnelPlace()
	if err != nil {
		return err
	}
	kept := keptFile(place, c.path)
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		return err
	}
	if err := c.leaveBehind(kept); err != nil {
		return err
	}
	if err := replaceFile(kept, c.text); err != nil {
		return err
	}
	r.noteAlone(c)
	if ok, why := place.Can(); !ok {
		fmt.Fprintf(r.stderr, "note: SAs are not rotated by themselves: %s\n", why)
		return nil
	}
	return place.SetRotation(boot.Rotation{File: c.path, Arguments: r.reach(), Period: period(c.plan)})
}

// period is how often it is looked whether SAs of a plan are due.
func period(plan *tunnel.Plan) time.Duration {
	var paces []boot.Pace
	for i := range plan.Pairs {
		if p := &plan.Pairs[i]; p.Action != tunnel.Remove {
			paces = append(paces, boot.Pace{Every: p.Rotate.Every, Share: p.Rotate.Share, ESN: p.ESN, BitsPerSecond: uint64(p.Speed) * 1_000_000})
		}
	}
	// SAs also go with a host that is booted anew, and its peers are to have it back soon.
	if p := boot.Period(paces); p > 0 {
		return min(p, soon)
	}
	return soon
}

// forget takes away what remember has left.
func (r *tunnelRun) forget(c *change) error {
	place, err := tunnelPlace()
	if err != nil {
		return err
	}
	if err := place.DropRotation(c.path); err != nil {
		return err
	}
	kept := keptFile(place, c.path)
	if err := c.leaveBehind(kept); err != nil {
		return err
	}
	if err := os.Remove(kept); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	os.Remove(filepath.Dir(kept)) // if it was the last one
	os.Remove(place.Dir)          // if there is nothing else
	return nil
}

// reach are the arguments by which hosts are reached another time as they were this time.
func (r *tunnelRun) reach() (args []string) {
	if config := r.hosts.options("", nil).Config; config != "" {
		if whole, err := filepath.Abs(config); err == nil {
			config = whole
		}
		args = append(args, "--ssh-config", config)
	}
	if r.sad != "" {
		args = append(args, "--sad", r.sad)
	}
	return args
}

// replaceFile writes a file as a whole, or leaves the one that is there.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it has another name then, if all went well
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
