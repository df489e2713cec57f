package vmlab

import (
	"archive/tar"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// readFiles reads what guest.Save has written. Of a stream that was cut off it gives the files
// that came whole.
func readFiles(r io.Reader) (map[string][]byte, error) {
	files := make(map[string][]byte)
	for stream := tar.NewReader(r); ; {
		header, err := stream.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return files, nil
		}
		if err != nil {
			return files, fmt.Errorf("read the files of the VM: %w", err)
		}
		data, err := io.ReadAll(stream)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return files, nil
		}
		if err != nil {
			return files, fmt.Errorf("read %s of the VM: %w", header.Name, err)
		}
		files[header.Name] = data
	}
}

// keepFiles leaves files, and what the machine has said, in the directory that go test -artifacts
// asks for.
func (m *machine) keepFiles(t *testing.T, files map[string][]byte) {
	t.Helper()
	files = maps.Clone(files)
	for _, f := range []string{m.console(), m.results()} {
		if data, err := os.ReadFile(f); err == nil {
			files[filepath.Base(f)] = data
		}
	}
	names := strings.Join(slices.Sorted(maps.Keys(files)), ", ")
	if f := flag.Lookup("test.artifacts"); f == nil || f.Value.String() != "true" {
		if t.Failed() {
			t.Logf("go test -artifacts keeps %s", names)
		}
		return
	}
	dir := t.ArtifactDir()
	root, err := os.OpenRoot(dir) // names are the VM's: they stay below
	if err != nil {
		t.Error(err)
		return
	}
	defer root.Close()
	for name, data := range files {
		if err := errors.Join(root.MkdirAll(filepath.Dir(name), 0o755), root.WriteFile(name, data, 0o644)); err != nil {
			t.Errorf("keep %s: %v", name, err)
		}
	}
	t.Logf("in %s: %s", dir, names)
}
