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

// isOpen reports whether a number names a descriptor.
func isOpen(number int) bool {
	_, err := unix.FcntlInt(uintptr(number), unix.F_GETFD, 0)
	return err == nil
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
	used, done := make(chan bool), make(chan bool)
	go in.Control(func(int) error { used <- true; <-done; return nil })
	<-used
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if !in.Closed() || !isOpen(in.number) {
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
	for deadline := time.Now().Add(5 * time.Second); isOpen(in.number); time.Sleep(time.Millisecond) {
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
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				if _, err := out.Write([]byte{1}); errors.Is(err, os.ErrClosed) {
					return
				}
				in.Read(make([]byte, 1))
			}
		})
	}
	time.Sleep(10 * time.Millisecond)
	out.Close()
	wg.Wait()
	if isOpen(out.number) {
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
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: Wait does not return", why)
		}
	}
	go wait()
	quiet("nothing there")
	out.Write([]byte{1})
	woken("a file can be read")
	in.Read(make([]byte, 1))
	go wait()
	quiet("all read")
	s.Ring()
	s.Ring()
	woken("rung for")
	go wait()
	quiet("rung for, and heard")
	s.Ring()
	woken("rung for again")

	in.Close()
	if !isOpen(in.number) {
		t.Error("closed while the set has it")
	}
	s.Watch(nil)
	if isOpen(in.number) {
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
	case <-time.After(5 * time.Second):
		t.Fatal("still waiting")
	}
}
