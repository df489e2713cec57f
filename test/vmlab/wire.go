package vmlab

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// netSocket is where the VM's network device ends, in the suite's directory.
const netSocket = "net.sock"

// GuestMAC is the hardware address of the VM's network device.
const GuestMAC = "02:00:00:00:00:02"

// Wire is the cable to the VM's network device: the test process is everything else on it. It
// needs no privileges.
type Wire struct {
	listener net.Listener
	plugged  chan struct{} // closed when the VM is there, or will not come
	conn     net.Conn      // nil if it does not come
	frames   *bufio.Reader
	mu       sync.Mutex // one frame at a time goes to the VM
	out      []byte
}

func openWire(dir string) (*Wire, error) {
	listener, err := net.Listen("unix", filepath.Join(dir, netSocket))
	if err != nil {
		return nil, err
	}
	w := &Wire{listener: listener, plugged: make(chan struct{})}
	go func() {
		defer close(w.plugged)
		if conn, err := listener.Accept(); err == nil {
			w.conn, w.frames = conn, bufio.NewReaderSize(conn, 1<<18)
		}
	}()
	return w, nil
}

// Read gives the next Ethernet frame the VM has sent; after Close, and when the VM is gone, the
// error is net.ErrClosed.
func (w *Wire) Read(frame []byte) (int, error) {
	<-w.plugged
	if w.conn == nil {
		return 0, net.ErrClosed
	}
	// QEMU puts the length before each frame, in four bytes.
	var length [4]byte
	if _, err := io.ReadFull(w.frames, length[:]); err != nil {
		return 0, gone(err)
	}
	n := int(binary.BigEndian.Uint32(length[:]))
	if n > len(frame) {
		return 0, fmt.Errorf("a frame of %d bytes", n)
	}
	n, err := io.ReadFull(w.frames, frame[:n])
	return n, gone(err)
}

// Write sends an Ethernet frame. Before and after the VM it is lost, as on a cable.
func (w *Wire) Write(frame []byte) (int, error) {
	select {
	case <-w.plugged:
	default:
		return len(frame), nil
	}
	if w.conn == nil {
		return len(frame), nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = append(binary.BigEndian.AppendUint32(w.out[:0], uint32(len(frame))), frame...)
	if _, err := w.conn.Write(w.out); err != nil && !errors.Is(gone(err), net.ErrClosed) {
		return 0, err
	}
	return len(frame), nil
}

// gone is net.ErrClosed for the errors of a cable whose other end is not there any more.
func gone(err error) error {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, unix.EPIPE, unix.ECONNRESET} {
		if errors.Is(err, e) {
			return net.ErrClosed
		}
	}
	return err
}

// Close ends the cable.
func (w *Wire) Close() error {
	err := w.listener.Close()
	<-w.plugged
	if w.conn != nil {
		err = errors.Join(err, w.conn.Close())
	}
	return err
}
