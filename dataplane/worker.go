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

// worker carries the packets of one TUN queue, and of sockets that are its own, in both directions
// and each through to its end. It has a thread of its own, which waits only when nothing is left:
//
//	queue   → outbound → sockets
//	sources → inbound  → queue
type worker struct {
	queue *tun.Queue
	out   *outbound
	files *fd.Set
	open  []*source // as the worker last saw them

	mu      sync.Mutex
	let     sync.Cond // the worker has let go of what was closed
	sources []*source
	changed bool
	working bool
}

// source is a socket that ESP comes in by.
type source struct {
	socket receiver
	in     *inbound
	ready  bool // it had packets in the last round
}

type receiver interface {
	TryReceive([]underlay.Datagram) (int, error)
	File() *fd.File
}

// newWorker makes the worker of a queue.
func newWorker(d *Device, queue *tun.Queue, wire Wire) (*worker, error) {
	files, err := fd.NewSet()
	if err != nil {
		return nil, err
	}
	w := &worker{queue: queue, out: newOutbound(d, wire), files: files, changed: true}
	w.let.L = &w.mu
	w.out.answer = d.writeTUN(queue)
	return w, nil
}

// listen has the worker receive from one more socket, until that is closed.
func (w *worker) listen(s *source) {
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
	w.sources = slices.DeleteFunc(w.sources, func(s *source) bool { return s.socket.File().Closed() })
	w.open = append(w.open[:0], w.sources...)
	files := []*fd.File{w.queue.File()}
	for _, s := range w.open {
		files = append(files, s.socket.File())
	}
	w.files.Watch(files)
	w.changed = false
	w.let.Broadcast()
}

// round carries one batch of each that has packets, and reports whether any had.
func (w *worker) round() (busy bool, err error) {
	if w.files.Ready(0) {
		if busy, err = w.out.read(w.queue); err != nil {
			return busy, err
		}
	}
	for i, s := range w.open {
		s.ready = s.in.more || w.files.Ready(1+i)
		if !s.ready {
			continue
		}
		busy = true
		if err := s.in.read(s.socket); err != nil && !errors.Is(err, os.ErrClosed) { // of which look will hear
			return busy, err
		}
	}
	return busy, nil
}

// flush lets what was joined leave, unless more may follow at once: as long as a worker only looks for
// more, it does not.
func (w *worker) flush() {
	for _, s := range w.open {
		if !s.ready {
			s.in.tun.Flush()
		}
	}
}
