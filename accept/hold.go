package accept

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"espalier/remote"
)

// RunCommand runs a command of espalier's in this process: its name, arguments, and input.
type RunCommand func(ctx context.Context, name string, q remote.CommandQuestion) remote.CommandAnswer

// holdQuestion asks for SAs or policies to be added, and deleted again when the request ends.
type holdQuestion struct {
	Add    string `json:"add"`    // a script for espalier xfrm; with keys
	Delete string `json:"delete"` // what takes it back
}

// holdAnswer comes when all is taken back.
type holdAnswer struct {
	Problem string `json:"problem"` // of taking back; "" if there was none
}

const (
	held       = "held "     // on which SAD, as the first line of progress, and what was read back
	addWithin  = time.Minute // another program may hold the record of used keys for half of it
	undoWithin = 30 * time.Second
)

// hold makes the operation. What was added is deleted whatever ends the request, once.
func hold(run RunCommand) remote.Operation {
	return remote.JSON(func(ctx context.Context, q holdQuestion, say remote.Progress) (holdAnswer, error) {
		// Once begun it is carried through, whoever has gone: of something half done nobody would know
		// whether it is there.
		adding, cancel := context.WithTimeout(context.WithoutCancel(ctx), addWithin)
		defer cancel()
		answer := run(adding, "xfrm", remote.CommandQuestion{Arguments: []string{"-o", "json", "--atomic", "-batch", "-"}, Stdin: []byte(q.Add)})
		done, err := readBatch(answer)
		if err != nil {
			return holdAnswer{}, err // --atomic has undone it
		}
		b, err := json.Marshal(done)
		if err != nil {
			return holdAnswer{}, err
		}
		say(held + string(b))
		<-ctx.Done()
		undoing, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWithin)
		defer cancel()
		answer = run(undoing, "xfrm", remote.CommandQuestion{Arguments: []string{"--sad", done.SAD, "-o", "json", "-force", "-batch", "-"}, Stdin: []byte(q.Delete)})
		_, err = readBatch(answer)
		if err != nil {
			return holdAnswer{err.Error()}, nil
		}
		return holdAnswer{}, nil
	})
}

// batch is what a batch of espalier xfrm did.
type batch struct {
	SAD     string   `json:"sad"`
	Offload []string `json:"offload"` // for each SA that asked for it: what was read back
	Warned  []string `json:"warned,omitempty"`
}

// readBatch reads the JSON of a batch, one object a line.
func readBatch(answer remote.CommandAnswer) (b batch, err error) {
	var problems []error
	for line := range bytes.Lines(answer.Stdout) {
		var r struct {
			OK       bool     `json:"ok"`
			SAD      string   `json:"sad"`
			Error    string   `json:"error"`
			Warnings []string `json:"warnings"`
			Offload  *struct {
				Granted bool   `json:"granted"`
				Verdict string `json:"verdict"`
			} `json:"offload"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			return b, fmt.Errorf("what espalier xfrm says cannot be read: %w", err)
		}
		if !r.OK {
			problems = append(problems, errors.New(r.Error))
			continue
		}
		b.SAD = r.SAD
		b.Warned = append(b.Warned, r.Warnings...)
		if r.Offload != nil {
			b.Offload = append(b.Offload, r.Offload.Verdict)
		}
	}
	if problems == nil && answer.Code != 0 {
		problems = append(problems, fmt.Errorf("espalier xfrm ended with status %d: %s", answer.Code, strings.TrimSpace(answer.Stderr)))
	}
	return b, errors.Join(problems...)
}

// lease is something held on a host.
type lease struct {
	host  *Host
	what  string
	batch batch
	// problem of taking it back, once that is over. An SA may have gone before, with a link: so
	// whether it matters is seen by looking at what is left.
	problem string
	cancel  context.CancelFunc
	done    chan error
}

// hold adds something to the host, and returns when it is there.
func (h *Host) hold(ctx context.Context, what, add, remove string) (*lease, error) {
	// The lease outlives what asked for it: it ends by release, or with the connection.
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &lease{host: h, what: what, cancel: cancel, done: make(chan error, 1)}
	there := make(chan error, 1)
	go func() {
		answer, err := remote.Call[holdAnswer](lasting, h.Conn, "accept-hold", holdQuestion{add, remove}, func(line string) {
			if b, ok := strings.CutPrefix(line, held); ok {
				there <- json.Unmarshal([]byte(b), &l.batch)
			}
		})
		l.problem = answer.Problem
		l.done <- err
	}()
	select {
	case err := <-there:
		if err != nil {
			return nil, errors.Join(err, l.release())
		}
		return l, nil
	case err := <-l.done:
		cancel()
		if err == nil {
			err = errors.New("it was taken back at once")
		}
		return nil, fmt.Errorf("host %s: add %s: %w", h.label, what, err)
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), l.release())
	}
}

// release takes it back, and returns when it has gone.
func (l *lease) release() error {
	l.cancel()
	if err := <-l.done; err != nil {
		return fmt.Errorf("host %s: take back %s: %w", l.host.label, l.what, err)
	}
	return nil
}
