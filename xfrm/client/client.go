package client

import (
	"context"
	"errors"
	"time"

	"github.com/mdlayher/netlink"

	"espalier/xfrm"
)

// Client speaks to one engine.
type Client struct {
	name   string
	engine engine

	turn     chan struct{}   // holds a token while a request is under way
	conn     *netlink.Conn   // of requests; nil until the next one; guarded by turn
	datagram []byte          // room for the next batch; guarded by turn
	sequence uint32          // of the next message of a batch; guarded by turn
	life     context.Context // ends when the client is closed
	end      context.CancelFunc
}

// engine is where a Client's sockets lead.
type engine interface {
	dial() (*netlink.Conn, error)
	join(ctx context.Context, c *netlink.Conn, groups []uint32) error
	release() error
}

// errClosed is what methods of a closed Client answer.
var errClosed = errors.New("the client is closed")

func newClient(name string, e engine) (*Client, error) {
	conn, err := e.dial()
	if err != nil {
		e.release()
		return nil, err
	}
	c := &Client{name: name, engine: e, conn: conn, turn: make(chan struct{}, 1)}
	c.life, c.end = context.WithCancel(context.Background())
	return c, nil
}

// Name tells what the client speaks to: "kernel" or "unix:PATH".
func (c *Client) Name() string { return c.name }

// Close releases the sockets. Requests and iterations under way end with an error.
func (c *Client) Close() error {
	c.end()
	c.turn <- struct{}{} // the request under way has been cut short and gives its turn back
	defer func() { <-c.turn }()
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
	return c.engine.release()
}

// withLife returns a context that also ends when the client is closed.
func (c *Client) withLife(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if c.life.Err() != nil {
		cancel(errClosed)
	}
	stop := context.AfterFunc(c.life, func() { cancel(errClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// call is one request: what is asked, and the words for its errors.
type call struct {
	op      string
	object  func() string // nil: it is about none
	typ     xfrm.MsgType
	flags   netlink.HeaderFlags
	payload []byte // may hold a key: wiped by the one who made it
}

func (q *call) message() netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(q.typ), Flags: netlink.Request | q.flags},
		Data:   q.payload,
	}
}

// request sends one request and returns the replies to it, none for a bare
// acknowledgement.
func (c *Client) request(ctx context.Context, q call) (replies []netlink.Message, err error) {
	err = c.exchange(ctx, func(conn *netlink.Conn) (err error) {
		replies, err = conn.Execute(q.message())
		return err
	})
	if err != nil {
		return nil, q.fail(err)
	}
	return replies, nil
}

// exchange has f speak over the connection of requests, once it is its turn. f runs again, over a
// new connection, if the old one did not take what it sent.
func (c *Client) exchange(ctx context.Context, f func(*netlink.Conn) error) error {
	ctx, cancel := c.withLife(ctx)
	defer cancel()
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for {
		if c.life.Err() != nil {
			return errClosed
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fresh := c.conn == nil
		if fresh {
			conn, err := c.engine.dial()
			if err != nil {
				return err
			}
			c.conn = conn
		}
		healthy, err := interruptible(ctx, c.conn, func() error { return f(c.conn) })
		if !healthy {
			c.conn.Close()
			c.conn = nil
		}
		if err != nil && unsent(err) && !fresh && ctx.Err() == nil {
			continue // the device was restarted: nothing was sent, one new connection may be tried
		}
		return err
	}
}

// interruptible runs f, which speaks over conn, and cuts it short when ctx ends. conn is
// healthy afterwards unless f was cut short or the connection failed: answers to one
// request must not be taken for those to the next.
func interruptible(ctx context.Context, conn *netlink.Conn, f func() error) (healthy bool, err error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = f()
	if !stop() {
		if err != nil {
			err = context.Cause(ctx)
		}
		return false, err
	}
	return err == nil || answered(err), err
}

// answered reports whether err is the engine's answer and not a failure to get one.
func answered(err error) bool {
	var op *netlink.OpError
	return errors.As(err, &op) && op.Sequence != 0
}

// unsent reports whether err says that a message did not go out.
func unsent(err error) bool {
	var op *netlink.OpError
	return errors.As(err, &op) && (op.Op == "send" || op.Op == "send-messages")
}
