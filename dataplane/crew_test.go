package dataplane

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/internal/fd"
)

// countSource has numbers to add up.
type countSource struct {
	*fd.File
	out     bool
	readers atomic.Int32
	shared  atomic.Bool // read by two workers at once
	total   atomic.Uint64
}

func newCountSource(t *testing.T, out bool) *countSource {
	t.Helper()
	number, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return &countSource{File: fd.New(number, "numbers"), out: out}
}

func (s *countSource) file() *fd.File { return s.File }
func (s *countSource) outward() bool  { return s.out }
func (s *countSource) flush()         {}

func (s *countSource) carry() (more bool, err error) {
	if s.readers.Add(1) > 1 {
		s.shared.Store(true)
	}
	defer s.readers.Add(-1)
	for begun := time.Now(); time.Since(begun) < 5*time.Microsecond; { // so that another would be seen
	}
	var b [8]byte
	if _, err := s.Read(b[:]); errors.Is(err, unix.EAGAIN) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	s.total.Add(binary.NativeEndian.Uint64(b[:]))
	return false, nil
}

func (s *countSource) put() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	s.Write(one[:])
}

// eventually waits until f holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for begun := time.Now(); !f(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("never: %s", what)
		}
	}
}

// One worker does all until there is much in both directions, then two do, until one direction is
// silent. No source is ever read by both, and nothing is lost between them.
func TestCrew(t *testing.T) {
	c, err := newCrew()
	if err != nil {
		t.Fatal(err)
	}
	out, in := newCountSource(t, true), newCountSource(t, false)
	c.listen(out)
	ctx, cancel := context.WithCancel(t.Context())
	var working sync.WaitGroup
	for _, w := range c.workers() {
		working.Go(func() {
			if err := w.run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	c.listen(in)
	divided := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.divided
	}
	put := uint64(0)
	for range 3 {
		for range 20 { // one question and one answer at a time
			out.put()
			in.put()
			put++
			eventually(t, "all read", func() bool { return out.total.Load() == put && in.total.Load() == put })
			time.Sleep(2 * time.Millisecond)
		}
		if divided() {
			t.Fatal("two work where one would do")
		}
		load := func() bool {
			for range 1000 {
				out.put()
				in.put()
				put++
			}
			return divided()
		}
		eventually(t, "two work under load", load)
		for range 10 {
			load()
		}
		eventually(t, "all read", func() bool { return out.total.Load() == put && in.total.Load() == put })
		eventually(t, "one works again", func() bool { return !divided() })
	}
	in.Close()
	c.leave()
	if _, err := in.Read(make([]byte, 8)); !errors.Is(err, os.ErrClosed) {
		t.Error("a closed source can be read:", err)
	}
	out.put()
	eventually(t, "all read without the closed source", func() bool { return out.total.Load() == put+1 })
	cancel()
	working.Wait()
	if in.shared.Load() || out.shared.Load() {
		t.Error("two workers have read one source at once")
	}
	if err := errors.Join(out.Close(), c.close()); err != nil {
		t.Error(err)
	}
}
