// Package secgw runs ipsec-secgw, the IPsec gateway among DPDK's examples, as a peer in benchmarks of
// the whole packet path: built from Debian's source, on one core, between null devices.
package secgw

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

//go:embed build.sh
var script string

// program is the gateway: built, or found in the user's cache, where it stays.
var program = sync.OnceValues(func() (built, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return built{}, err
	}
	recipe := sha256.Sum256([]byte(script))
	dir := filepath.Join(cache, "espalier-bench", "secgw-"+hex.EncodeToString(recipe[:4]))
	path := filepath.Join(dir, "ipsec-secgw")
	if _, err := os.Stat(path); err != nil {
		if err := build(dir, path); err != nil {
			return built{}, fmt.Errorf("build ipsec-secgw: %w: it takes dpkg-dev, meson, ninja-build, gcc, python3-pyelftools, libnuma-dev, libipsec-mb-dev", err)
		}
	}
	v, err := os.ReadFile(path + ".version")
	return built{path, strings.TrimSpace(string(v))}, err
})

type built struct{ path, version string }

func build(dir, path string) error {
	source, err := debianSource()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(dir, "work")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	cmd := exec.Command("sh", "-s", "-", work, source, path)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out[max(0, len(out)-2000):])
	}
	return nil
}

// debianSource is where this machine has Debian from, for source packages.
func debianSource() (string, error) {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("apt-get indextargets: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) >= 4 && f[2] == "main" && f[3] == "Debian" && !strings.Contains(f[1], "-") {
			return "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] " + f[0] + " " + f[1] + " main", nil
		}
	}
	return "", errors.New("apt has no source of Debian")
}
