package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// releaseDead takes away what a dead device left behind, its socket included.
func releaseDead(cfg dataplane.Config, socket string) error {
	dead, err := deadSocket(socket)
	if err != nil {
		return err
	}
	if err := dataplane.Release(cfg); err != nil {
		return err
	}
	if dead {
		return os.Remove(socket)
	}
	return nil
}

// deadSocket reports whether there is a socket that nobody listens on. That somebody does is an
// error: releasing a device that runs would let cleartext through its guard.
func deadSocket(path string) (bool, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	switch {
	case err == nil:
		defer conn.Close()
		return false, fmt.Errorf("--release is for a dead device, and the one at unix:%s runs%s: end it first, with SIGTERM", path, processOf(conn))
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return false, nil
	case errors.Is(err, unix.ECONNREFUSED): // also by what is no socket
		info, err := os.Lstat(path)
		return err == nil && info.Mode().Type() == fs.ModeSocket, nil
	}
	return false, fmt.Errorf("find out whether the device is dead: %w", err)
}

// processOf names the process at the other end, if it can be told.
func processOf(conn *net.UnixConn) string {
	raw, err := conn.SyscallConn()
	if err != nil {
		return ""
	}
	pid := int32(0)
	raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = cred.Pid
		}
	})
	if pid == 0 {
		return ""
	}
	return fmt.Sprintf(" as process %d", pid)
}
