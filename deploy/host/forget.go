package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"espalier/deploy/steps"
	"espalier/ipsec"
)

// Forget ends what goes on after a change that all of its hosts are known to have finished: no peer has to
// be shown any more that it was, and no coordinator will ask. Where nothing is owned any more all that was
// noted goes, and the keeper has ended when this returns. A change that nobody knows here was forgotten before.
func (h *Host) Forget(ctx context.Context, q steps.Question) (p steps.Progress, err error) {
	var keeper *os.File
	err = h.under(ctx, func(r *round) error {
		p = r.progress()
		c := r.j.Change
		if c == nil || c.Begin.Change != q.Change {
			return nil
		}
		if c.Stage != steps.Finished {
			return fmt.Errorf("the change is %q here, and not finished", c.Stage)
		}
		c.Settled = true
		r.lingerNoMore(c)
		if err := r.hold(); err != nil || !r.nothing() {
			return errors.Join(err, r.write(r.j))
		}
		keeper, _ = os.Open(filepath.Join(r.cfg.Dir, keeperName)) // there may have been none
		return nil
	})
	if keeper == nil || err != nil {
		return p, err
	}
	defer keeper.Close()
	return p, h.awaitKeeper(ctx, keeper)
}

// lingerNoMore deletes SAs of changes that were undone before, between hosts that all send otherwise now.
func (r *round) lingerNoMore(c *Change) {
	r.j.Lingering = slices.DeleteFunc(slices.Clone(r.j.Lingering), func(l Lingering) bool {
		if !slices.ContainsFunc(c.Begin.Pairs, func(p steps.PairEnd) bool {
			return p.Engine == l.Engine && p.Tunnel == l.Tunnel && p.Remote == l.ID.Src && p.Local == l.ID.Dst && (leaves(c.Begin.Kind, &p) || len(p.Inbound) > 0)
		}) {
			return false
		}
		e, err := r.engines.get(l.Engine)
		if err == nil {
			err = e.DeleteState(r.ctx, stateID(l.ID))
		}
		return err == nil || errors.Is(err, ipsec.ErrNotExist)
	})
}

// keeperEnds is how long a keeper may take to end when there is nothing left for it.
const keeperEnds = 5 * time.Second

// awaitKeeper waits until nobody has a keeper's lock any more, which has been removed.
func (h *Host) awaitKeeper(ctx context.Context, lock *os.File) error {
	for deadline := time.Now().Add(keeperEnds); unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil; {
		if time.Now().After(deadline) {
			return fmt.Errorf("the process that undoes changes has nothing left to do, and has not ended within %s", keeperEnds)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// watchRemoval has a channel closed when a file is removed. Where the kernel cannot tell nothing comes.
func watchRemoval(path string) (removed <-chan struct{}, stop func()) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, func() {}
	}
	events := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_ATTRIB); err != nil { // it has one name less
		events.Close()
		return nil, func() {}
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		events.Read(make([]byte, 4096)) // until there is one, or it is closed
	}()
	return gone, func() { events.Close() }
}
