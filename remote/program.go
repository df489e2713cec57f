package remote

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"debug/elf"
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
	hash string // of its content: the build ID, or else SHA-256 in hex
}

var ownProgram = sync.OnceValues(func() (*program, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("read the executable: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read the executable: %w", err)
	}
	hash := buildID(f)
	if hash == "" {
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			f.Close()
			return nil, fmt.Errorf("read the executable: %w", err)
		}
		hash = hex.EncodeToString(sum.Sum(nil))
	}
	return &program{f, info.Size(), hash}, nil
})

// buildID is what the go command has written into an executable, the end of which is a hash of all of it
// (cmd/go/internal/work, buildid.go); "" if there is none. To hash it again takes longer than all else that
// happens until espalier speaks.
func buildID(f io.ReaderAt) string {
	e, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	section := e.Section(".note.go.buildid")
	if section == nil {
		return ""
	}
	note, err := section.Data()
	const header = 16 // lengths of the name and of what it is about, a type, and the name
	if err != nil || len(note) < header {
		return ""
	}
	id := note[header:]
	if n := e.ByteOrder.Uint32(note[4:]); int64(n) < int64(len(id)) {
		id = id[:n]
	}
	if bytes.Count(id, []byte("/")) != 3 { // of the action that made it, of that of the main package, their contents'
		return ""
	}
	return string(id)
}

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
