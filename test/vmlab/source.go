package vmlab

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// netdevsim is the kernel's own simulated NIC, which Debian's kernels leave out.
const netdevsim = "drivers/net/netdevsim"

// buildNetdevsim builds netdevsim from the very source that the kernel was built from.
func (k Kernel) buildNetdevsim() ([]string, error) {
	source, err := k.netdevsimSource()
	if err != nil {
		return nil, err
	}
	return k.BuildDriver(source)
}

func (k Kernel) netdevsimSource() (string, error) {
	cache, err := openCache()
	if err != nil {
		return "", err
	}
	defer cache.Close()
	dir := filepath.Join(k.dir, "netdevsim")
	return dir, keep(dir, func(dir string) error {
		if err := k.fetchSource(netdevsim, dir); err != nil {
			return err
		}
		// Its Makefile asks a configuration that says no.
		return os.WriteFile(filepath.Join(dir, "Kbuild"), []byte("include $(src)/Makefile\nobj-m += netdevsim.o\n"), 0o644)
	})
}

// fetchSource puts the files of one directory of the kernel's source into dir. The package
// with the source has all of it in one archive: it is read as far as that directory, and not kept.
func (k Kernel) fetchSource(directory, dir string) error {
	version, err := k.packageVersion()
	if err != nil {
		return err
	}
	debs, err := os.MkdirTemp(dir, "debs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(debs)
	if err := download(debs, "linux-source-"+k.Series()+"="+version); err != nil {
		return err
	}
	deb, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	if len(deb) != 1 {
		return fmt.Errorf("apt-get download left %d packages, want 1: %q", len(deb), deb)
	}
	return unpackSource(deb[0], directory, dir)
}

// unpackSource reads an archive in an archive: the source's is a file of the package.
func unpackSource(deb, directory, dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	dpkg := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	xz := exec.CommandContext(ctx, "xz", "-dcT0")
	// Both are ended as soon as enough has been read; how they take it says nothing.
	defer func() {
		cancel()
		xz.Wait()
		dpkg.Wait()
	}()
	files, err := dpkg.StdoutPipe()
	if err != nil {
		return err
	}
	source, err := xz.StdoutPipe()
	if err != nil {
		return err
	}
	if err := dpkg.Start(); err != nil {
		return err
	}
	archive := tar.NewReader(files)
	if _, err := next(archive, func(name string) bool { return strings.HasSuffix(name, ".tar.xz") }); err != nil {
		return fmt.Errorf("%s: the source: %w", deb, err)
	}
	xz.Stdin = archive
	if err := xz.Start(); err != nil {
		return err
	}
	if err := copyDirectory(tar.NewReader(source), directory, dir); err != nil {
		return fmt.Errorf("%s: %s: %w", deb, directory, err)
	}
	return nil
}

// copyDirectory takes the files of one directory, below whatever the archive's first one is
// called, out of an archive. What follows is not read.
func copyDirectory(archive *tar.Reader, directory, to string) error {
	within := func(name string) bool { return strings.Contains(path.Dir(name)+"/", "/"+directory+"/") }
	name, err := next(archive, within)
	for ; err == nil && within(name); name, err = next(archive, func(string) bool { return true }) {
		data, err := io.ReadAll(archive)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, path.Base(name)), data, 0o644); err != nil {
			return err
		}
	}
	return err
}

// next goes on to a file whose name is wanted.
func next(archive *tar.Reader, wanted func(name string) bool) (string, error) {
	for {
		header, err := archive.Next()
		if err != nil {
			return "", err
		}
		if header.Typeflag == tar.TypeReg && wanted(header.Name) {
			return header.Name, nil
		}
	}
}

var packageID = regexp.MustCompile(`LINUX_PACKAGE_ID " Debian ([^" ]+)"`)

// packageVersion is Debian's version of the source that the kernel was built from.
func (k Kernel) packageVersion() (string, error) {
	file := filepath.Join(k.headers(), "include", "generated", "package.h")
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	m := packageID.FindSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("%s names no version", file)
	}
	return string(m[1]), nil
}
