package vmlab

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// roots are the modules a suite has, each with what it depends on, in the order in which they
// are loaded. The kernel asks for templates such as seqiv by running modprobe, which is not
// there; so they are all named here. What a kernel has built in is left out.
var roots = []string{
	"virtio_pci", "virtio_console", "virtio_rng", "virtio_net",
	"crypto_null", "seqiv", "echainiv", "authenc", "ctr", "cmac", "sha512_generic", "sha3_generic", "drbg", "jitterentropy_rng",
	"aesni_intel", "ghash_generic", "gcm",
	"xfrm_user", "esp4", "esp6", "esp4_offload", "esp6_offload",
	"xfrm_interface", "veth", "bridge", "dummy", "tun", "8021q", "bonding", "psample", "crc32c_generic", "nf_tables", "nft_objref",
}

// collectModules decompresses what roots may need from a tree of modules into a directory.
func collectModules(tree, dir string) error {
	all := make(map[string]string)
	err := filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := moduleName(path); ok {
			all[name] = path
		}
		return err
	})
	if err != nil {
		return err
	}
	wanted := slices.Clone(roots)
	for len(wanted) > 0 {
		name := wanted[0]
		wanted = wanted[1:]
		path, to := all[name], filepath.Join(dir, name+".ko")
		if _, err := os.Stat(to); path == "" || err == nil {
			continue // built in, or done
		}
		module, err := readModule(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, module, 0o644); err != nil {
			return err
		}
		depends, err := dependencies(to)
		if err != nil {
			return err
		}
		wanted = append(wanted, depends...)
	}
	return nil
}

// moduleName is the name the kernel gives a module, if path is one.
func moduleName(path string) (string, bool) {
	name, rest, ok := strings.Cut(filepath.Base(path), ".ko")
	if !ok || rest != "" && rest != ".xz" {
		return "", false
	}
	return strings.ReplaceAll(name, "-", "_"), true
}

func readModule(path string) ([]byte, error) {
	if filepath.Ext(path) != ".xz" {
		return os.ReadFile(path)
	}
	out, err := exec.Command("xz", "-dc", path).Output()
	if err != nil {
		return nil, fmt.Errorf("xz -dc %s: %w", path, err)
	}
	return out, nil
}

// dependencies of a module, by its own word.
func dependencies(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("%s has no .modinfo", path)
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		list, ok := bytes.CutPrefix(entry, []byte("depends="))
		if ok && len(list) > 0 {
			return strings.Split(strings.ReplaceAll(string(list), "-", "_"), ","), nil
		}
	}
	return nil, nil
}

// loadOrder lists the files of modules, dependencies first: those of roots, then extra files.
func (k Kernel) loadOrder(extra []string) ([]string, error) {
	var order []string
	done := make(map[string]bool)
	var add func(path string) error
	add = func(path string) error {
		if _, err := os.Stat(path); done[path] || os.IsNotExist(err) {
			return nil
		}
		done[path] = true
		depends, err := dependencies(path)
		if err != nil {
			return err
		}
		for _, d := range depends {
			if err := add(k.module(d)); err != nil {
				return err
			}
		}
		order = append(order, path)
		return nil
	}
	for _, r := range roots {
		if err := add(k.module(r)); err != nil {
			return nil, err
		}
	}
	for _, path := range extra {
		if err := add(path); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// modules is the directory of what roots need: one for each state of that list.
func (k Kernel) modules() string {
	sum := sha256.Sum256([]byte(strings.Join(roots, " ")))
	return filepath.Join(k.dir, fmt.Sprintf("modules-%x", sum[:8]))
}

func (k Kernel) module(name string) string { return filepath.Join(k.modules(), name+".ko") }
