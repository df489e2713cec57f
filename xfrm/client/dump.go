package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

const (
	// dumpDatagram is the longest datagram of a dump in bytes: more than the kernel gives (32 KiB)
	// and a device (less).
	dumpDatagram = 64 << 10
	// dumpBuffer is room for several: to hand each over by itself would take longer than to
	// receive it.
	dumpBuffer = 320 << 10
)

// dump makes a request that is answered by any number of messages, on its own socket. A
// message's data is good until the next one is asked for.
func (c *Client) dump(ctx context.Context, q call) iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		ctx, cancel := c.withLife(ctx)
		defer cancel()
		if ctx.Err() != nil {
			yield(netlink.Message{}, q.fail(context.Cause(ctx)))
			return
		}
		conn, err := c.engine.dial()
		if err != nil {
			yield(netlink.Message{}, q.fail(err))
			return
		}
		defer conn.Close()
		q.flags |= netlink.Dump
		_, err = interruptible(ctx, conn, func() error {
			if _, err := conn.Send(q.message()); err != nil {
				return err
			}
			return receiveDump(conn, func(m netlink.Message) bool { return yield(m, nil) })
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(netlink.Message{}, q.fail(err))
		}
	}
}

// errStopped says that a dump was not wanted to its end.
var errStopped = errors.New("stopped")

// receiveDump gives each the parts of a dump until it has enough of them. While it looks at some
// the next are received: an engine produces them meanwhile. The buffers are few and used again,
// which package netlink does not do: half of the time of a long dump went into buffers.
func receiveDump(conn *netlink.Conn, each func(netlink.Message) bool) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	const ahead = 3
	var buffers [ahead][]byte
	empty, full := make(chan []byte, ahead), make(chan datagrams, ahead)
	for i := range buffers {
		buffers[i] = make([]byte, dumpBuffer)
		empty <- buffers[i]
	}
	var receiver sync.WaitGroup
	receiver.Go(func() { receiveAll(raw, empty, full) })
	defer func() {
		close(empty)
		conn.SetDeadline(time.Unix(1, 0)) // it may wait for more
		receiver.Wait()
		for _, b := range buffers {
			clear(b) // keys may have been in there
		}
	}()
	for d := range full {
		for m, err := range xfrm.Messages(d.b) {
			switch {
			case err != nil:
				return err
			case ends(m.Header.Type):
				return dumpError(m)
			case !each(m):
				return errStopped
			}
		}
		if d.err != nil {
			return d.err
		}
		empty <- d.b[:dumpBuffer]
	}
	return nil // not before the last message
}

// datagrams are some that were received, one behind the other, or why there are no more.
type datagrams struct {
	b   []byte
	err error
}

// receiveAll receives datagrams up to that with the end of a dump, or until there is no buffer to
// come.
func receiveAll(raw syscall.RawConn, empty <-chan []byte, full chan<- datagrams) {
	defer close(full)
	for b := range empty {
		n, ended, err := receiveSome(raw, b)
		full <- datagrams{b[:n], err}
		if ended || err != nil {
			return
		}
	}
}

// receiveSome receives as many datagrams as are there and have room, at least one, and reports
// whether the end of the dump was among them.
func receiveSome(raw syscall.RawConn, b []byte) (n int, ended bool, err error) {
	for len(b)-n >= dumpDatagram {
		got, err := receive(raw, b[n:], n == 0)
		if errors.Is(err, unix.EAGAIN) {
			return n, false, nil
		}
		if err != nil {
			return n, false, err
		}
		ended = endsDump(b[n : n+got])
		if n += (got + 3) &^ 3; ended {
			return n, true, nil
		}
	}
	return n, false, nil
}

// endsDump reports whether a dump is at its end with this datagram, or cannot be followed beyond it.
func endsDump(b []byte) bool {
	for len(b) >= unix.NLMSG_HDRLEN {
		n := binary.NativeEndian.Uint32(b)
		typ := netlink.HeaderType(binary.NativeEndian.Uint16(b[4:]))
		if ends(typ) || n < unix.NLMSG_HDRLEN || uint64(n) > uint64(len(b)) {
			return true
		}
		b = b[min(int(n+3)&^3, len(b)):]
	}
	return len(b) > 0
}

func ends(typ netlink.HeaderType) bool { return typ == netlink.Done || typ == netlink.Error }

// receive receives one datagram. If there is none it waits, or returns EAGAIN.
func receive(raw syscall.RawConn, buf []byte, wait bool) (n int, err error) {
	var flags int
	var received error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, _, flags, _, received = unix.Recvmsg(int(fd), buf, nil, unix.MSG_DONTWAIT)
			if received != unix.EINTR {
				return received != unix.EAGAIN || !wait
			}
		}
	})
	switch err := errors.Join(err, received); {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, fmt.Errorf("the connection was closed: %w", io.EOF)
	case flags&unix.MSG_TRUNC != 0:
		return 0, fmt.Errorf("a datagram of more than %d bytes", len(buf))
	}
	return n, nil
}

// dumpError is what NLMSG_DONE or NLMSG_ERROR at the end of a dump says, nil for success.
func dumpError(m netlink.Message) error {
	if len(m.Data) < 4 {
		return nil // NLMSG_DONE of old kernels
	}
	errno := -int32(binary.NativeEndian.Uint32(m.Data))
	if errno == 0 {
		return nil
	}
	op := &netlink.OpError{Op: "receive", Err: syscall.Errno(errno), Sequence: m.Header.Sequence}
	if m.Header.Flags&netlink.AcknowledgeTLVs == 0 {
		return op
	}
	attributes := m.Data[4:]
	if m.Header.Type == netlink.Error { // the request it is about comes first
		if len(attributes) < unix.NLMSG_HDRLEN {
			return op
		}
		given := binary.NativeEndian.Uint32(attributes)
		attributes = attributes[min(uint64(given), uint64(len(attributes))):]
	}
	ad, err := netlink.NewAttributeDecoder(attributes)
	if err != nil {
		return op
	}
	for ad.Next() {
		if ad.Type() == unix.NLMSGERR_ATTR_MSG {
			op.Message = ad.String()
		}
	}
	return op
}
