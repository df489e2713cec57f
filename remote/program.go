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
// file has been replaced meanwhile.
type program struct {
	file *os.File
	size int64
	hash string // SHA-256, in hex
}

func ownProgram() (*program, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("read the executable: %w", err)
	}
	sum, err := ownSum()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &program{f, sum.size, sum.hash}, nil
}

type ownFile struct {
	size int64
	hash string
}

// ownSum is worked out once: what a process was started from does not change.
var ownSum = sync.OnceValues(func() (ownFile, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return ownFile{}, fmt.Errorf("read the executable: %w", err)
	}
	defer f.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, f)
	if err != nil {
		return ownFile{}, fmt.Errorf("read the executable: %w", err)
	}
	return ownFile{size, hex.EncodeToString(hash.Sum(nil))}, nil
})

func (p *program) Close() error { return p.file.Close() }

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
