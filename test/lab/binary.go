package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Binary is the espalier binary under test, built with the race detector: every device of
// every test runs under it. It is built once per test process.
func Binary(t testing.TB) string { return built(t, build) }

// Plain is the same as it is shipped, for what is measured.
func Plain(t testing.TB) string { return built(t, buildPlain) }

func built(t testing.TB, by func() (string, error)) string {
	t.Helper()
	path, err := by()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var (
	build      = sync.OnceValues(func() (string, error) { return compile("CGO_ENABLED=1", "-race") })
	buildPlain = sync.OnceValues(func() (string, error) { return compile("CGO_ENABLED=0") })
)

func compile(env string, args ...string) (string, error) {
	dir, err := os.MkdirTemp("", "espalier-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "espalier")
	cmd := exec.Command("go", append(append([]string{"build"}, args...), "-o", path, "espalier/cmd/espalier")...)
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		os.RemoveAll(dir)
		return "", &buildError{err, out}
	}
	directories.Store(dir, nil)
	return path, nil
}

// directories are those of binaries, which go in the end.
var directories sync.Map

type buildError struct {
	err error
	out []byte
}

func (e *buildError) Error() string { return "build espalier: " + e.err.Error() + "\n" + string(e.out) }

// Run runs the tests of a package and removes the binary: `os.Exit(lab.Run(m))` in TestMain. What
// its commands remember is not this machine's.
func Run(m *testing.M) int {
	state, err := os.MkdirTemp("", "espalier-state-")
	if err == nil {
		err = os.Setenv("ESPALIER_STATE_DIR", state)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(state)
	code := m.Run()
	for dir := range directories.Range {
		os.RemoveAll(dir.(string))
	}
	return code
}
