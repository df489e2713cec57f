package outage

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

// SAD gives the states of the kernel. *client.Client of the kernel is one.
type SAD interface {
	States(context.Context, xfrm.StateFilter) iter.Seq2[*xfrm.State, error]
}

// Watcher watches the links and the offloaded SAs of one network namespace.
type Watcher struct {
	sad     SAD
	states  int // socket of NETLINK_XFRM
	links   int // socket of NETLINK_ROUTE
	stop    int // eventfd that ends a wait
	tracker *tracker
	buf     []byte
}

// Watch watches the network namespace of the calling thread, which must be that of sad. What
// happens from this call on is reported. It takes CAP_NET_ADMIN.
func Watch(ctx context.Context, sad SAD) (*Watcher, error) {
	w := &Watcher{sad: sad, states: -1, links: -1, stop: -1, tracker: newTracker(), buf: make([]byte, 1<<16)}
	if err := w.open(ctx); err != nil {
		w.Close()
		return nil, fmt.Errorf("watch links: %w", err)
	}
	return w, nil
}

func (w *Watcher) open(ctx context.Context) (err error) {
	if w.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	if w.states, err = listen(unix.NETLINK_XFRM, xfrm.GroupSA, xfrm.GroupExpire); err != nil {
		return fmt.Errorf("listen to NETLINK_XFRM: %w", err)
	}
	if w.links, err = listen(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK); err != nil {
		return fmt.Errorf("listen to NETLINK_ROUTE: %w", err)
	}
	if err := w.readLinks(); err != nil {
		return err
	}
	links, err := w.linkMessages()
	for _, l := range links {
		w.tracker.change(l) // of no SA yet
	}
	return errors.Join(err, w.readStates(ctx))
}

// Close frees what Watch has opened. It must not be called during an iteration.
func (w *Watcher) Close() {
	for _, fd := range []int{w.states, w.links, w.stop} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// eventBuffer is room for a burst of messages, in bytes.
const eventBuffer = 1 << 20

// listen opens a socket that hears of groups.
func listen(protocol int, groups ...uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return -1, err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, eventBuffer) // best effort: the system's limit may be lower
	mask := uint32(0)
	for _, g := range groups {
		mask |= 1 << (g - 1)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: mask}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Outages iterates over what becomes of links with offloaded SAs. The end of ctx ends the iteration
// with its error. unix.ENOBUFS says that messages were lost, and with them perhaps an outage; that,
// and a dump of the SAD that fails, leave the iteration usable.
func (w *Watcher) Outages(ctx context.Context) iter.Seq2[Outage, error] {
	return func(yield func(Outage, error) bool) {
		defer context.AfterFunc(ctx, func() { unix.Write(w.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })()
		fail := func(err error) bool { return yield(Outage{}, fmt.Errorf("watch links: %w", err)) }
		for {
			err := w.wait()
			if ctx.Err() != nil {
				fail(context.Cause(ctx))
				return
			}
			if err != nil {
				fail(err)
				return
			}
			// What happened to SAs before a link changed has been told before that: it is read
			// after it at the latest.
			messages, err := w.linkMessages()
			if errors.Is(err, unix.ENOBUFS) {
				err = errors.Join(err, w.readLinks())
			}
			if err = errors.Join(err, w.stateMessages(ctx)); err != nil && !fail(err) {
				return
			}
			for _, m := range messages {
				state, concerns := w.tracker.change(m)
				if !concerns {
					continue
				}
				o, err := w.outage(ctx, m, state)
				if err != nil && !fail(err) || !yield(o, nil) {
					return
				}
			}
		}
	}
}

// wait waits for messages, or to be stopped.
func (w *Watcher) wait() error {
	fds := []unix.PollFd{{Fd: int32(w.stop), Events: unix.POLLIN}, {Fd: int32(w.states), Events: unix.POLLIN}, {Fd: int32(w.links), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// How long SAs may outlive the message that their link is down: Linux sends it first, and deletes
// them right after it.
const (
	deletionTries = 100
	deletionPause = 10 * time.Millisecond
)

// outage finds out what a change has done to the SAs of the device.
func (w *Watcher) outage(ctx context.Context, m linkMessage, state LinkState) (Outage, error) {
	o := Outage{Device: m.name, State: state, Kept: w.tracker.on(m.index)}
	if state != Down && state != Gone {
		return o, nil
	}
	for try := 0; len(o.Kept) > 0 && try < deletionTries; try++ {
		if try > 0 {
			time.Sleep(deletionPause)
		}
		if ctx.Err() != nil {
			break
		}
		there := map[identity]bool{}
		err := w.eachState(ctx, func(s *xfrm.State) {
			if s.Offload != nil && int(s.Offload.Ifindex) == m.index {
				there[identityOf(s.ID())] = true
			}
		})
		if err := errors.Join(err, w.stateMessages(ctx)); err != nil {
			return o, err
		}
		var lost []SA
		lost, o.Kept = w.tracker.lose(m.index, there)
		o.Lost = append(o.Lost, lost...)
	}
	return o, nil
}

// stateMessages reads what NETLINK_XFRM has said. When some of it was lost it starts anew from a
// dump, and returns unix.ENOBUFS.
func (w *Watcher) stateMessages(ctx context.Context) error {
	err := w.drain(w.states, func(b []byte) error {
		defer clear(b) // there may be keys in it
		for m, err := range xfrm.Messages(b) {
			if err != nil {
				return err
			}
			if e, err := xfrm.DecodeEvent(m); err == nil { // what cannot be read is no SA known here
				w.tracker.event(&e)
			}
		}
		return nil
	})
	if errors.Is(err, unix.ENOBUFS) {
		return errors.Join(err, w.readStates(ctx))
	}
	return err
}

// readStates makes what a dump says all that is known of SAs.
func (w *Watcher) readStates(ctx context.Context) error {
	clear(w.tracker.sas)
	return w.eachState(ctx, w.tracker.state)
}

func (w *Watcher) eachState(ctx context.Context, f func(*xfrm.State)) error {
	for s, err := range w.sad.States(ctx, xfrm.StateFilter{}) {
		if err != nil {
			return err
		}
		s.WipeKeys()
		f(s)
	}
	return nil
}

// readLinks asks how all links are.
func (w *Watcher) readLinks() error {
	err := unix.Sendto(w.links, xfrm.AppendMessage(nil, linkDump()), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err != nil {
		return fmt.Errorf("ask for the links: %w", err)
	}
	return nil
}

// linkMessages reads what NETLINK_ROUTE has said about links.
func (w *Watcher) linkMessages() (messages []linkMessage, err error) {
	err = w.drain(w.links, func(b []byte) error {
		for m, err := range xfrm.Messages(b) {
			if err != nil {
				return err
			}
			l, ok, err := decodeLink(m)
			if err != nil {
				return err
			}
			if ok {
				messages = append(messages, l)
			}
		}
		return nil
	})
	return messages, err
}

// drain reads the datagrams that are there. It returns unix.ENOBUFS when some were lost.
func (w *Watcher) drain(fd int, each func([]byte) error) error {
	var lost error
	for {
		n, _, err := unix.Recvfrom(fd, w.buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return lost
		case errors.Is(err, unix.ENOBUFS):
			lost = err
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		default:
			if err := each(w.buf[:n]); err != nil {
				return err
			}
		}
	}
}
