package observe

import (
	"context"
	"errors"
	"iter"
	"sync"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/verdict"
	"espalier/xfrm"
)

// listener is a SAD that tells of SAs that go: Linux, with all that they had counted.
type listener interface {
	Listen(ctx context.Context, groups ...uint32) iter.Seq2[xfrm.Event, error]
}

// departures are offloaded SAs that went while somebody listened.
type departures struct {
	mu   sync.Mutex
	all  map[identity]*xfrm.State
	lost bool // more went than could be told of
	stop func()
}

// departures listens until stop. It is nil if the SAD does not tell.
func (o *Observer) departures(ctx context.Context) *departures {
	sad, ok := o.sad.(listener)
	if !ok || o.userspace {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	d := &departures{all: map[identity]*xfrm.State{}}
	events := sad.Listen(ctx, xfrm.GroupSA)
	done := make(chan struct{})
	d.stop = func() { cancel(); <-done }
	go func() {
		defer close(done)
		for e, err := range events {
			if ctx.Err() != nil {
				return
			}
			d.note(e, err)
			if err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
		}
	}()
	return d
}

func (d *departures) note(e xfrm.Event, err error) {
	if e.State != nil {
		e.State.WipeKeys()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case err != nil:
		d.lost = true
	case e.Kind == xfrm.MsgDelSA && e.State != nil && e.State.Offload != nil:
		d.all[identityOf(e.State)] = e.State
	}
}

// told are the SAs that were told of. One that is still there was added again in the same second.
func (d *departures) told() map[identity]bool {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	names := make(map[identity]bool, len(d.all))
	for id := range d.all {
		names[id] = true
	}
	return names
}

// gone are the offloaded SAs of left, which were there at the beginning only, and those that came and
// went. Of those that were told of it is known what they had, but of packet offload, whose counts are old by then.
func (d *departures) gone(left map[identity]*xfrm.State) (all []verdict.Gone) {
	add := func(s, last *xfrm.State, before verdict.Counts, changed bool) {
		offload := offloadOf(s)
		g := verdict.Gone{Device: offload.Interface, Direction: offload.Direction}
		if last != nil && offload.Mode == ipsec.CryptoOffload {
			sa := verdict.SA{Offload: offload, Changed: changed, Before: before, After: countsOf(last, offload.Direction)}
			g.Packets = new(sa.Moved())
		}
		all = append(all, g)
	}
	var told map[identity]*xfrm.State
	if d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		told = d.all
	}
	for id, s := range left {
		if s.Offload != nil {
			add(s, told[id], countsOf(s, offloadOf(s).Direction), false)
		}
	}
	for id, s := range told {
		if _, counted := left[id]; !counted {
			add(s, s, verdict.Counts{}, true)
		}
	}
	return all
}
