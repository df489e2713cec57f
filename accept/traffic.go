package accept

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"espalier/remote"
)

// transferBoth sends by TCP in both directions at once for a while. meanwhile, which may be nil, is told
// how to find out whether that goes on; our own traffic does until it returns.
func (r *run) transferBoth(ctx context.Context, s *StepReport, meanwhile func(ctx context.Context, goesOn func() bool) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	enough, ended := make(chan struct{}), make(chan struct{})
	errs := make([]error, 3)
	var all sync.WaitGroup
	for i, from := range r.hosts() {
		all.Go(func() {
			t, err := r.transfer(ctx, from, r.peer(from), enough)
			if err != nil {
				cancel()
				errs[i] = fmt.Errorf("TCP from host %s to host %s: %w", from.label, r.peer(from).label, err)
				return
			}
			s.transferred(from.label, r.peer(from).label, t)
		})
	}
	go func() {
		all.Wait()
		close(ended)
	}()
	goesOn := func() bool {
		select {
		case <-ended:
			return false
		default:
			return true
		}
	}
	end := time.Now().Add(r.Duration)
	if meanwhile != nil {
		errs[2] = meanwhile(ctx, goesOn)
	}
	if errs[2] != nil {
		cancel()
	}
	sleep(ctx, time.Until(end)) // if ctx ends before, so does the traffic
	close(enough)
	<-ended
	return firstReason(errs)
}

// firstReason leaves out what was only cancelled because of another error.
func firstReason(errs []error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

// longest is how long our own traffic may go on.
const longest = 2 * time.Hour

// transfer sends from one host to the other: iperf3 for the duration, our own until it is enough.
func (r *run) transfer(ctx context.Context, from, to *Host, enough <-chan struct{}) (Transfer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	port := make(chan uint16, 1)
	type end struct {
		t   Transfer
		err error
	}
	received := make(chan end, 1)
	go func() {
		t, err := remote.Call[Transfer](ctx, to.Conn, "accept-receive", receiveQuestion{At: to.Address, Port: r.Port, From: from.Address, Tool: r.tool},
			func(line string) {
				if p, ok := portOf(line); ok {
					port <- p
				}
			})
		received <- end{t, err}
	}()
	select {
	case p := <-port:
		sent, err := r.send(ctx, from, netip.AddrPortFrom(to.Address, p), enough)
		if err != nil {
			cancel()
			<-received
			return Transfer{}, err
		}
		e := <-received
		if r.tool != "" {
			e.t = sent // as the receiver told it
		}
		return e.t, e.err
	case e := <-received:
		return e.t, e.err
	}
}

func (r *run) send(ctx context.Context, from *Host, to netip.AddrPort, enough <-chan struct{}) (Transfer, error) {
	question := sendQuestion{From: from.Address, To: to, For: r.Duration, Pace: r.Pace, Tool: r.tool}
	sending, stop := context.WithCancel(ctx)
	defer stop()
	began := make(chan struct{}, 1)
	if r.tool == "" {
		question.For = longest
		go func() {
			for _, first := range []<-chan struct{}{began, enough} { // a connection that is not there yet would fail
				select {
				case <-first:
				case <-sending.Done():
					return
				}
			}
			stop()
		}()
	}
	return remote.Call[Transfer](sending, from.Conn, "accept-send", question, func(line string) {
		if line == sendingNow {
			select {
			case began <- struct{}{}:
			default: // it says so again
			}
		}
	})
}
