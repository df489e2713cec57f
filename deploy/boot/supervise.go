package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"time"
)

// Descriptors that the processes of a detached holder are given. All of them keep the lock.
const (
	readyFD = 3 // where to say that the sockets are there
	lockFD  = 4
)

// HoldPort is the holder's process: it opens the sockets, gives up its privileges, tells systemd, or who
// has started it detached, that they are there, and discards what arrives until the context ends.
func HoldPort(ctx context.Context, port uint16, detached bool, log io.Writer) error {
	h, err := OpenHolder(port)
	if err != nil {
		return err
	}
	defer h.Close()
	ready, err := whoWaits(detached)
	if err != nil {
		return err
	}
	err = Confine()
	if err == nil && ready != nil {
		// If nobody waits any more, the socket is as good.
		io.WriteString(ready.to, ready.word)
		ready.to.Close()
	}
	if err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	return h.Run(ctx, log)
}

type waiting struct {
	to   io.WriteCloser
	word string
}

// whoWaits opens the way to who waits for the holder; afterwards no file can be opened. See sd_notify(3).
func whoWaits(detached bool) (*waiting, error) {
	if detached {
		return &waiting{os.NewFile(readyFD, "ready"), readyWord}, nil
	}
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil, nil
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	return &waiting{c, "READY=1"}, err
}

// Supervise runs a holder, and another one when it has ended, until the context ends. It fails if the
// first one cannot begin.
func Supervise(ctx context.Context, port uint16, log io.Writer) error {
	ready, lock := os.NewFile(readyFD, "ready"), os.NewFile(lockFD, "lock")
	defer ready.Close()
	for first := true; ; first = false {
		cmd := exec.CommandContext(ctx, "/proc/self/exe", HoldCommand, "--port", fmt.Sprint(port), "--detached")
		cmd.Stderr = log
		cmd.ExtraFiles = []*os.File{ready, lock}
		err := cmd.Run()
		pause := 100 * time.Millisecond
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Exited() {
			if first && ctx.Err() == nil {
				return fmt.Errorf("the holder has ended: %w", err)
			}
			pause = time.Second // it could not begin
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}
