package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// Dial speaks to the device whose unix seqpacket socket is at path. The device must run as
// root or as the caller: it is about to be given keys.
func Dial(path string) (*Client, error) {
	return newClient("unix:"+path, device(path))
}

// device is the path of a device's socket.
type device string

func (device) release() error { return nil }

func (d device) dial() (*netlink.Conn, error) {
	path := string(d)
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		errno := err
		var op *net.OpError
		if errors.As(err, &op) {
			errno = op.Err
		}
		switch {
		case errors.Is(err, unix.ENOENT):
			return nil, fmt.Errorf("connect to %s: no such socket: is the device running?: %w", path, errno)
		case errors.Is(err, unix.ECONNREFUSED):
			return nil, fmt.Errorf("connect to %s: nobody listens: the device has stopped: %w", path, errno)
		case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
			return nil, fmt.Errorf("connect to %s: %w: run as root", path, errno)
		}
		return nil, fmt.Errorf("connect to %s: %w", path, errno)
	}
	if err := checkOwner(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return netlink.NewConn(&seqpacket{conn: conn, buf: make([]byte, maxDatagram)}, uint32(os.Getpid())), nil
}

// checkOwner refuses a peer that could be someone else's.
func checkOwner(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return fmt.Errorf("who listens there: %w", credErr)
	}
	if cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) {
		return fmt.Errorf("the listener runs as uid %d, neither root nor this user: %w", cred.Uid, unix.EPERM)
	}
	return nil
}

// join asks for events with an NLMSG_NOOP whose payload is a mask of groups.
func (device) join(ctx context.Context, conn *netlink.Conn, groups []uint32) error {
	var mask uint32
	for _, g := range groups {
		if g < 1 || g > 32 {
			return fmt.Errorf("join XFRM group %d: %w", g, ipsec.ErrInvalid)
		}
		mask |= 1 << (g - 1)
	}
	_, err := interruptible(ctx, conn, func() error {
		_, err := conn.Execute(netlink.Message{
			Header: netlink.Header{Type: netlink.Noop, Flags: netlink.Request | netlink.Acknowledge},
			Data:   binary.NativeEndian.AppendUint32(nil, mask),
		})
		return err
	})
	return err
}

// maxDatagram is more than a device puts into one datagram, in bytes.
const maxDatagram = 128 << 10

// seqpacket is a netlink.Socket over a unix seqpacket socket.
type seqpacket struct {
	conn *net.UnixConn
	buf  []byte // of Receive, which netlink.Conn calls one at a time
}

func (s *seqpacket) Close() error                       { return s.conn.Close() }
func (s *seqpacket) SetDeadline(t time.Time) error      { return s.conn.SetDeadline(t) }
func (s *seqpacket) SetReadDeadline(t time.Time) error  { return s.conn.SetReadDeadline(t) }
func (s *seqpacket) SetWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }

func (s *seqpacket) SyscallConn() (syscall.RawConn, error) { return s.conn.SyscallConn() }

func (s *seqpacket) Send(m netlink.Message) error { return s.SendMessages([]netlink.Message{m}) }

// SendMessages sends one datagram. Its copy of the keys is wiped.
func (s *seqpacket) SendMessages(msgs []netlink.Message) error {
	var n int
	for _, m := range msgs {
		n += 16 + len(m.Data) + 3
	}
	b := make([]byte, 0, n) // never grows, so that no copy is left behind
	for _, m := range msgs {
		b = xfrm.AppendMessage(b, m)
	}
	_, err := s.conn.Write(b)
	clear(b)
	return err
}

func (s *seqpacket) Receive() ([]netlink.Message, error) {
	n, _, flags, _, err := s.conn.ReadMsgUnix(s.buf, nil)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the device closed the connection: %w", io.EOF)
	}
	if err != nil {
		return nil, err
	}
	if flags&unix.MSG_TRUNC != 0 {
		return nil, fmt.Errorf("a datagram of more than %d bytes", len(s.buf))
	}
	var msgs []netlink.Message
	for m, err := range xfrm.Messages(append([]byte(nil), s.buf[:n]...)) {
		if err != nil {
			return nil, err
		}
		if m.Header.Type == netlink.Overrun { // what a netlink socket says by its errno
			return nil, unix.ENOBUFS
		}
		msgs = append(msgs, m)
	}
	return msgs, nil
}

func (s *seqpacket) ReceiveIter() iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		msgs, err := s.Receive()
		if err != nil {
			yield(netlink.Message{}, err)
			return
		}
		for _, m := range msgs {
			if !yield(m, nil) {
				return
			}
		}
	}
}
