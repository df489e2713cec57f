package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// cancelPatience is how long a request that is no longer wanted may take to end there.
const cancelPatience = 10 * time.Second

// Conn is a connection to espalier on another host. Its methods may be called concurrently.
type Conn struct {
	host    string
	hello   Hello
	session Session
	link    *link
	finish  func() error // ends what carries the connection, and says why it ended; called once

	closing sync.Once
	closed  error
	joined  sync.WaitGroup

	mu    sync.Mutex
	last  uint32
	calls map[uint32]*call
}

// call is a request under way.
type call struct {
	events chan frame
	gone   chan struct{} // closed when nobody takes events any longer
}

// Session is how the far side sees the ssh connection (SSH_CONNECTION); invalid addresses where
// there is none, or it is not known.
type Session struct {
	Client netip.Addr // where the connection comes from
	Server netip.Addr // the far host's own address
	Port   uint16     // that its server has; 0: not known
}

// newConn talks to an end that has said hello.
func newConn(host string, hello Hello, session Session, r io.Reader, w io.Writer, close func(), finish func() error, p pace) *Conn {
	c := &Conn{host: host, hello: hello, session: session, link: newLink(p, close), finish: finish, calls: make(map[uint32]*call)}
	c.joined.Go(func() { c.link.read(r, c.handle) })
	c.joined.Go(func() { c.link.write(w) })
	return c
}

// Host is the destination as it was given.
func (c *Conn) Host() string { return c.host }

// Hello is what the far end said of itself.
func (c *Conn) Hello() Hello { return c.hello }

// Session tells which addresses of the far host the connection hangs on.
func (c *Conn) Session() Session { return c.session }

// Do asks for an operation and waits for its answer. If ctx ends first, the operation is told,
// and Do waits a little for it to end there too. Errors of the operation are *Failure; the others
// say that the connection is lost. say, which may be nil, gets the lines that come before.
func (c *Conn) Do(ctx context.Context, operation string, question []byte, say Progress) ([]byte, error) {
	body, err := requestBody(operation, question)
	if err != nil {
		return nil, err
	}
	id, k := c.begin()
	defer c.forget(id, k)
	if err := c.link.send(ctx, frame{kind: kindRequest, id: id, body: body}); err != nil {
		return nil, c.lost(operation, err)
	}
	done := ctx.Done()
	var patience <-chan time.Time
	for {
		select {
		case f := <-k.events:
			switch f.kind {
			case kindProgress:
				if say != nil {
					say(string(f.body))
				}
			case kindReply:
				return f.body, nil
			case kindFailure:
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				return nil, &Failure{Host: c.host, Operation: operation, Message: string(f.body)}
			}
		case <-c.link.done:
			return nil, c.lost(operation, c.link.err)
		case <-done:
			done = nil
			timer := time.NewTimer(cancelPatience)
			defer timer.Stop()
			patience = timer.C
			within, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelPatience)
			defer cancel()
			c.link.send(within, frame{kind: kindCancel, id: id}) // if it is lost, the link has ended
		case <-patience:
			return nil, fmt.Errorf("%w; %s was told to stop %s and has not said that it did", context.Cause(ctx), c.host, operation)
		}
	}
}

func (c *Conn) begin() (uint32, *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	k := &call{events: make(chan frame), gone: make(chan struct{})}
	c.calls[c.last] = k
	return c.last, k
}

func (c *Conn) forget(id uint32, k *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(k.gone)
	delete(c.calls, id)
}

// handle gives a frame to the call it belongs to. What comes for a call that has ended is late.
func (c *Conn) handle(f frame) error {
	switch f.kind {
	case kindProgress, kindReply, kindFailure:
	default:
		return fmt.Errorf("%w: a frame of kind %d from who answers", errFrame, f.kind)
	}
	c.mu.Lock()
	k := c.calls[f.id]
	known := f.id != 0 && f.id <= c.last
	c.mu.Unlock()
	if k == nil {
		if !known {
			return fmt.Errorf("%w: an answer to request %d, which was never made", errFrame, f.id)
		}
		return nil
	}
	select {
	case k.events <- f:
	case <-k.gone:
	case <-c.link.done:
	}
	return nil
}

// lost says why a request has no answer.
func (c *Conn) lost(operation string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		err = c.Close()
		if _, said := errors.AsType[*Error](err); said {
			return err
		}
		if err == nil {
			err = errors.New("the connection ended")
		}
	}
	return &Error{Host: c.host, Reason: Lost, Detail: fmt.Sprintf("%s: %v", operation, err)}
}

// Close ends the connection, and with it what is left on the far side. The error is what went
// wrong with the connection itself.
func (c *Conn) Close() error {
	c.closing.Do(func() {
		c.link.end(os.ErrClosed)
		c.closed = c.finish()
		c.joined.Wait()
	})
	return c.closed
}

// Local is a connection to operations of this process: what works for other hosts works for this
// one.
func Local(host string, ops Operations) *Conn {
	here, there := net.Pipe()
	me := whoami("")
	ended := make(chan error, 1)
	go func() {
		ended <- serve(context.Background(), there, there, func() { there.Close() }, ops, me, usualPace)
	}()
	hello, err := readHello(here)
	if err == nil {
		err = writeHello(here, Hello{Version: me.Version})
	}
	if err != nil { // a pipe in memory, and words of our own
		panic("remote: " + err.Error())
	}
	return newConn(host, hello, Session{}, here, here, func() { here.Close() }, func() error { return clean(<-ended) }, usualPace)
}

// clean takes ends that were asked for for none.
func clean(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
