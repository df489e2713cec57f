package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"espalier/config"
	"espalier/deploy"
)

// formerFile is a file as it was applied before: the copy that was kept then. Hosts that are no longer in the
// file are known from it. One that could not be asked when it went keeps what it has, and so does its copy, under
// a name of its own, until a change reaches the host.
type formerFile struct {
	kept string
	*config.File
}

// formerFiles are the copies of a file, the last one first. Who may not look has none: then nothing was applied
// by him.
func formerFiles(path string) (all []formerFile, err error) {
	place, err := tunnelPlace()
	if err != nil {
		return nil, err
	}
	kept := keptFile(place, path)
	older, err := filepath.Glob(strings.TrimSuffix(kept, ".yaml") + ".*.yaml")
	if err != nil {
		return nil, err
	}
	for _, name := range append([]string{kept}, older...) {
		text, err := readTunnels(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return nil, err
		}
		f, err := config.Parse(name, text)
		if err != nil {
			return nil, fmt.Errorf("%s as it was applied before, which says what hosts had: %w; remove %s if none has anything of it", path, err, name)
		}
		all = append(all, formerFile{name, f})
	}
	return all, nil
}

func filesOf(former []formerFile) (files []*config.File) {
	for _, f := range former {
		files = append(files, f.File)
	}
	return files
}

// leaveBehind keeps those former files beside the one at kept that have hosts which are no longer in the file,
// and took no part in the change.
func (c *change) leaveBehind(kept string) error {
	for _, former := range c.former {
		left := false
		for h := range deploy.Gone(former.File, c.file) {
			left = left || c.absent.Has(h)
		}
		var err error
		switch {
		case !left && former.kept != kept:
			err = os.Remove(former.kept)
		case left && former.kept == kept:
			err = os.Rename(kept, aside(kept))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// aside is a name for a copy that nobody has yet.
func aside(kept string) string {
	for n := 1; ; n++ {
		name := fmt.Sprintf("%s.%d.yaml", strings.TrimSuffix(kept, ".yaml"), n)
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			return name
		}
	}
}

// reachAsNow has the hosts of a file as it was applied be reached as the file says now, if it can be read.
func reachAsNow(f *config.File, path string) {
	text, err := readTunnels(path)
	if err != nil {
		return
	}
	now, err := config.Parse(path, text)
	if err != nil {
		return
	}
	for h := range deploy.HostsOf(f) {
		for other := range deploy.HostsOf(now) {
			if other.Address == h.Address {
				h.SSH, h.Sudo = other.SSH, other.Sudo
			}
		}
	}
}
