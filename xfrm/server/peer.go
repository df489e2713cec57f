package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
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
	// eventQueue is how many events wait for a listener before it loses some.
	eventQueue = 1024
)

// peer is one connection.
type peer struct {
	s       *Server
	conn    *net.UnixConn
	refused string // why it is not answered; "" if it is

	write   sync.Mutex
	sending sync.WaitGroup // sendEvents, once it has joined a group
	done    chan struct{}  // closed when the connection ends
	events  chan []byte    // datagrams of the groups it joined; nil before it has
	lost    atomic.Bool    // some did not fit, and it has not been told yet
}

// servePeer reads requests until the connection or ctx ends.
func (s *Server) servePeer(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	p := &peer{s: s, conn: conn, done: make(chan struct{})}
	p.refused = s.refuse(conn)
	defer func() {
		s.leave(p)
		conn.Close() // also when it is sendEvents that blocks
		close(p.done)
		p.sending.Wait()
	}()
	pooled := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(pooled)
	buf := *pooled
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
	if p.events == nil {
		p.events = make(chan []byte, eventQueue)
		p.sending.Go(p.sendEvents)
	}
	p.s.peers[p] |= binary.NativeEndian.Uint32(m.Data)
	p.s.mu.Unlock()
	p.s.watchProgress()
	if m.Header.Flags&netlink.Acknowledge == 0 {
		return nil
	}
	return p.sendLocked(xfrm.AppendMessage(nil, ack(m)), time.Now().Add(writeTimeout))
}

// leave takes a connection out of all groups.
func (s *Server) leave(p *peer) {
	s.mu.Lock()
	delete(s.peers, p)
	s.mu.Unlock()
	s.watchProgress()
}

// heard reports whether anybody has joined a group.
func (s *Server) heard(group uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, groups := range s.peers {
		if groups&(1<<(group-1)) != 0 {
			return true
		}
	}
	return false
}

// notify queues an event for the members of a group, and reports whether there are any. It never
// waits: one whose queue is full loses the event and is told so.
func (s *Server) notify(group uint32, m netlink.Message) (heard bool) {
	b := xfrm.AppendMessage(nil, m)
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, groups := range s.peers {
		if groups&(1<<(group-1)) == 0 {
			continue
		}
		heard = true
		select {
		case p.events <- b:
		default:
			if !p.lost.Swap(true) {
				s.log.Warn("a listener does not read its events and loses some")
			}
		}
	}
	return heard
}

// sendEvents hands queued events to the connection until that ends. A listener may take its time. One
// that has lost events finds an NLMSG_OVERRUN among them.
func (p *peer) sendEvents() {
	for {
		select {
		case <-p.done:
			return
		case b := <-p.events:
			err := p.sendEvent(b)
			if err == nil && p.lost.Swap(false) {
				err = p.sendEvent(overrun)
			}
			if err != nil {
				p.conn.Close() // ends the reader too
				return
			}
		}
	}
}

var overrun = xfrm.AppendMessage(nil, netlink.Message{Header: netlink.Header{Type: netlink.Overrun}, Data: make([]byte, 4)})

func (p *peer) sendEvent(b []byte) error {
	p.write.Lock()
	defer p.write.Unlock()
	return p.sendLocked(b, time.Time{})
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
		case xfrm.MsgAllocSPI, xfrm.MsgNewPolicy, xfrm.MsgUpdPolicy, xfrm.MsgDelPolicy, xfrm.MsgGetPolicy, xfrm.MsgFlushPolicy:
			return unix.ENOENT
		}
		return unix.ESRCH
	case errors.Is(err, ipsec.ErrUnsupported):
		return unix.EOPNOTSUPP
	case errors.Is(err, ipsec.ErrInvalid):
		return unix.EINVAL
	case errors.Is(err, ipsec.ErrRange):
		return unix.ERANGE
	}
	return unix.EIO
}
