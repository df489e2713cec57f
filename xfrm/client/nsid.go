package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// NamespaceEvent is an event and the network namespace that it comes from.
type NamespaceEvent struct {
	xfrm.Event
	NSID int // the id that namespace has in the client's; OwnNSID: it is the client's own
}

// OwnNSID is no id: of events of the client's own namespace.
const OwnNSID = -1

// ListenAllNamespaces is [Client.Listen] to all network namespaces that have an id in the
// client's, which must be that of the calling thread. Only the kernel has them; of a device it
// is ipsec.ErrUnsupported.
func (c *Client) ListenAllNamespaces(ctx context.Context, groups ...uint32) iter.Seq2[NamespaceEvent, error] {
	q := call{op: "listen for events of all namespaces"}
	return func(yield func(NamespaceEvent, error) bool) {
		fail := func(err error) bool { return yield(NamespaceEvent{}, q.fail(err)) }
		k, ok := c.engine.(*kernel)
		if !ok || !k.here() {
			fail(ipsec.ErrUnsupported)
			return
		}
		socket, err := namespacesSocket(groups)
		if err != nil {
			fail(err)
			return
		}
		defer socket.Close()
		ctx, cancel := c.withLife(ctx)
		defer cancel()
		defer context.AfterFunc(ctx, func() { socket.Close() })()
		conn, err := socket.SyscallConn()
		if err != nil {
			fail(err)
			return
		}
		data, control := make([]byte, 1<<16), make([]byte, 256)
		for {
			n, nsid, err := receiveNSID(conn.Read, data, control)
			switch {
			case ctx.Err() != nil:
				fail(context.Cause(ctx))
				return
			case err != nil:
				if !fail(err) || !errors.Is(err, unix.ENOBUFS) {
					return
				}
				continue
			}
			for m, err := range xfrm.Messages(data[:n]) {
				var e xfrm.Event
				if err == nil {
					e, err = xfrm.DecodeEvent(m)
				}
				if err != nil {
					err = q.fail(err)
				}
				if !yield(NamespaceEvent{e, nsid}, err) {
					return
				}
			}
			clear(data[:n]) // it may hold keys
		}
	}
}

// namespacesSocket is opened by hand: package netlink does not tell whose a message is.
func namespacesSocket(groups []uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_XFRM)
	if err != nil {
		return nil, fmt.Errorf("open NETLINK_XFRM: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "NETLINK_XFRM")
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, eventBuffer) // best effort, as in join
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1); err != nil {
		return nil, errors.Join(fmt.Errorf("NETLINK_LISTEN_ALL_NSID: %w", err), socket.Close())
	}
	mask := uint32(0)
	for _, g := range groups {
		mask |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: mask}); err != nil {
		return nil, errors.Join(fmt.Errorf("join XFRM groups %#x: %w", mask, err), socket.Close())
	}
	return socket, nil
}

// receiveNSID reads one datagram and the id of its namespace.
func receiveNSID(read func(func(uintptr) bool) error, data, control []byte) (n, nsid int, err error) {
	var controls int
	var received error
	err = read(func(fd uintptr) bool {
		n, controls, _, _, received = unix.Recvmsg(int(fd), data, control, 0)
		return !errors.Is(received, unix.EAGAIN)
	})
	if err = errors.Join(err, received); err != nil {
		return 0, 0, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:controls])
	if err != nil {
		return 0, 0, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(m.Data) >= 4 {
			return n, int(int32(binary.NativeEndian.Uint32(m.Data))), nil
		}
	}
	return n, OwnNSID, nil
}
