package vmlab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"espalier/test/vmlab/guest"
)

// programs that suites may run beside espalier itself, with their shared libraries. One that
// is not on this machine is not in the VM: tests that need it say so.
var programs = []string{"ip", "ping", "ethtool", "sh", "id", "uname", "wc"} // the last four for what ssh is told to run

// initramfs is the file system of a suite: its tests as /init, modules, programs. It is made
// in dir.
func (s *Suite) initramfs(k Kernel, dir string, driver []string) (string, error) {
	var a archive
	for _, d := range []string{"proc", "sys", "dev", "tmp", "run", "var", "root"} {
		a.dir(d)
	}
	for _, build := range []struct{ to, dest string }{{"init", "/init"}, {"espalier", guest.Espalier}} {
		path := filepath.Join(dir, build.to)
		if err := s.build(build.to, path); err != nil {
			return "", err
		}
		if err := a.copy(path, build.dest); err != nil {
			return "", err
		}
	}
	if err := a.modules(k, driver); err != nil {
		return "", err
	}
	for _, p := range programs {
		if err := a.program(p); err != nil {
			return "", err
		}
	}
	for dest, source := range s.Files {
		if err := a.copyDir(source, dest); err != nil {
			return "", err
		}
	}
	a.file(guest.ArgumentsFile, 0o644, []byte(strings.Join(s.arguments(), "\n")))
	path := filepath.Join(dir, "initramfs")
	return path, os.WriteFile(path, a.bytes(), 0o600)
}

// build makes the tests or the program, static: nothing else is in the VM.
func (s *Suite) build(what, path string) error {
	args := []string{"build", "-ldflags=-s -w", "-o", path, "espalier/cmd/espalier"}
	if what == "init" {
		// The tests trust the lab's NIC as they would hardware; the program is what is delivered.
		args = []string{"test", "-c", "-tags=labnic", "-ldflags=-s -w", "-o", path, s.Package}
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (a *archive) modules(k Kernel, extra []string) error {
	order, err := k.loadOrder(extra)
	if err != nil {
		return err
	}
	var names []string
	for _, path := range order {
		dest := filepath.Join("/modules", filepath.Base(path))
		if err := a.copy(path, dest); err != nil {
			return err
		}
		names = append(names, dest)
	}
	a.file(guest.ModulesFile, 0o644, []byte(strings.Join(names, "\n")))
	return nil
}

func (a *archive) copy(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	a.file(to, 0o755, data)
	return nil
}

// copyDir adds the files of a directory, not those of directories below it.
func (a *archive) copyDir(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		if err := a.copy(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

var library = regexp.MustCompile(`(/\S+) \(0x`)

// program adds a program of this machine and its libraries, in the places they have here.
func (a *archive) program(name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil
	}
	if err := a.copy(path, filepath.Join("/bin", name)); err != nil {
		return err
	}
	out, err := output("ldd", path)
	if err != nil {
		return err
	}
	for _, m := range library.FindAllStringSubmatch(out, -1) {
		if a.added[m[1]] {
			continue
		}
		if err := a.copy(m[1], m[1]); err != nil {
			return err
		}
	}
	return nil
}
