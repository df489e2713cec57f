package fd

import (
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newPipe is two ends that carry bytes from out to in.
func newPipe(t testing.TB) (in, out *File) {
	t.Helper()
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	in, out = New(p[0], "in"), New(p[1], "out")
	t.Cleanup(func() { in.Close(); out.Close() })
	return in, out
}

// opened returns a test of whether f's number still names what it does now: it may come to name something
// else.
func opened(t testing.TB, f *File) (isOpen func() bool) {
	t.Helper()
	var was unix.Stat_t
	if err := unix.Fstat(f.number, &was); err != nil {
		t.Fatal(err)
	}
	return func() bool {
		var is unix.Stat_t
		return unix.Fstat(f.number, &is) == nil && is.Dev == was.Dev && is.Ino == was.Ino
	}
}

func TestReadAndWriteNeverWait(t *testing.T) {
	in, out := newPipe(t)
	b := make([]byte, 4)
	if _, err := in.Read(b); err != unix.EAGAIN {
		t.Errorf("nothing to read: %v, want EAGAIN", err)
	}
	if n, err := out.Write([]byte("esp")); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := in.Read(b); string(b[:n]) != "esp" || err != nil {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

// A descriptor that somebody uses is closed with the last of them, and not twice: its number may be
// somebody else's by then.
func TestCloseWaitsForUsers(t *testing.T) {
	in, _ := newPipe(t)
	isOpen := opened(t, in)
	used, done := make(chan bool), make(chan bool)
	go in.Control(func(int) error { used <- true; <-done; return nil })
	<-used
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if !in.Closed() || !isOpen() {
		t.Error("closed under its user")
	}
	for name, err := range map[string]error{
		"Close": in.Close(), "Control": in.Control(func(int) error { return nil }), "Wait": in.Wait(unix.POLLIN),
		"Read": func() error { _, err := in.Read(make([]byte, 1)); return err }(),
	} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	done <- true
	for deadline := time.Now().Add(30 * time.Second); isOpen(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("still open")
		}
	}
	if err := in.Control(func(int) error { return nil }); !errors.Is(err, os.ErrClosed) {
		t.Error("opened again:", err)
	}
}

func TestManyUsersAndOneClose(t *testing.T) {
	in, out := newPipe(t)
	in.Close() // which has the same inode
	isOpen := opened(t, out)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				if _, err := out.Write([]byte{1}); errors.Is(err, os.ErrClosed) {
					return
				}
			}
		})
	}
	time.Sleep(10 * time.Millisecond)
	out.Close()
	wg.Wait()
	if isOpen() {
		t.Error("still open when all have left")
	}
}

func TestSet(t *testing.T) {
	in, out := newPipe(t)
	s, err := NewSet()
	if err != nil {
		t.Fatal(err)
	}
	gone, _ := newPipe(t)
	gone.Close()
	s.Watch([]*File{gone, in})

	waited := make(chan error)
	wait := func() { waited <- s.Wait() }
	quiet := func(why string) {
		t.Helper()
		select {
		case err := <-waited:
			t.Fatalf("%s: Wait returned: %v", why, err)
		case <-time.After(30 * time.Millisecond):
		}
	}
	woken := func(why string) {
		t.Helper()
		select {
		case err := <-waited:
			if err != nil {
				t.Fatalf("%s: %v", why, err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s: Wait does not return", why)
		}
	}
	go wait()
	quiet("nothing there")
	out.Write([]byte{1})
	woken("a file can be read")
	if !s.Ready(1) || s.Ready(0) {
		t.Error("the wrong file is ready")
	}
	in.Read(make([]byte, 1))
	if err := s.Look(); err != nil || s.Ready(1) {
		t.Errorf("ready when all was read (%v)", err)
	}
	go wait()
	quiet("all read")
	s.Ring()
	woken("rung for")
	s.Ring()
	s.Ring()
	go wait()
	woken("rung for before")
	go wait()
	quiet("rung for, and heard")
	s.Ring()
	woken("rung for again")

	out.Close() // which has the same inode
	isOpen := opened(t, in)
	in.Close()
	if !isOpen() {
		t.Error("closed while the set has it")
	}
	s.Watch(nil)
	if isOpen() {
		t.Error("still open when the set has let go of it")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s.Ring()
	if err := s.Wait(); !errors.Is(err, os.ErrClosed) {
		t.Error("Wait after Close:", err)
	}
}

func TestWaitHearsOfClose(t *testing.T) {
	in, _ := newPipe(t)
	waited := make(chan error)
	go func() { waited <- in.Wait(unix.POLLIN) }()
	time.Sleep(10 * time.Millisecond)
	in.Close()
	select {
	case err := <-waited:
		if !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("still waiting")
	}
}
