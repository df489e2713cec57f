package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
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
		var messages []netlink.Message
		var of []int // which request each message is
		limit := batchLimit(conn)
		n = 0
		for size := 0; n < len(requests) && len(messages) < limit; n++ {
			r := &requests[n]
			if errs[n] = r.err; r.err != nil {
				continue
			}
			if size += len(r.payload); size > batchBytes && len(messages) > 0 {
				break
			}
			m := r.message()
			m.Header.Flags &^= netlink.Acknowledge
			messages, of = append(messages, m), append(of, n)
		}
		if len(messages) == 0 {
			return nil
		}
		messages[len(messages)-1].Header.Flags |= netlink.Acknowledge
		sent, err := conn.SendMessages(messages)
		if err != nil {
			return err
		}
		return receiveAnswers(conn, sent, func(i int, err error) { errs[of[i]] = requests[of[i]].fail(err) })
	})
	return n, err
}

// batchLimit is how many answers the connection can hold: none may be lost.
func batchLimit(conn *netlink.Conn) int {
	room, err := conn.ReadBuffer()
	if err != nil { // a device waits until its answers are read
		return batchRequests
	}
	return max(1, min(batchRequests, room/answerBytes))
}

// receiveAnswers receives until the last message is answered, and tells which were refused.
func receiveAnswers(conn *netlink.Conn, sent []netlink.Message, refused func(i int, err error)) error {
	first, last := sent[0].Header.Sequence, sent[len(sent)-1].Header.Sequence
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
