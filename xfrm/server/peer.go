package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

const (
	// maxRequest is the longest datagram taken, in bytes: what a netlink socket sends by
	// default.
	maxRequest = 208 << 10
	// writeTimeout is how long a peer may leave its answers unread.
	writeTimeout = 10 * time.Second
	// eventQueue is how many events wait for a listener before it is dropped.
	eventQueue = 1024
)

// peer is one connection.
type peer struct {
	s       *Server
	conn    *net.UnixConn
	refused string // why it is not answered; "" if it is

	write  sync.Mutex
	events chan []byte // datagrams of the groups it joined
}

// servePeer reads requests until the connection or ctx ends.
func (s *Server) servePeer(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	p := &peer{s: s, conn: conn, events: make(chan []byte, eventQueue)}
	p.refused = s.refuse(conn)
	done := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() { p.sendEvents(done) })
	defer func() {
		s.leave(p)
		conn.Close() // also when it is the sender that blocks
		close(done)
		sender.Wait()
	}()
	buf := make([]byte, maxRequest)
	for {
		n, _, flags, _, err := conn.ReadMsgUnix(buf, nil)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.log.Warn("read from peer failed", "err", err)
			}
			return
		}
		err = p.datagram(ctx, buf[:n], flags&unix.MSG_TRUNC != 0)
		clear(buf[:n]) // keys were in there
		if err != nil {
			s.log.Warn("peer dropped: its answers cannot be sent", "err", err)
			return
		}
	}
}

// refuse says why a peer is not to be answered, "" if it is.
func (s *Server) refuse(conn *net.UnixConn) string {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err.Error()
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	switch err := errors.Join(err, credErr); {
	case err != nil:
		return "who asks is unknown: " + err.Error()
	case cred.Uid != s.PeerUID:
		s.log.Warn("peer refused", "uid", cred.Uid, "pid", cred.Pid)
		return fmt.Sprintf("uid %d may not program this device: run as uid %d", cred.Uid, s.PeerUID)
	}
	return ""
}

// datagram answers the messages of one datagram, each on its own. An error says that an
// answer could not be sent.
func (p *peer) datagram(ctx context.Context, b []byte, truncated bool) error {
	if truncated {
		// Nothing of it is carried out, and the first message can be answered at least.
		var m netlink.Message
		if len(b) >= 16 {
			m.Header.Type = netlink.HeaderType(binary.NativeEndian.Uint16(b[4:]))
			m.Header.Sequence, m.Header.PID = binary.NativeEndian.Uint32(b[8:]), binary.NativeEndian.Uint32(b[12:])
		}
		return p.sendError(m, unix.EMSGSIZE, fmt.Sprintf("a datagram of more than %d bytes", maxRequest))
	}
	for m, err := range xfrm.Messages(b) {
		if err != nil {
			return p.sendError(m, unix.EINVAL, err.Error())
		}
		if err := p.message(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// message answers one message as netlink does.
func (p *peer) message(ctx context.Context, m netlink.Message) error {
	typ := xfrm.MsgType(m.Header.Type)
	wantAck := m.Header.Flags&netlink.Acknowledge != 0
	switch {
	case p.refused != "":
		return p.sendError(m, unix.EPERM, p.refused)
	case m.Header.Flags&netlink.Request == 0:
		// Not a request: nothing is done, as in the kernel.
	case m.Header.Type == netlink.Noop:
		return p.join(m)
	case m.Header.Type < netlink.HeaderType(xfrm.MsgNewSA): // a control message
	case m.Header.Flags&netlink.Dump != 0 && (typ == xfrm.MsgGetSA || typ == xfrm.MsgGetPolicy):
		return p.dump(ctx, m)
	default:
		handle := handlerOf(typ)
		if handle == nil {
			return p.sendError(m, unix.EOPNOTSUPP, fmt.Sprintf("%s is not supported", typ))
		}
		replies, err := handle(p.s, ctx, m)
		if err != nil {
			p.s.log.Debug("request refused", "message", typ.String(), "err", err)
			return p.sendError(m, errnoOf(typ, err), reason(err))
		}
		for _, r := range replies {
			if err := p.send(r); err != nil {
				return err
			}
		}
	}
	if wantAck {
		return p.sendAck(m)
	}
	return nil
}

// join adds the connection to the groups of an NLMSG_NOOP. The acknowledgement goes out
// before the first event.
func (p *peer) join(m netlink.Message) error {
	if len(m.Data) != 4 {
		return p.sendError(m, unix.EINVAL, "NOOP takes a mask of groups: 4 bytes")
	}
	p.write.Lock()
	defer p.write.Unlock()
	p.s.mu.Lock()
	p.s.peers[p] |= binary.NativeEndian.Uint32(m.Data)
	p.s.mu.Unlock()
	if m.Header.Flags&netlink.Acknowledge == 0 {
		return nil
	}
	return p.sendLocked(xfrm.AppendMessage(nil, ack(m)))
}

// leave takes a connection out of all groups.
func (s *Server) leave(p *peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.peers, p)
}

// sendEvents hands queued events to the connection until done.
func (p *peer) sendEvents(done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case b := <-p.events:
			if err := p.sendDatagram(b); err != nil {
				p.conn.Close() // ends the reader too
				return
			}
		}
	}
}

// notify sends an event to the members of a group. One whose queue is full is dropped.
func (s *Server) notify(group uint32, m netlink.Message) {
	b := xfrm.AppendMessage(nil, m)
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, groups := range s.peers {
		if groups&(1<<(group-1)) == 0 {
			continue
		}
		select {
		case p.events <- b:
		default:
			s.log.Warn("listener dropped: it does not read its events")
			delete(s.peers, p)
			p.conn.Close()
		}
	}
}

// reason is err without operation and object, which the one who asked puts in front.
func reason(err error) string {
	if op, ok := err.(*ipsec.OpError); ok {
		return reason(op.Err)
	}
	return err.Error()
}

// errnoOf is the errno that the kernel would answer with.
func errnoOf(typ xfrm.MsgType, err error) unix.Errno {
	switch {
	case errors.Is(err, ipsec.ErrExist):
		return unix.EEXIST
	case errors.Is(err, ipsec.ErrNotExist):
		switch typ {
		case xfrm.MsgNewPolicy, xfrm.MsgUpdPolicy, xfrm.MsgDelPolicy, xfrm.MsgGetPolicy, xfrm.MsgFlushPolicy:
			return unix.ENOENT
		}
		return unix.ESRCH
	case errors.Is(err, ipsec.ErrUnsupported):
		return unix.EOPNOTSUPP
	case errors.Is(err, ipsec.ErrInvalid):
		return unix.EINVAL
	}
	return unix.EIO
}
