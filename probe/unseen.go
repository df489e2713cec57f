package probe

import (
	"errors"
	"io/fs"
	"slices"
	"sync"

	"espalier/probe/firewall"
)

// refusals are what this user was not let see, each once, in the order of asking. Safe for concurrent use.
type refusals struct {
	mu   sync.Mutex
	what []string
}

// note remembers what if err says that it was refused.
func (r *refusals) note(what string, err error) {
	if !errors.Is(err, fs.ErrPermission) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.what, what) {
		r.what = append(r.what, what)
	}
}

// watch is the same system, and notes what it refuses.
func (r *refusals) watch(sys System) System {
	sys.Root = watchedFS{sys.Root, r}
	if log := sys.Log; log != nil {
		sys.Log = func() ([]string, error) {
			lines, err := log()
			r.note("the kernel's log", err)
			return lines, err
		}
	}
	if sys.Network != nil {
		sys.Network = watchedNetwork{sys.Network, r}
	}
	return sys
}

// watchedFS is a file system that notes what it refuses, whichever way it is asked.
type watchedFS struct {
	fs.FS
	refused *refusals
}

func (w watchedFS) Open(name string) (fs.File, error) {
	f, err := w.FS.Open(name)
	w.refused.note("/"+name, err)
	return f, err
}

func (w watchedFS) ReadFile(name string) ([]byte, error) {
	text, err := fs.ReadFile(w.FS, name)
	w.refused.note("/"+name, err)
	return text, err
}

func (w watchedFS) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(w.FS, name)
	w.refused.note("/"+name, err)
	return entries, err
}

func (w watchedFS) Stat(name string) (fs.FileInfo, error) {
	info, err := fs.Stat(w.FS, name)
	w.refused.note("/"+name, err)
	return info, err
}

func (w watchedFS) Lstat(name string) (fs.FileInfo, error) {
	info, err := fs.Lstat(w.FS, name)
	w.refused.note("/"+name, err)
	return info, err
}

func (w watchedFS) ReadLink(name string) (string, error) {
	to, err := fs.ReadLink(w.FS, name)
	w.refused.note("/"+name, err)
	return to, err
}

// watchedNetwork is a network that notes what it refuses.
type watchedNetwork struct {
	Network
	refused *refusals
}

func (w watchedNetwork) Links() ([]Link, error) {
	l, err := w.Network.Links()
	w.refused.note("network devices", err)
	return l, err
}

func (w watchedNetwork) Driver(device string) (Driver, error) {
	d, err := w.Network.Driver(device)
	w.refused.note("ethtool -i "+device, err)
	return d, err
}

func (w watchedNetwork) Features(device string) (map[string]Feature, error) {
	f, err := w.Network.Features(device)
	w.refused.note("ethtool -k "+device, err)
	return f, err
}

func (w watchedNetwork) Counters(device string) (map[string]uint64, error) {
	c, err := w.Network.Counters(device)
	w.refused.note("ethtool -S "+device, err)
	return c, err
}

func (w watchedNetwork) Speed(device string) (uint32, error) {
	s, err := w.Network.Speed(device)
	w.refused.note("ethtool "+device, err)
	return s, err
}

func (w watchedNetwork) Queues(device string) (Queues, error) {
	q, err := w.Network.Queues(device)
	w.refused.note("ethtool -l "+device, err)
	return q, err
}

func (w watchedNetwork) Devlink() ([]Devlink, error) {
	d, err := w.Network.Devlink()
	w.refused.note("devlink port show", err)
	return d, err
}

func (w watchedNetwork) Chains() ([]firewall.Chain, error) {
	c, err := w.Network.Chains()
	w.refused.note("nft list ruleset", err)
	return c, err
}
