package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func newReader(s string) *bufio.Reader { return bufio.NewReaderSize(strings.NewReader(s), 4096) }

// pipe joins a Conn to a server in this process. ended gets what serve returns.
func pipe(t *testing.T, ops Operations, p pace) (c *Conn, ended chan error) {
	t.Helper()
	here, there := net.Pipe()
	ended = make(chan error, 1)
	go func() {
		ended <- serve(context.Background(), there, there, func() { there.Close() }, ops, whoami("hash"), p)
	}()
	hello, err := readHello(here)
	if err == nil {
		err = writeHello(here, Hello{})
	}
	if err != nil {
		t.Fatal(err)
	}
	c = newConn("db2", hello, Session{}, here, here, func() { here.Close() }, func() error { return nil }, p)
	t.Cleanup(func() { c.Close() })
	return c, ended
}

type sum struct{ A, B int }

var testOperations = Operations{
	"sum": JSON(func(_ context.Context, q sum, _ Progress) (int, error) { return q.A + q.B, nil }),
	"steps": JSON(func(_ context.Context, n int, say Progress) (string, error) {
		for i := range n {
			say(fmt.Sprint("step ", i))
		}
		return "done", nil
	}),
	"echo":   func(_ context.Context, q []byte, _ Progress) ([]byte, error) { return q, nil },
	"refuse": func(context.Context, []byte, Progress) ([]byte, error) { return nil, errors.New("no such device") },
	"huge":   func(context.Context, []byte, Progress) ([]byte, error) { return make([]byte, maxBody+1), nil },
}

func TestCalls(t *testing.T) {
	c, _ := pipe(t, testOperations, usualPace)
	ctx := t.Context()
	if c.Hello().Hash != "hash" || c.Hello().Protocol != Protocol {
		t.Errorf("%+v", c.Hello())
	}
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			got, err := Call[int](ctx, c, "sum", sum{i, 1}, nil)
			if err != nil || got != i+1 {
				t.Errorf("%d, %v", got, err)
			}
			var lines []string
			end, err := Call[string](ctx, c, "steps", i, func(line string) { lines = append(lines, line) })
			if err != nil || end != "done" || len(lines) != i || i > 0 && lines[i-1] != fmt.Sprint("step ", i-1) {
				t.Errorf("%q %v %q", end, err, lines)
			}
		})
	}
	wg.Wait()
	big := make([]byte, maxBody-100)
	if got, err := c.Do(ctx, "echo", big, nil); err != nil || len(got) != len(big) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for operation, want := range map[string]string{
		"refuse": "db2: no such device", "nothing": `db2: there is no operation "nothing" here`, "huge": "db2: the answer has 16777217 bytes, which is too much",
	} {
		_, err := c.Do(ctx, operation, nil, nil)
		var f *Failure
		if !errors.As(err, &f) || err.Error() != want || f.Operation != operation {
			t.Errorf("%s: %v", operation, err)
		}
	}
	if _, err := Call[int](ctx, c, "sum", "no numbers", nil); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Error(err)
	}
	if _, err := c.Do(ctx, "echo", make([]byte, maxBody), nil); err == nil {
		t.Error("a request that nobody will read was sent")
	}
	if _, err := Call[int](ctx, c, "sum", sum{2, 3}, nil); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

func TestLocal(t *testing.T) {
	c := Local(".", testOperations)
	if got, err := Call[int](t.Context(), c, "sum", sum{2, 3}, nil); err != nil || got != 5 {
		t.Error(got, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Call[int](t.Context(), c, "sum", sum{2, 3}, nil); err == nil {
		t.Error("a closed connection answers")
	}
}

// TestCancel: an operation that is no longer wanted ends, and Do returns when it has.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var undone atomic.Bool
		ops := Operations{"wait": func(ctx context.Context, _ []byte, say Progress) ([]byte, error) {
			say("begun")
			<-ctx.Done()
			time.Sleep(3 * time.Second)
			undone.Store(true)
			return nil, ctx.Err()
		}}
		c, _ := pipe(t, ops, usualPace)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := c.Do(ctx, "wait", nil, func(string) { cancel() })
		if !errors.Is(err, context.Canceled) || !undone.Load() {
			t.Errorf("%v, undone %v", err, undone.Load())
		}
	})
}

// TestCancelIgnored: who does not stop is waited for a little, and told of.
func TestCancelIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		ops := Operations{"stubborn": func(context.Context, []byte, Progress) ([]byte, error) {
			<-release
			return nil, nil
		}}
		c, _ := pipe(t, ops, usualPace)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := c.Do(ctx, "stubborn", nil, nil)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "has not said that it did") || time.Since(start) != time.Second+cancelPatience {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		close(release)
		if _, err := c.Do(t.Context(), "nothing", nil, nil); err == nil || !strings.Contains(err.Error(), "no operation") {
			t.Errorf("a late answer confuses: %v", err)
		}
	})
}

// TestCutUndoes: when the asker is gone, operations end, and serve only after them.
func TestCutUndoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var undone atomic.Bool
		ops := Operations{"hold": func(ctx context.Context, _ []byte, say Progress) ([]byte, error) {
			say("holding")
			<-ctx.Done()
			time.Sleep(5 * time.Second)
			undone.Store(true)
			return nil, nil
		}}
		c, ended := pipe(t, ops, usualPace)
		_, err := c.Do(t.Context(), "hold", nil, func(string) { go c.Close() })
		var e *Error
		if !errors.As(err, &e) || e.Reason != Lost {
			t.Errorf("%v", err)
		}
		if err := <-ended; err != nil || !undone.Load() {
			t.Errorf("%v, undone %v", err, undone.Load())
		}
	})
}

// stalled passes everything on until it is told to lose all.
type stalled struct {
	net.Conn
	lose *atomic.Bool
}

func (s stalled) Write(p []byte) (int, error) {
	if s.lose.Load() {
		return len(p), nil
	}
	return s.Conn.Write(p)
}

// Close is not seen at the other end either, once all is lost.
func (s stalled) Close() error {
	if s.lose.Load() {
		return s.SetDeadline(time.Unix(1, 0))
	}
	return s.Conn.Close()
}

// TestSilence: a connection that carries nothing any more, and does not say so, ends at both ends,
// and with it what was under way. One where a long operation says nothing goes on.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lose atomic.Bool
		var ended atomic.Bool
		ops := Operations{
			"long": func(context.Context, []byte, Progress) ([]byte, error) {
				time.Sleep(time.Hour)
				return []byte("ok"), nil
			},
			"hold": func(ctx context.Context, _ []byte, _ Progress) ([]byte, error) {
				<-ctx.Done()
				ended.Store(true)
				return nil, nil
			},
		}
		a, b := net.Pipe()
		here, there := stalled{a, &lose}, stalled{b, &lose}
		served := make(chan error, 1)
		go func() {
			served <- serve(t.Context(), there, there, func() { there.Close() }, ops, whoami(""), usualPace)
		}()
		hello, err := readHello(here)
		if err == nil {
			err = writeHello(here, Hello{})
		}
		if err != nil {
			t.Fatal(err)
		}
		c := newConn("db2", hello, Session{}, here, here, func() { here.Close() }, func() error { return nil }, usualPace)
		if got, err := c.Do(t.Context(), "long", nil, nil); err != nil || string(got) != "ok" {
			t.Errorf("an hour without a word: %q, %v", got, err)
		}
		go func() {
			time.Sleep(time.Minute)
			lose.Store(true)
		}()
		start := time.Now()
		_, err = c.Do(t.Context(), "hold", nil, nil)
		if err == nil || !strings.Contains(err.Error(), "silent") {
			t.Error(err)
		}
		if took := time.Since(start); took < time.Minute+usualPace.silence-usualPace.ping || took > time.Minute+usualPace.silence {
			t.Errorf("noticed after %v", took)
		}
		if err := <-served; !errors.Is(err, ErrSilent) && !errors.Is(err, io.EOF) && err != nil {
			t.Error(err)
		}
		if !ended.Load() {
			t.Error("what was under way goes on")
		}
		c.Close()
	})
}

// TestSlowListener: who takes his time with a line of progress is not taken for silent.
func TestSlowListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pipe(t, testOperations, usualPace)
		got, err := Call[string](t.Context(), c, "steps", 3, func(string) { time.Sleep(20 * time.Second) })
		if err != nil || got != "done" {
			t.Error(got, err)
		}
	})
}

// TestStrangers: what is not the protocol ends the connection with an error, at either end.
func TestStrangers(t *testing.T) {
	frames := func(frames ...frame) string {
		var b strings.Builder
		for _, f := range frames {
			if err := writeFrame(&b, f); err != nil {
				t.Fatal(err)
			}
		}
		return b.String()
	}
	hello := frames(frame{kind: kindHello, body: []byte(`{"protocol":1}`)})
	for name, said := range map[string]string{
		"words":              "GET / HTTP/1.1\r\n\r\n",
		"another protocol":   frames(frame{kind: kindHello, body: []byte(`{"protocol":2}`)}),
		"no protocol":        frames(frame{kind: kindHello, body: []byte(`{}`)}),
		"hello that is none": frames(frame{kind: kindHello, body: []byte(`x`)}),
		"no hello":           frames(frame{kind: kindRequest, id: 1, body: []byte("\x03sum{}")}),
		"two hellos":         hello + hello,
		"an answer":          hello + frames(frame{kind: kindReply, id: 1}),
		"no operation":       hello + frames(frame{kind: kindRequest, id: 1}),
		"the same twice":     hello + frames(frame{kind: kindRequest, id: 1, body: []byte("\x04hold")}, frame{kind: kindRequest, id: 1, body: []byte("\x04hold")}),
		"half a frame":       hello + frames(frame{kind: kindPing})[:3],
	} {
		synctest.Test(t, func(t *testing.T) {
			ops := Operations{"hold": func(ctx context.Context, _ []byte, _ Progress) ([]byte, error) { <-ctx.Done(); return nil, nil }}
			here, there := net.Pipe()
			ended := make(chan error, 1)
			go func() {
				ended <- serve(t.Context(), there, there, func() { there.Close() }, ops, whoami(""), usualPace)
			}()
			go io.Copy(io.Discard, here)
			io.WriteString(here, said)
			here.Close()
			if err := <-ended; err == nil {
				t.Errorf("%s: served as if nothing was", name)
			}
		})
	}
}

// TestBadAnswers: the asker does not believe everything either.
func TestBadAnswers(t *testing.T) {
	for name, f := range map[string]frame{
		"never asked": {kind: kindReply, id: 99}, "a request": {kind: kindRequest, id: 1, body: []byte("\x03sum")}, "number 0": {kind: kindFailure},
	} {
		here, there := net.Pipe()
		c := newConn("db2", Hello{}, Session{}, here, here, func() { here.Close() }, func() error { return nil }, usualPace)
		go func() {
			readFrame(there)
			writeFrame(there, f)
			io.Copy(io.Discard, there)
		}()
		_, err := c.Do(t.Context(), "sum", nil, nil)
		if err == nil || !strings.Contains(err.Error(), errFrame.Error()) {
			t.Errorf("%s: %v", name, err)
		}
		c.Close()
	}
}

// TestTooMany: requests are limited, and the limit is told.
func TestTooMany(t *testing.T) {
	release := make(chan struct{})
	ops := Operations{"hold": func(context.Context, []byte, Progress) ([]byte, error) { <-release; return nil, nil }}
	c, _ := pipe(t, ops, usualPace)
	var refused atomic.Int32
	var wg sync.WaitGroup
	for range maxRequests + 5 {
		wg.Go(func() {
			if _, err := c.Do(t.Context(), "hold", nil, nil); err != nil {
				if refused.Add(1) == 5 {
					close(release)
				}
			}
		})
	}
	wg.Wait()
	if refused.Load() != 5 {
		t.Errorf("%d refused", refused.Load())
	}
}
