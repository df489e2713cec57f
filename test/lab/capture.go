package lab

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/internal/wire"
)

// Capture writes the packets that cross a device to a file or pipe, each at once as tcpdump -U does,
// until the test's end. in runs things in the device's network namespace.
func Capture(t testing.TB, device string, in func(func() error) error, file *os.File) {
	t.Helper()
	var tap *os.File
	err := in(func() error {
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		tap = os.NewFile(uintptr(fd), device)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index})
	})
	if err != nil {
		t.Fatalf("capture on %s: %v", device, err)
	}
	w, err := wire.NewPcapWriter(file)
	if err = errors.Join(err, w.Flush()); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := make([]byte, 1<<16); ; {
			n, err := tap.Read(b)
			if err != nil {
				return
			}
			if err := errors.Join(w.Write(time.Now(), b[:n]), w.Flush()); err != nil {
				return // nobody reads it any more
			}
		}
	}()
	t.Cleanup(func() {
		tap.SetReadDeadline(time.Now())
		<-done
		tap.Close()
	})
}

// Tap is a Capture that comes by a pipe.
func Tap(t testing.TB, device string, in func(func() error) error) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() }) // after the capture has ended
	Capture(t, device, in, w)
	return r
}
