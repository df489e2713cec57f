package cli

import (
	"context"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A terminal that gets another size is filled anew while the interval goes on.
func TestResized(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	signals := make(chan os.Signal)
	fitted := make(chan struct{}, 2)
	r := &statusRun{resized: signals, fit: func() { fitted <- struct{}{} }}
	done := make(chan error)
	go func() { done <- r.wait(ctx, time.Hour) }()
	for range 2 {
		signals <- unix.SIGWINCH
		<-fitted
	}
	cancel()
	if err := <-done; err != context.Canceled {
		t.Error(err)
	}
	if err := new(statusRun).wait(t.Context(), time.Nanosecond); err != nil { // nobody watches
		t.Error(err)
	}
}
