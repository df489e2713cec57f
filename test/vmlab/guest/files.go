package guest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"sync"
)

// saving lets one in at a time: a port takes one writer.
var saving sync.Mutex

// Save gives a file to the host, which has it after the run in Report.Files, also if the machine
// comes to no good later. The name may have directories.
func Save(name string, data []byte) error {
	entry, err := tarEntry(name, data)
	if err == nil {
		err = toPort(entry)
	}
	if err != nil {
		return fmt.Errorf("save %s: %w", name, err)
	}
	return nil
}

// tarEntry is one file of a stream without an end: there may be more.
func tarEntry(name string, data []byte) ([]byte, error) {
	var entry bytes.Buffer
	w := tar.NewWriter(&entry)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err := w.Flush()
	return entry.Bytes(), err
}

func toPort(data []byte) error {
	saving.Lock()
	defer saving.Unlock()
	port, err := openPort(FilesPort, os.O_WRONLY)
	if err != nil {
		return err
	}
	defer port.Close()
	_, err = port.Write(data)
	return err
}
