package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

const (
	// batchBytes is how many bytes of requests one send carries at most; a netlink socket and a
	// device take some more.
	batchBytes = 128 << 10
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
// not refused until then is done. Batch wipes the requests.
func (c *Client) Batch(ctx context.Context, requests []Request) []error {
	errs := make([]error, len(requests))
	defer func() {
		for i := range requests {
			clear(requests[i].payload)
		}
	}()
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
		var last, size int
		n, last, size = fitting(requests, batchLimit(conn))
		for i := range requests[:n] {
			errs[i] = requests[i].err
		}
		if size == 0 {
			return nil
		}
		if cap(c.datagram) < size {
			c.datagram = make([]byte, 0, size)
		}
		b := c.datagram[:0]
		defer func() { clear(b) }() // keys may be in there
		first := c.sequences(n)
		for i := range requests[:last+1] {
			if requests[i].err != nil {
				continue
			}
			m := requests[i].message()
			m.Header.Sequence = first + uint32(i)
			if i != last {
				m.Header.Flags &^= netlink.Acknowledge
			}
			b = xfrm.AppendMessage(b, m)
		}
		if err := send(conn, b); err != nil {
			return err
		}
		return receiveAnswers(conn, first, first+uint32(last), func(i int, err error) { errs[i] = requests[i].fail(err) })
	})
	return n, err
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

// fitting tells how many requests fit into one send, which is the last that is to be sent, and how
// many bytes they are.
func fitting(requests []Request, limit int) (n, last, size int) {
	for messages := 0; n < len(requests) && messages < limit; n++ {
		r := &requests[n]
		if r.err != nil {
			continue
		}
		more := xfrm.MessageLen(len(r.payload))
		if size+more > batchBytes && size > 0 {
			break
		}
		messages, last, size = messages+1, n, size+more
	}
	return n, last, size
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
