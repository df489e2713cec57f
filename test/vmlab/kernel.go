package vmlab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"espalier/test/lab"
)

// Kernel is an unpacked kernel of Debian's.
type Kernel struct {
	Version string // as uname -r says, without the flavour: "6.12.117+deb12"
	dir     string
}

// flavour of Debian's kernels that has everything.
const flavour = "-amd64"

// defaultSeries is the series that is tested if no other is asked for.
const defaultSeries = "6.12"

// Release is what uname -r says.
func (k Kernel) Release() string { return k.Version + flavour }

// Series is the first two numbers of the version.
func (k Kernel) Series() string { return series(k.Version) }

func series(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// FindKernel gives the kernel that VMLAB_KERNEL asks for: a series ("6.12" by default) or
// "newest". It is fetched the first time. Where it cannot be had the test is skipped.
func FindKernel(t testing.TB) Kernel {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		lab.Missing(t, "amd64: the VM emulates no other processor")
	}
	lab.Tools(t, "qemu-system-x86_64", "apt-get", "apt-cache", "dpkg-deb", "xz", "zstd")
	wanted := os.Getenv("VMLAB_KERNEL")
	if wanted == "" {
		wanted = defaultSeries
	}
	cache, err := openCache()
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	k, err := cache.kernel(wanted)
	if err != nil {
		lab.Missing(t, fmt.Sprintf("a Debian kernel %s: %v", wanted, err))
	}
	return k
}

var imageName = regexp.MustCompile(`^linux-image-(\d[\w.+-]*)` + flavour + `-unsigned$`)

// resolve names the newest version of a series that apt knows.
func resolve(wanted string) (version string, err error) {
	out, err := output("apt-cache", "search", "--names-only", "^linux-image-[0-9].*"+flavour+"-unsigned$")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(line, " ")
		m := imageName.FindStringSubmatch(name)
		if m == nil || strings.HasSuffix(m[1], "-rt") || strings.HasSuffix(m[1], "-cloud") {
			continue
		}
		if wanted != "newest" && series(m[1]) != wanted {
			continue
		}
		if version == "" || slices.Compare(numbers(m[1]), numbers(version)) > 0 {
			version = m[1]
		}
	}
	if version == "" {
		return "", fmt.Errorf("apt lists none")
	}
	return version, nil
}

var digits = regexp.MustCompile(`\d+`)

func numbers(version string) (n []int) {
	for _, d := range digits.FindAllString(version, -1) {
		i, _ := strconv.Atoi(d)
		n = append(n, i)
	}
	return n
}

// packages of a version: the image, and what it takes to build modules for it.
func packages(version string) ([]string, error) {
	headers := "linux-headers-" + version + flavour
	out, err := output("apt-cache", "depends", headers)
	if err != nil {
		return nil, err
	}
	names := []string{"linux-image-" + version + flavour + "-unsigned", headers}
	for line := range strings.Lines(out) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: ")
		if ok && (strings.HasPrefix(name, "linux-headers-") || strings.HasPrefix(name, "linux-kbuild-")) {
			names = append(names, name)
		}
	}
	return names, nil
}

// fetchTimeout is for what apt-get has to download.
const fetchTimeout = 3 * time.Minute

// updateLists has apt look for newer versions: those it lists are not kept for long.
func updateLists() error {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	return exec.CommandContext(ctx, "apt-get", "update", "-qq").Run()
}

// fetch unpacks the packages of a version below dir.
func fetch(version, dir string) error {
	names, err := packages(version)
	if err != nil {
		return err
	}
	debs := filepath.Join(dir, "debs")
	if err := os.Mkdir(debs, 0o755); err != nil {
		return err
	}
	if err := download(debs, names...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := output("dpkg-deb", "-x", f, filepath.Join(dir, "root")); err != nil {
			return err
		}
	}
	return os.RemoveAll(debs)
}

// download puts packages into dir; a name may say the version too, as name=version.
func download(dir string, names ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"download", "-qq"}, names...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download: %w\n%s", err, out)
	}
	return nil
}

// output is what a program says on stdout; the error holds what it says on stderr.
func output(name string, args ...string) (string, error) {
	var stderr strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

// image is the file that QEMU boots.
func (k Kernel) image() string { return filepath.Join(k.dir, "kernel") }
