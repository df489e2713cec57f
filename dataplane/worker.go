package dataplane

import (
	"context"
	"errors"
	"os"
	"runtime"

	"espalier/internal/fd"
	"espalier/tun"
	"espalier/underlay"
)

// worker carries the packets of its sources, each through to its end. It has a thread of its own,
// which waits only when none of them has anything left.
type worker struct {
	crew  *crew
	files *fd.Set
	open  []open // the sources that it reads
	load  load

	// Under the crew's lock.
	changed bool // the sources are not those any more
	working bool
}

// source is where packets come from, and what becomes of them.
type source interface {
	file() *fd.File

	// outward reports whether what it has is on its way out.
	outward() bool

	// carry carries one batch. It reports whether more may be there, of which the file does not tell.
	carry() (more bool, err error)

	// flush lets out what waits to be joined with more.
	flush()
}

// open is a source that the worker reads.
type open struct {
	source
	more  bool
	ready bool // it had packets in the last round
}

// queueSource is a TUN queue.
type queueSource struct {
	queue *tun.Queue
	out   *outbound
}

func (s *queueSource) file() *fd.File                { return s.queue.File() }
func (s *queueSource) outward() bool                 { return true }
func (s *queueSource) carry() (more bool, err error) { return false, s.out.read(s.queue) }
func (s *queueSource) flush()                        {}

// socketSource is a socket that ESP comes in by.
type socketSource struct {
	socket receiver
	in     *inbound
}

type receiver interface {
	TryReceive([]underlay.Datagram) (int, error)
	File() *fd.File
}

func (s *socketSource) file() *fd.File                { return s.socket.File() }
func (s *socketSource) outward() bool                 { return false }
func (s *socketSource) carry() (more bool, err error) { return s.in.read(s.socket) }
func (s *socketSource) flush()                        { s.in.tun.Flush() }

// run works until ctx ends.
func (w *worker) run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer context.AfterFunc(ctx, w.files.Ring)()
	w.crew.work(w, true)
	defer w.crew.work(w, false)
	var p patience
	for wait := false; ctx.Err() == nil; {
		w.crew.look(w)
		if err := w.find(wait); err != nil {
			return err
		}
		busy, err := w.round()
		if err != nil {
			return err
		}
		if busy {
			p.found()
			if w.load.heavy(w.open) {
				w.crew.divide()
			}
		}
		wait = !busy && !p.lasts()
		if busy || wait {
			w.flush()
		}
	}
	return nil
}

// find finds out who has packets, or waits until somebody has.
func (w *worker) find(wait bool) error {
	if !wait {
		return w.files.Look()
	}
	woken, err := w.files.Doze()
	if err != nil || woken {
		return err
	}
	w.crew.rest(w)
	return w.files.Wait()
}

// round carries one batch of each that has packets, and reports whether any had.
func (w *worker) round() (busy bool, err error) {
	for i := range w.open {
		s := &w.open[i]
		if s.ready = s.more || w.files.Ready(i); !s.ready {
			continue
		}
		busy = true
		if s.more, err = s.carry(); err != nil && !errors.Is(err, os.ErrClosed) { // of which look will hear
			return busy, err
		}
	}
	return busy, nil
}

// flush lets what was joined leave, unless more may follow at once: as long as a worker only looks for
// more, it does not.
func (w *worker) flush() {
	for i := range w.open {
		if s := &w.open[i]; !s.ready {
			s.flush()
		}
	}
}
