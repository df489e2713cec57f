package vmlab

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// BuildDriver builds the modules of a directory that holds a Kbuild file against the kernel's
// headers, and returns their files. What was built once from the same sources is not built
// again.
func (k Kernel) BuildDriver(source string) ([]string, error) {
	sum, err := contentHash(source)
	if err != nil {
		return nil, err
	}
	cache, err := openCache()
	if err != nil {
		return nil, err
	}
	defer cache.Close()
	dir := filepath.Join(k.dir, fmt.Sprintf("driver-%x", sum[:8]))
	if err := keep(dir, func(dir string) error { return k.make(source, dir) }); err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(dir, "*.ko"))
}

// make copies the sources to dir and builds them there.
func (k Kernel) make(source, dir string) error {
	if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
		return err
	}
	// Without debugging information: the kernel's own is not there to look types up in, and nobody
	// looks at the module's.
	cmd := exec.Command("make", "-s", "-j", strconv.Itoa(runtime.NumCPU()), "-C", k.headers(), "M="+dir, "CC=gcc",
		"CONFIG_DEBUG_INFO_BTF_MODULES=", "KCFLAGS=-g0", "modules")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// headers is the directory of what modules are built against.
func (k Kernel) headers() string {
	return filepath.Join(k.dir, "root", "usr", "src", "linux-headers-"+k.Release())
}

// contentHash is of the names and contents of all files of a directory.
func contentHash(dir string) ([]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			if e.IsDir() {
				continue
			}
			return nil, err
		}
		fmt.Fprintf(h, "%s %d\n", e.Name(), len(data))
		h.Write(data)
	}
	return h.Sum(nil), nil
}

// relocateHeaders makes the headers usable where they were unpacked: the package expects
// itself in /usr/src.
func relocateHeaders(root, release string) error {
	path := filepath.Join(root, "usr", "src", "linux-headers-"+release, "Makefile")
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	words := strings.Fields(string(old))
	if at := slices.Index(words, "include"); at < 0 || at+1 >= len(words) || !strings.HasPrefix(words[at+1], "/usr/src/") {
		return fmt.Errorf("%s includes nothing of /usr/src", path)
	}
	here := `$(dir $(lastword $(MAKEFILE_LIST)))../`
	return os.WriteFile(path, []byte(strings.Replace(string(old), "/usr/src/", here, 1)), 0o644)
}
