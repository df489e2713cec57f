package client

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// SocketSuffix ends the name of a device's socket, which begins with that of the network device.
const SocketSuffix = ".sock"

// runDir holds a directory of sockets for each network namespace.
const runDir = "/run/espalier"

// SocketDir is where the devices of the calling thread's network namespace have their sockets: named
// after the inode of the namespace, which is what tells namespaces apart.
func SocketDir() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return "", fmt.Errorf("find out the network namespace: %w", err)
	}
	return filepath.Join(runDir, fmt.Sprint(st.Ino)), nil
}

// DeviceSockets finds the sockets in dir by network device. Keys go to who listens on them: it must
// be root or the user that runs this.
func DeviceSockets(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for devices: %w; say which SAD with --sad", err)
	}
	sockets := map[string]string{}
	for _, entry := range entries {
		device, ok := strings.CutSuffix(entry.Name(), SocketSuffix)
		if !ok || entry.Type() != fs.ModeSocket {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			continue // it has just gone
		}
		if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			return nil, fmt.Errorf("%s belongs to user %d, not to root: keys will not be sent there", path, st.Uid)
		}
		sockets[device] = path
	}
	return sockets, nil
}
