package vmlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
	"espalier/test/vmlab/guest"
)

// peer is a host of the lab with the userspace device. What would be the host at the other end
// of its cable is the VM: frames are carried from one to the other.
type peer struct {
	lab  *lab.Lab
	tap  *os.File // at the VM's end of the cable
	echo net.Listener

	replayed [2]int // ESP packets carried twice: to the VM, to the host
}

func newPeer(t *testing.T) *peer {
	l := lab.New(t, "p4p1")
	l.B.Must("ip", "link", "set", "p4p1", "promisc", "on")
	l.B.Must("ip", "address", "flush", "dev", "p4p1")
	l.A.Must("ip", "link", "set", "p4p1", "address", guest.HostMAC)
	l.A.StartDevice()
	for _, pair := range guest.InteropPairs {
		l.A.Batch(l.Script(l.A, pair.Pair))
	}
	// The VM's policies take neighbour discovery for what is to be encrypted.
	l.A.Must("ip", "neighbour", "replace", lab.B6.String(), "lladdr", GuestMAC, "dev", "p4p1")
	p := &peer{lab: l}
	err := errors.Join(
		l.B.Do(func() (err error) { p.tap, err = openTap("p4p1"); return err }),
		l.A.Do(func() (err error) {
			p.echo, err = net.Listen("tcp", fmt.Sprint(":", guest.EchoPort))
			return err
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.tap.Close()
		p.echo.Close()
	})
	go p.serveEcho()
	return p
}

// openTap opens a device for whole frames, in the calling thread's network namespace.
func openTap(device string) (*os.File, error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index}),
	)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), device), nil
}

func (p *peer) serveEcho() {
	for {
		conn, err := p.echo.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			io.Copy(conn, conn)
		}()
	}
}

// serve carries frames until the wire is closed.
func (p *peer) serve(w *Wire) error {
	done := make(chan error, 1)
	go func() { done <- carry(w, p.tap, &p.replayed[0]) }()
	err := carry(p.tap, w, &p.replayed[1])
	p.tap.Close()
	for _, err := range []error{err, <-done} {
		if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
			return err
		}
	}
	return nil
}

// carry carries frames from one end to the other, and the first ESP packets twice.
func carry(to io.Writer, from io.Reader, replayed *int) error {
	frame := make([]byte, 1<<16)
	for {
		n, err := from.Read(frame)
		if err != nil {
			return err
		}
		times := 1
		if isESP(frame[:n]) && *replayed < guest.Replays {
			*replayed++
			times = 2
		}
		for range times {
			if _, err := to.Write(frame[:n]); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return err
			}
		}
	}
}

func isESP(frame []byte) bool {
	return len(frame) > 34 && binary.BigEndian.Uint16(frame[12:]) == unix.ETH_P_IP && frame[23] == unix.IPPROTO_ESP
}

// check judges what the host saw, when the VM is gone.
func (p *peer) check(t *testing.T) {
	t.Helper()
	if p.replayed != [2]int{guest.Replays, guest.Replays} {
		t.Errorf("%d and %d packets were replayed, want %d each way", p.replayed[0], p.replayed[1], guest.Replays)
	}
	if drops := p.lab.A.Drops(); drops["in-replay"] != guest.Replays || len(drops) != 1 {
		t.Errorf("the host dropped %v, want %d replayed packets", drops, guest.Replays)
	}
}
