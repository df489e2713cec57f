// Package wireguard runs wireguard-go, WireGuard in user space, as a peer in benchmarks: built from
// its module, in the foreground, programmed over its own socket.
package wireguard

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	module  = "golang.zx2c4.com/wireguard"
	version = "v0.0.0-20260522210424-ecfc5a8d5446"
)

// Name is the peer with the date of its version.
const Name = "wireguard-go 20260522"

// Build returns the program: built, or found in the user's cache, where it stays.
func Build(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "espalier-bench", "wireguard-"+version)
	path := filepath.Join(dir, "wireguard")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "install", module+"@"+version)
	cmd.Dir = dir // outside of any module
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOWORK=off", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build wireguard-go, which takes the network or a filled module cache: %w\n%s", err, out)
	}
	return path, nil
}
