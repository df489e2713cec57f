package dataplane

import (
	"errors"
	"slices"
	"sync"
	"time"

	"espalier/internal/fd"
)

// crew carries the packets of a TUN queue and of its share of the sockets:
//
//	queue → outbound → sockets
//	sockets → inbound → queue
//
// It has two workers. The first does both as long as it can: an answer finds it awake that has just
// carried the question. Under load in both directions, the second has the sockets, until they have been
// silent for a moment.
type crew struct {
	first, second *worker

	mu      sync.Mutex
	let     sync.Cond // a worker has let go of what it should not read any more
	sources []source
	divided bool
}

func newCrew() (*crew, error) {
	c := &crew{}
	c.let.L = &c.mu
	for _, w := range []**worker{&c.first, &c.second} {
		files, err := fd.NewSet()
		if err != nil {
			return nil, errors.Join(err, c.close())
		}
		*w = &worker{crew: c, files: files, changed: true}
	}
	return c, nil
}

// close is for when nobody works.
func (c *crew) close() error {
	var errs []error
	for _, w := range c.workers() {
		if w != nil {
			errs = append(errs, w.files.Close())
		}
	}
	return errors.Join(errs...)
}

func (c *crew) workers() []*worker { return []*worker{c.first, c.second} }

// listen has the crew read one more source, until that is closed.
func (c *crew) listen(s source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sources = append(c.sources, s)
	c.tell(c.workers()...)
}

// leave returns when nobody reads sockets that were closed, and the kernel has their ports back.
func (c *crew) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tell(c.workers()...)
	for _, w := range c.workers() {
		for w.working && w.changed {
			c.let.Wait()
		}
	}
}

// divide gives the second worker the sockets. The first calls it.
func (c *crew) divide() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.divided {
		c.divided = true
		c.take(c.first)
		c.tell(c.second)
	}
}

// rest is for a worker that has had nothing to do for a moment: the second gives the sockets back.
func (c *crew) rest(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w == c.second && c.divided {
		c.divided = false
		c.take(c.second)
		c.tell(c.first)
	}
}

// work begins or ends a worker's work: who waits for one that is idle would wait forever.
func (c *crew) work(w *worker, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.working = on
	c.let.Broadcast()
}

// tell has workers look.
func (c *crew) tell(workers ...*worker) {
	for _, w := range workers {
		w.changed = true
		w.files.Ring()
	}
}

// look has a worker take the sources that are its own now.
func (c *crew) look(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.changed {
		c.take(w)
	}
}

// take is look, for who has the lock. Nobody reads a source before who has read it so far lets go of it.
func (c *crew) take(w *worker) {
	c.sources = slices.DeleteFunc(c.sources, func(s source) bool { return s.file().Closed() })
	var files []*fd.File
	w.open = w.open[:0]
	for _, s := range c.sources {
		if reader := c.reader(s); reader == w {
			w.open = append(w.open, open{source: s, more: true})
			files = append(files, s.file())
		}
	}
	w.files.Watch(files)
	w.changed = false
	c.let.Broadcast()
}

// reader is who reads a source.
func (c *crew) reader(s source) *worker {
	if c.divided && !s.outward() {
		return c.second
	}
	return c.first
}

// load is how busy a worker is in both directions.
type load struct {
	began           time.Time
	outward, inward int // rounds in which there was something, since then
}

// heavy counts a round, and reports whether the last rounds were so many in so short a time, in either
// direction, that two threads do more than one.
func (l *load) heavy(sources []open) bool {
	const rounds, within = 64, 4 * time.Millisecond
	var out, in bool
	for i := range sources {
		if s := &sources[i]; s.ready {
			out, in = out || s.outward(), in || !s.outward()
		}
	}
	if out {
		l.outward++
	}
	if in {
		l.inward++
	}
	if l.outward+l.inward < rounds {
		return false
	}
	now := time.Now()
	heavy := now.Sub(l.began) < within && min(l.outward, l.inward) >= rounds/8
	*l = load{began: now}
	return heavy
}
