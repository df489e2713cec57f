package vmlab

import (
	"errors"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The sockets of the network between the test process and the VM, in the suite's directory.
const (
	guestSocket = "guest.sock"
	hostSocket  = "host.sock"
)

// GuestMAC is the hardware address of the VM's network device.
const GuestMAC = "02:00:00:00:00:02"

// Wire is the cable to the VM's network device: the test process is everything else on it. It
// needs no privileges.
type Wire struct {
	conn  *net.UnixConn
	guest *net.UnixAddr
}

func openWire(dir string) (*Wire, error) {
	local := &net.UnixAddr{Name: filepath.Join(dir, hostSocket), Net: "unixgram"}
	conn, err := net.ListenUnixgram("unixgram", local)
	if err != nil {
		return nil, err
	}
	return &Wire{conn, &net.UnixAddr{Name: filepath.Join(dir, guestSocket), Net: "unixgram"}}, nil
}

// Read gives the next Ethernet frame the VM has sent; after Close the error is net.ErrClosed.
func (w *Wire) Read(frame []byte) (int, error) { return w.conn.Read(frame) }

// ReadWithin is Read with a limit; the error is os.ErrDeadlineExceeded.
func (w *Wire) ReadWithin(frame []byte, wait time.Duration) (int, error) {
	if err := w.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, err
	}
	defer w.conn.SetReadDeadline(time.Time{})
	return w.conn.Read(frame)
}

// Write sends an Ethernet frame. Before and after the VM it is lost, as on a cable.
func (w *Wire) Write(frame []byte) (int, error) {
	n, err := w.conn.WriteToUnix(frame, w.guest)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return len(frame), nil
	}
	return n, err
}

// Close ends the cable.
func (w *Wire) Close() error { return w.conn.Close() }
