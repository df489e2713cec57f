package differential

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"espalier/test/lab"
)

func TestMain(m *testing.M) {
	os.Setenv("GORACE", "atexit_sleep_ms=0 exitcode=66") // else each command waits a second at its end
	os.Exit(lab.Run(m))
}

// newIP is the ip of iproute2 6.15, from Debian's backports: that of Debian 12 knows neither dir
// nor packet mode. It is unpacked into the user's cache; nothing is installed, and apt's own
// configuration stays as it is.
func newIP(t *testing.T) string {
	t.Helper()
	path, err := fetch()
	if err != nil {
		lab.Missing(t, "iproute2 from bookworm-backports: "+err.Error())
	}
	return path
}

var fetch = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "espalier-iproute2")
	ip := filepath.Join(dir, "root", "bin", "ip")
	if exec.Command(ip, "-V").Run() == nil {
		return ip, nil
	}
	if err := download(dir); err != nil {
		return "", err
	}
	return ip, exec.Command(ip, "-V").Run()
})

// backports is the source of newer packages beside the one that this machine has Debian from.
func backports() (string, error) {
	const suite = "bookworm"
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages").Output()
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		if uri, name, _ := strings.Cut(strings.TrimSpace(line), " "); name == suite {
			return "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " + uri + " " + suite + "-backports main\n", nil
		}
	}
	return "", errors.New("apt has no source of Debian " + suite)
}

func download(dir string) error {
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	source, err := backports()
	if err != nil {
		return err
	}
	sources := filepath.Join(dir, "sources.list")
	if err := os.WriteFile(sources, []byte(source), 0o644); err != nil {
		return err
	}
	script := `set -e
cd "$1"
apt="-o Dir::Etc::sourcelist=$1/sources.list -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$1/lists -o Dir::Cache=$1/cache -o APT::Sandbox::User=root"
apt-get -qq $apt update
rm -f iproute2_*.deb
apt-get -qq $apt download iproute2/bookworm-backports
rm -rf root
dpkg-deb -x iproute2_*.deb root
rm -rf iproute2_*.deb lists cache`
	out, err := exec.Command("sh", "-c", script, "sh", dir).CombinedOutput()
	if err != nil {
		return &fetchError{err, out}
	}
	return nil
}

type fetchError struct {
	err error
	out []byte
}

func (e *fetchError) Error() string { return e.err.Error() + ": " + string(e.out) }
