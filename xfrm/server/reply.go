package server

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

// send sends one message as a datagram of its own.
func (p *peer) send(m netlink.Message) error {
	return p.sendDatagram(xfrm.AppendMessage(nil, m))
}

func (p *peer) sendDatagram(b []byte) error {
	p.write.Lock()
	defer p.write.Unlock()
	return p.sendLocked(b, time.Now().Add(writeTimeout))
}

// sendLocked waits until the deadline, if there is one, for room. p.write is held.
func (p *peer) sendLocked(b []byte, deadline time.Time) error {
	p.conn.SetWriteDeadline(deadline)
	_, err := p.conn.Write(b)
	return err
}

// reply is the start of an answer to m.
func reply(m netlink.Message, typ netlink.HeaderType, flags netlink.HeaderFlags, data []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: typ, Flags: flags, Sequence: m.Header.Sequence, PID: m.Header.PID},
		Data:   data,
	}
}

// capped is NLM_F_CAPPED: of the request, only its header is given back.
const capped netlink.HeaderFlags = 0x100

// verdict is the payload of an NLMSG_ERROR: errno, and the header of the message it is
// about. That says to be without payload, which is left out because it may hold a key:
// what follows is then found by those who look at the flag and by those who do not.
func verdict(m netlink.Message, errno unix.Errno) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno)))
	return xfrm.AppendMessage(b, netlink.Message{Header: m.Header})
}

// ack acknowledges m.
func ack(m netlink.Message) netlink.Message {
	return reply(m, netlink.Error, capped, verdict(m, 0))
}

func (p *peer) sendAck(m netlink.Message) error { return p.send(ack(m)) }

// sendError refuses m, with a text.
func (p *peer) sendError(m netlink.Message, errno unix.Errno, text string) error {
	return p.send(reply(m, netlink.Error, capped|netlink.AcknowledgeTLVs, append(verdict(m, errno), message(text)...)))
}

// maxText keeps a text within one attribute, and readable.
const maxText = 1024

// message is the attribute NLMSGERR_ATTR_MSG.
func message(text string) []byte {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NLMSGERR_ATTR_MSG, text[:min(len(text), maxText)])
	b, err := ae.Encode()
	if err != nil {
		return nil // the errno has to do
	}
	return b
}

// dumpBatch is how many bytes of a dump go into one datagram, dumpRoom what it has room for: one object more.
const dumpBatch, dumpRoom = 56 << 10, 60 << 10

// dumpPart adds an object to a dump: what appends its payload. An error of a connection that is gone
// wraps errUnsent.
type dumpPart func(typ xfrm.MsgType, appendTo func([]byte) ([]byte, error)) error

// errUnsent says that a part of a dump could not be sent.
var errUnsent = errors.New("not sent")

// dump answers GETSA and GETPOLICY with NLM_F_DUMP: parts, then NLMSG_DONE, which carries
// the error of a dump that failed on the way.
func (p *peer) dump(ctx context.Context, m netlink.Message) error {
	b := make([]byte, 0, dumpRoom)
	part := func(typ xfrm.MsgType, appendTo func([]byte) ([]byte, error)) (err error) {
		if b, err = appendReply(b, reply(m, netlink.HeaderType(typ), netlink.Multi, nil), appendTo); err != nil || len(b) < dumpBatch {
			return err
		}
		if err := p.sendDatagram(b); err != nil {
			return errors.Join(errUnsent, err)
		}
		b = b[:0]
		return nil
	}
	typ := xfrm.MsgType(m.Header.Type)
	produce := p.s.dumpStates
	if typ == xfrm.MsgGetPolicy {
		produce = p.s.dumpPolicies
	}
	err := produce(ctx, m.Data, part)
	if errors.Is(err, errUnsent) {
		return err
	}
	flags, data := netlink.Multi, make([]byte, 4)
	if err != nil {
		flags |= netlink.AcknowledgeTLVs
		binary.NativeEndian.PutUint32(data, uint32(-int32(errnoOf(typ, err))))
		data = append(data, message(reason(err))...)
	}
	return p.sendDatagram(xfrm.AppendMessage(b, reply(m, netlink.Done, flags, data)))
}

// appendReply appends m with the payload that appendTo makes, or nothing.
func appendReply(b []byte, m netlink.Message, appendTo func([]byte) ([]byte, error)) ([]byte, error) {
	at := len(b)
	longer, err := appendTo(xfrm.AppendHeader(b, m.Header))
	if err != nil {
		return longer[:at], err
	}
	binary.NativeEndian.PutUint32(longer[at:], uint32(len(longer)-at))
	for len(longer)%4 != 0 {
		longer = append(longer, 0)
	}
	return longer, nil
}
