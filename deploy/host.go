package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"espalier/remote"
)

// far is a host of a plan that is asked, and reached again if need be. Its methods may be called
// concurrently.
type far struct {
	name  string // for people
	reach func(context.Context) (*remote.Conn, error)
	knock func(context.Context) error // nil: there is no ssh to try

	mu      sync.Mutex
	conn    *remote.Conn   // nil: there is none now
	asked   time.Time      // when the last question was sent
	closing sync.WaitGroup // of connections that were given up
}

// connection is the one there is, or a new one.
func (h *far) connection(ctx context.Context) (*remote.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != nil {
		return h.conn, nil
	}
	conn, err := h.reach(ctx)
	if err == nil {
		h.conn = conn
	}
	return conn, err
}

// drop gives a connection up.
func (h *far) drop(conn *remote.Conn) {
	h.mu.Lock()
	if h.conn == conn {
		h.conn = nil
	}
	h.mu.Unlock()
	h.close(conn)
}

// close ends a connection without waiting: what carries it may have to be killed.
func (h *far) close(conn *remote.Conn) {
	if conn != nil {
		h.closing.Go(func() { conn.Close() }) // why it ended has been said
	}
}

// end ends the connection, and waits for those that were given up.
func (h *far) end() {
	h.mu.Lock()
	conn := h.conn
	h.conn = nil
	h.mu.Unlock()
	h.close(conn)
	h.closing.Wait()
}

const (
	firstPause = 100 * time.Millisecond // before a host is dialled again, twice as long each time
	longPause  = 2 * time.Second
	oneCall    = 20 * time.Second // for an answer, before the connection is taken for dead
)

// errNoAnswer ends a call on a connection that may be dead.
var errNoAnswer = errors.New("no answer")

// ask asks a host. A connection that is lost, or gives no answer within patience, is made again, and the
// question asked again, until ctx ends: so the operation must be one that may be asked for twice.
// Errors are the operation's own (*remote.Failure), or tell why the host could not be asked.
func ask[A any](ctx context.Context, h *far, operation string, question any, patience time.Duration) (answer A, err error) {
	body, err := json.Marshal(question)
	if err != nil {
		return answer, err
	}
	defer clear(body) // there may be keys in it
	var why error     // of the last attempt that failed
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		reply, err := h.try(ctx, operation, body, patience)
		if err == nil {
			if err := json.Unmarshal(reply, &answer); err != nil {
				return answer, fmt.Errorf("%s: %s: the answer cannot be read: %w", h.name, operation, err)
			}
			return answer, nil
		}
		if ctx.Err() == nil || why == nil {
			why = err
		}
		if _, ok := errors.AsType[*remote.Failure](err); ok || final(err) {
			return answer, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return answer, h.silent(ctx, why)
		}
	}
}

// try asks once.
func (h *far) try(ctx context.Context, operation string, body []byte, patience time.Duration) ([]byte, error) {
	conn, err := h.connection(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errNoAnswer)
	defer cancel()
	type result struct {
		reply []byte
		err   error
	}
	done := make(chan result, 1)
	h.mu.Lock()
	h.asked = time.Now()
	h.mu.Unlock()
	question := append([]byte(nil), body...) // it outlives a call that is given up
	go func() {
		reply, err := conn.Do(ctx, operation, question, nil)
		clear(question)
		done <- result{reply, err}
	}()
	var impatience <-chan time.Time
	over := ctx.Done()
	for {
		select {
		case r := <-done:
			if _, lost := errors.AsType[*remote.Error](r.err); lost {
				h.drop(conn)
			}
			return r.reply, r.err
		case <-over: // the operation was told to end; a connection that works says soon that it has
			over, impatience = nil, time.After(2*time.Second)
		case <-impatience:
			h.drop(conn)
			return nil, context.Cause(ctx)
		}
	}
}

// silent says that a host could not be asked in time, and why.
func (h *far) silent(ctx context.Context, why error) error {
	if cause := context.Cause(ctx); errors.Is(cause, context.Canceled) {
		return cause
	}
	if why == nil || errors.Is(why, errNoAnswer) || errors.Is(why, context.DeadlineExceeded) {
		return fmt.Errorf("%s: no answer in time", h.name)
	}
	return why
}

// final reports whether dialling again is no use.
func final(err error) bool {
	e, ok := errors.AsType[*remote.Error](err)
	if !ok {
		return false
	}
	switch e.Reason {
	case remote.Unverified, remote.Denied, remote.Misused, remote.NotRoot, remote.Unsuited:
		return true
	}
	return false
}
