package vmlab

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// cache is the directory of kernels, one directory each, locked against other test processes.
// What is in it is whole: it was made beside and renamed.
type cache struct {
	dir  string
	lock *os.File
}

func openCache() (*cache, error) {
	user, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(user, "espalier-vmlab")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		lock.Close()
		return nil, err
	}
	return &cache{dir, lock}, nil
}

// Close lets the next process in.
func (c *cache) Close() error { return c.lock.Close() }

// kernel gives the newest version of a series, with the modules that suites need.
func (c *cache) kernel(wanted string) (Kernel, error) {
	k, err := c.find(wanted)
	if err == nil {
		tree := filepath.Join(k.dir, "root", "lib", "modules", k.Release())
		err = keep(k.modules(), func(dir string) error { return collectModules(tree, dir) })
	}
	return k, err
}

// find takes a kernel from the cache or from Debian. Where Debian is out of reach the newest
// one of the cache serves.
func (c *cache) find(wanted string) (Kernel, error) {
	version, err := c.current(wanted)
	if err != nil && os.Geteuid() == 0 && updateLists() == nil {
		version, err = c.current(wanted)
	}
	if err == nil {
		return Kernel{version, filepath.Join(c.dir, version)}, nil
	}
	if old := c.newest(wanted); old != "" {
		return Kernel{old, filepath.Join(c.dir, old)}, nil
	}
	return Kernel{}, err
}

// current fetches the newest version of a series that apt knows, if the cache has it not, in
// place of older ones.
func (c *cache) current(wanted string) (string, error) {
	version, err := resolve(wanted)
	if err != nil {
		return "", err
	}
	old := c.newest(series(version))
	if err := c.keep(version, func(dir string) error { return unpack(version, dir) }); err != nil {
		return "", err
	}
	if old != "" && old != version {
		err = os.RemoveAll(filepath.Join(c.dir, old))
	}
	return version, err
}

// newest version of a series that the cache has, "" if none.
func (c *cache) newest(wanted string) (version string) {
	entries, _ := os.ReadDir(c.dir)
	for _, e := range entries {
		v := e.Name()
		if !e.IsDir() || len(numbers(v)) < 2 || filepath.Ext(v) == partial || wanted != "newest" && series(v) != wanted {
			continue
		}
		if version == "" || slices.Compare(numbers(v), numbers(version)) > 0 {
			version = v
		}
	}
	return version
}

const partial = ".partial"

// keep makes an entry of the cache, if it is not there. fill is given an empty directory.
func (c *cache) keep(name string, fill func(dir string) error) error {
	return keep(filepath.Join(c.dir, name), fill)
}

func keep(path string, fill func(dir string) error) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp := path + partial
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	if err := fill(tmp); err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return os.Rename(tmp, path)
}

// unpack a kernel's packages into dir, with all that every boot needs.
func unpack(version, dir string) error {
	if err := fetch(version, dir); err != nil {
		return err
	}
	release := version + flavour
	root := filepath.Join(dir, "root")
	if err := extract(filepath.Join(root, "boot", "vmlinuz-"+release), filepath.Join(dir, "kernel")); err != nil {
		return err
	}
	return relocateHeaders(root, release)
}
