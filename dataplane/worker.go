package dataplane

import (
	"context"
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"

	"espalier/internal/fd"
	"espalier/tun"
	"espalier/underlay"
)

// worker carries the packets of its sources, each through to its end. It has a thread of its own,
// which waits only when none of them has anything left. There are two for each TUN queue:
//
//	queue → outbound → sockets
//	the queue's sockets → inbound → queue
type worker struct {
	files *fd.Set
	open  []open // as the worker last saw them

	mu      sync.Mutex
	let     sync.Cond // the worker has let go of what was closed
	sources []source
	changed bool
	working bool
}

// source is where packets come from, and what becomes of them.
type source interface {
	file() *fd.File

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
func (s *socketSource) carry() (more bool, err error) { return s.in.read(s.socket) }
func (s *socketSource) flush()                        { s.in.tun.Flush() }

func newWorker() (*worker, error) {
	files, err := fd.NewSet()
	if err != nil {
		return nil, err
	}
	w := &worker{files: files, changed: true}
	w.let.L = &w.mu
	return w, nil
}

// listen has the worker read one more source, until that is closed.
func (w *worker) listen(s source) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sources, w.changed = append(w.sources, s), true
	w.files.Ring()
}

// leave returns when the worker has let go of the sockets that were closed, and the kernel has their
// ports back.
func (w *worker) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed = true
	w.files.Ring()
	for w.working && w.changed {
		w.let.Wait()
	}
}

// run works until ctx ends.
func (w *worker) run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer context.AfterFunc(ctx, w.files.Ring)()
	w.work(true)
	defer w.work(false)
	var p patience
	for wait := false; ctx.Err() == nil; {
		w.look()
		if err := w.find(wait); err != nil {
			return err
		}
		busy, err := w.round()
		if err != nil {
			return err
		}
		if busy {
			p.found()
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
	if wait {
		return w.files.Wait()
	}
	return w.files.Look()
}

// work begins or ends the work: who waits for an idle worker would wait forever.
func (w *worker) work(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.working = on
	w.let.Broadcast()
}

// look takes the sources as they are now.
func (w *worker) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.changed {
		return
	}
	w.sources = slices.DeleteFunc(w.sources, func(s source) bool { return s.file().Closed() })
	var files []*fd.File
	w.open = w.open[:0]
	for _, s := range w.sources {
		w.open = append(w.open, open{source: s, more: true})
		files = append(files, s.file())
	}
	w.files.Watch(files)
	w.changed = false
	w.let.Broadcast()
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
