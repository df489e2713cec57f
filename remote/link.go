package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Hello is what each end says of itself first.
type Hello struct {
	Protocol int    `json:"protocol"`
	Version  string `json:"version"` // of the module, with the revision
	Hash     string `json:"hash"`    // SHA-256 of the executable, in hex; "" from who asks
	Hostname string `json:"hostname"`
	UID      int    `json:"uid"` // effective
	PID      int    `json:"pid"`
}

// pace is how often a quiet end says that it lives, and how long the other may be silent.
type pace struct{ ping, silence time.Duration }

var usualPace = pace{ping: 5 * time.Second, silence: 30 * time.Second}

// ErrSilent ends a connection whose other end said nothing for too long, not even that it lives.
var ErrSilent = errors.New("the other end has been silent for too long")

// link is one end of a connection: frames in both directions, pings, and one error for its end.
type link struct {
	pace
	out   chan frame
	done  chan struct{} // closed at the end
	once  sync.Once
	err   error  // why it ended; valid once done is closed
	close func() // makes a read that is under way return, and the other end see the end
}

func newLink(p pace, close func()) *link {
	return &link{pace: p, out: make(chan frame), done: make(chan struct{}), close: close}
}

// end ends the link; the first reason counts.
func (l *link) end(err error) {
	l.once.Do(func() {
		l.err = err
		close(l.done)
		l.close()
	})
}

// send hands a frame to write.
func (l *link) send(ctx context.Context, f frame) error {
	select {
	case l.out <- f:
		return nil
	case <-l.done:
		return l.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// write writes frames, and pings when there are none, until the link ends.
func (l *link) write(w io.Writer) {
	ping := time.NewTicker(l.ping)
	defer ping.Stop()
	for {
		var f frame
		select {
		case f = <-l.out:
		case <-ping.C:
			f = frame{kind: kindPing}
		case <-l.done:
			return
		}
		if err := writeFrame(w, f); err != nil {
			l.end(err)
			return
		}
	}
}

// read hands the frames that arrive to handle, until the link ends; it returns why. handle may
// take its time: that is no silence of the other end's.
func (l *link) read(r io.Reader, handle func(frame) error) error {
	silence := time.AfterFunc(l.silence, func() { l.end(ErrSilent) })
	defer silence.Stop()
	for {
		f, err := readFrame(r)
		if err != nil {
			l.end(err)
			return l.err
		}
		silence.Stop()
		if f.kind != kindPing {
			if err := handle(f); err != nil {
				l.end(err)
				return l.err
			}
		}
		silence.Reset(l.silence)
	}
}

// readHello waits for the other end's hello as long as for anything else.
func (l *link) readHello(r io.Reader) (Hello, error) {
	silence := time.AfterFunc(l.silence, func() { l.end(ErrSilent) })
	defer silence.Stop()
	h, err := readHello(r)
	if err != nil {
		l.end(err)
	}
	return h, err
}

// readHello takes the first frame, which must be one, of this protocol.
func readHello(r io.Reader) (Hello, error) {
	var h Hello
	f, err := readFrame(r)
	if err != nil {
		return h, err
	}
	if f.kind != kindHello {
		return h, fmt.Errorf("%w: it begins with a frame of kind %d", errFrame, f.kind)
	}
	if err := json.Unmarshal(f.body, &h); err != nil {
		return h, fmt.Errorf("%w: %w", errFrame, err)
	}
	if h.Protocol != Protocol {
		return h, fmt.Errorf("the other end speaks version %d of the protocol, this one %d: use the same espalier on both", h.Protocol, Protocol)
	}
	return h, nil
}

func writeHello(w io.Writer, h Hello) error {
	h.Protocol = Protocol
	body, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return writeFrame(w, frame{kind: kindHello, body: body})
}
