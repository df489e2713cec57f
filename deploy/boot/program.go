package boot

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// copied is where a copy of the program is kept, in the state.
const copied = "bin/espalier"

// temporary are the beginnings of paths that do not last.
var temporary = []string{"/tmp/", "/var/tmp/", "/run/", "/dev/shm/", "/proc/"}

// program is a path at which espalier will be found later on: where it is, or where it was copied to because
// it would not stay there.
func (p *Place) program() (string, error) {
	if p.Program != "" {
		return p.Program, nil
	}
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	if lasts(path) {
		return path, nil
	}
	to := filepath.Join(p.Dir, copied)
	if err := copyProgram(to); err != nil {
		return "", fmt.Errorf("keep a copy of this espalier, which is at %s only for now: %w", path, err)
	}
	return to, nil
}

func lasts(path string) bool {
	if _, err := os.Stat(path); err != nil { // removed while it runs
		return false
	}
	for _, dir := range append([]string{strings.TrimSuffix(os.TempDir(), "/") + "/"}, temporary...) {
		if strings.HasPrefix(path, dir) {
			return false
		}
	}
	return true
}

func copyProgram(to string) error {
	dir := filepath.Dir(to)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return err
	}
	if fs.Flags&unix.ST_NOEXEC != 0 {
		return fmt.Errorf("%s is mounted noexec: install espalier at a place that lasts, such as /usr/local/bin", dir)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	text, err := io.ReadAll(self)
	if err != nil {
		return err
	}
	return writeFile(to, text, 0o755)
}

// tidy removes, once nothing is left that lasts, the copy of the program, the lock, which the caller
// holds, and directories that are empty.
func (p *Place) tidy() error {
	left, err := p.leftovers()
	if err != nil || left {
		return err
	}
	err = remove(filepath.Join(p.Dir, copied), filepath.Join(p.Dir, lockFile))
	// A directory that others use stays.
	os.Remove(filepath.Join(p.Dir, filepath.Dir(copied)))
	if p.Units != "" && p.Units != systemUnits {
		os.Remove(p.Units)
	}
	os.Remove(p.Dir)
	return err
}
