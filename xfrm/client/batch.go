package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

const (
	// batchBytes is how many bytes of requests one send carries at most, unless it is one request;
	// a netlink socket and a device take some more.
	batchBytes = 128 << 10
	// requestBytes is more than most requests have.
	requestBytes = 512
	// batchRequests is how many requests one send carries at most.
	batchRequests = 512
	// answerBytes is the room that the kernel's answer to one request takes in a receive
	// buffer: it gives the request back.
	answerBytes = 2 << 10
	// answerBuffer has room for that many answers.
	answerBuffer = batchRequests * answerBytes
)

// Batch carries out requests in their order, many with one send; one that is refused does not
// keep the others from being carried out. It returns an error for each request, nil for one that
// was carried out, with the words of the methods that send one. After an error of the connection
// the requests of that send may have been carried out or not, and those behind are not sent; all
// of them have that error.
//
// The engine acknowledges only the last request of a send: it answers in order, so that what was
// not refused until then is done.
func (c *Client) Batch(ctx context.Context, requests []Request) []error {
	errs := make([]error, len(requests))
	for done := 0; done < len(requests); {
		n, err := c.sendSome(ctx, requests[done:], errs[done:])
		if err != nil {
			for i := done; i < len(requests); i++ {
				errs[i] = requests[i].fail(err)
			}
			return errs
		}
		done += n
	}
	return errs
}

// sendSome carries out the first n requests, those that fit into one send.
func (c *Client) sendSome(ctx context.Context, requests []Request, errs []error) (n int, err error) {
	err = c.exchange(ctx, func(conn *netlink.Conn) error {
		requests := requests[:min(len(requests), batchLimit(conn))]
		first := c.sequences(len(requests))
		defer func() { clear(c.datagram) }() // keys may be in there
		var last int
		if n, last = c.lay(requests, first, errs); last < 0 {
			return nil
		}
		if err := send(conn, c.datagram); err != nil {
			return err
		}
		return receiveAnswers(conn, first, first+uint32(last), func(i int, err error) { errs[i] = requests[i].fail(err) })
	})
	return n, err
}

// lay makes a datagram of the first n requests, those that fit, but for those that cannot be
// encoded: errs tells why. last is the last of them, which is to be acknowledged, or -1.
func (c *Client) lay(requests []Request, first uint32, errs []error) (n, last int) {
	if c.datagram == nil {
		c.datagram = make([]byte, 0, min(requestBytes*len(requests), batchBytes))
	}
	b, lastAt := c.datagram[:0], 0
	for last = -1; n < len(requests); n++ {
		r := &requests[n]
		at := len(b)
		b = xfrm.AppendHeader(b, netlink.Header{Type: netlink.HeaderType(r.typ), Flags: netlink.Request, Sequence: first + uint32(n)})
		if b, errs[n] = r.appendTo(b); errs[n] != nil {
			errs[n] = r.fail(errs[n])
			b = b[:at]
			continue
		}
		if len(b) > batchBytes && at > 0 { // it goes with the next
			clear(b[at:])
			b = b[:at]
			break
		}
		binary.NativeEndian.PutUint32(b[at:], uint32(len(b)-at))
		last, lastAt = n, at
	}
	if last >= 0 {
		flags := b[lastAt+6:]
		binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|uint16(netlink.Acknowledge))
	}
	c.datagram = b
	return n, last
}

// sequences sets aside n sequence numbers for messages, and returns the first. 0 is not one: it
// tells a failure to receive from an answer.
func (c *Client) sequences(n int) (first uint32) {
	if c.sequence == 0 || c.sequence > math.MaxUint32-uint32(n) {
		c.sequence = 1
	}
	first = c.sequence
	c.sequence += uint32(n)
	return first
}

// send sends a datagram of messages as it is, for the engine to answer.
func send(conn *netlink.Conn, b []byte) error {
	fail := func(err error) error { return &netlink.OpError{Op: "send", Err: os.NewSyscallError("sendmsg", err)} }
	raw, err := conn.SyscallConn()
	if err != nil {
		return fail(err)
	}
	var failed error
	err = raw.Write(func(fd uintptr) (done bool) {
		failed = unix.Sendmsg(int(fd), b, nil, nil, 0)
		return failed != unix.EAGAIN
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// batchLimit is how many answers the connection can hold: none may be lost.
func batchLimit(conn *netlink.Conn) int {
	room, err := conn.ReadBuffer()
	if err != nil { // a device waits until its answers are read
		return batchRequests
	}
	return max(1, min(batchRequests, room/answerBytes))
}

// receiveAnswers receives until the last message is answered, and tells which were refused, by
// their distance from the first.
func receiveAnswers(conn *netlink.Conn, first, last uint32, refused func(i int, err error)) error {
	for {
		messages, err := conn.Receive()
		at := uint32(0)
		switch op := (*netlink.OpError)(nil); {
		case err == nil && len(messages) == 0:
			continue
		case err == nil:
			at = messages[len(messages)-1].Header.Sequence
		case answered(err) && errors.As(err, &op):
			at = op.Sequence
		default:
			return err
		}
		if at-first > last-first {
			return fmt.Errorf("an answer to request %d, not to one of %d to %d", at, first, last)
		}
		if err != nil {
			refused(int(at-first), err)
		}
		if at == last {
			return nil
		}
	}
}
