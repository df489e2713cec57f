package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// maxRequests is how many requests of one connection may be under way.
const maxRequests = 64

// serve answers requests until the other end goes, is silent for too long, or ctx ends; then it
// ends the operations that are under way, and waits for them. It returns nil if the other end
// has gone between two frames, as it should. close must make a read of r return, or be harmless.
func serve(ctx context.Context, r io.Reader, w io.Writer, close func(), ops Operations, me Hello, p pace) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	l := newLink(p, close)
	defer context.AfterFunc(ctx, func() { l.end(context.Cause(ctx)) })()
	if err := writeHello(w, me); err != nil {
		return fmt.Errorf("say hello: %w", err)
	}
	s := &server{link: l, ctx: ctx, ops: ops, cancel: make(map[uint32]context.CancelFunc)}
	// Not joined: a read of standard input need not return when it is closed. It is all that may
	// stay behind, in a process that ends.
	go func() {
		if _, err := l.readHello(r); err == nil {
			l.read(r, s.handle)
		}
	}()
	s.running.Go(func() { l.write(w) })
	<-l.done
	stop(l.err)
	s.close()
	s.running.Wait()
	if errors.Is(l.err, io.EOF) {
		return nil
	}
	return l.err
}

// server is the answering end of a connection.
type server struct {
	*link
	ctx     context.Context // of all requests
	ops     Operations
	running sync.WaitGroup

	mu     sync.Mutex
	cancel map[uint32]context.CancelFunc // of the requests under way
	closed bool                          // no more of them
}

func (s *server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

func (s *server) handle(f frame) error {
	switch f.kind {
	case kindCancel:
		s.mu.Lock()
		defer s.mu.Unlock()
		if cancel := s.cancel[f.id]; cancel != nil {
			cancel()
		}
		return nil
	case kindRequest:
		return s.begin(f)
	}
	return fmt.Errorf("%w: a frame of kind %d from who asks", errFrame, f.kind)
}

// begin starts the operation that a request names.
func (s *server) begin(f frame) error {
	name, question, err := parseRequest(f.body)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return s.err
	}
	if _, twice := s.cancel[f.id]; twice {
		return fmt.Errorf("%w: request %d is under way", errFrame, f.id)
	}
	op, known := s.ops[name]
	switch {
	case !known:
		op = failing(fmt.Errorf("there is no operation %q here", name))
	case len(s.cancel) >= maxRequests:
		op = failing(fmt.Errorf("%d requests are under way, no more are taken", len(s.cancel)))
	}
	ctx, cancel := context.WithCancel(s.ctx)
	s.cancel[f.id] = cancel
	s.running.Go(func() {
		s.answer(ctx, f.id, op, question)
		cancel()
	})
	return nil
}

func failing(err error) Operation {
	return func(context.Context, []byte, Progress) ([]byte, error) { return nil, err }
}

func (s *server) answer(ctx context.Context, id uint32, op Operation, question []byte) {
	say := func(line string) { s.send(s.ctx, frame{kind: kindProgress, id: id, body: truncate(line)}) }
	body, err := op(ctx, question, say)
	end := frame{kind: kindReply, id: id, body: body}
	switch {
	case err != nil:
		end = frame{kind: kindFailure, id: id, body: truncate(err.Error())}
	case len(body) > maxBody:
		end = frame{kind: kindFailure, id: id, body: fmt.Appendf(nil, "the answer has %d bytes, which is too much", len(body))}
	}
	s.mu.Lock()
	delete(s.cancel, id) // before the asker may use the number again
	s.mu.Unlock()
	s.send(s.ctx, end)
}
