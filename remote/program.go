package remote

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
)

// program is the executable of this process: what runs here is what is to run there, also if the
// file has been replaced meanwhile. It stays open.
type program struct {
	file *os.File
	size int64
	hash string // SHA-256, in hex
}

var ownProgram = sync.OnceValues(func() (*program, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("read the executable: %w", err)
	}
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read the executable: %w", err)
	}
	return &program{f, size, hex.EncodeToString(sum.Sum(nil))}, nil
})

// Version is that of the module this executable was built from, with its revision.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" || s.Key == "vcs.modified" && s.Value == "true" {
			v += " " + s.Value
		}
	}
	return v
}

// machine is this architecture as uname -m calls it.
func machine() string {
	switch runtime.GOARCH {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return runtime.GOARCH
}

// newNonce marks the lines of one connection.
func newNonce() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// whoami is this process's hello.
func whoami(hash string) Hello {
	name, _ := os.Hostname()
	return Hello{Version: Version(), Hash: hash, Hostname: name, UID: os.Geteuid(), PID: os.Getpid()}
}
