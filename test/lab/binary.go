package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// BinaryVariable names, in the environment, an espalier that was built with the race detector. Test processes
// share it; each of them builds its own where it is not set.
const BinaryVariable = "ESPALIER_RACE_BINARY"

// Binary is the espalier binary under test, built with the race detector: every device of
// every test runs under it.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var build = sync.OnceValues(func() (string, error) {
	if shared := os.Getenv(BinaryVariable); shared != "" {
		_, err := os.Stat(shared)
		return shared, err
	}
	dir, err := os.MkdirTemp("", "espalier-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "espalier")
	cmd := exec.Command("go", "build", "-race", "-ldflags=-s -w", "-o", path, "espalier/cmd/espalier")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", &buildError{err, out}
	}
	return path, nil
})

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
	if err == nil {
		err = os.Setenv("GORACE", RaceOptions)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(state)
	code := m.Run()
	if path, err := build(); err == nil && os.Getenv(BinaryVariable) == "" {
		os.RemoveAll(filepath.Dir(path))
	}
	return code
}
