package observe

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"runtime"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// SAD is what answers for SAs and policies; *client.Client is one.
type SAD interface {
	States(context.Context, xfrm.StateFilter) iter.Seq2[*xfrm.State, error]
	Policies(context.Context) iter.Seq2[*xfrm.Policy, error]
}

// Observer reads a SAD and the devices of one network namespace.
type Observer struct {
	sad       SAD
	userspace bool // a userspace device's: there is no NIC to ask
	links     *netlink.Handle
	eth       *ethtool.Ethtool
	cpu       *espCount // nil: the kernel's own ESP is not counted
}

// Open makes an observer of the calling thread's network namespace, whichever thread uses it later.
// userspace tells that sad is a userspace device's.
func Open(sad SAD, userspace bool) (*Observer, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open NETLINK_ROUTE: %w", err)
	}
	eth, err := ethtool.NewEthtool()
	if err != nil {
		links.Close()
		return nil, fmt.Errorf("open a socket for ethtool: %w", err)
	}
	return &Observer{sad: sad, userspace: userspace, links: links, eth: eth}, nil
}

// Close releases what was opened.
func (o *Observer) Close() {
	if o.cpu != nil {
		o.cpu.close()
	}
	o.eth.Close()
	o.links.Close()
}

const (
	// rest is how long packets that were under way get to arrive before the counters are read again.
	rest = 15 * time.Millisecond
	// rests is how often that is tried.
	rests = 2
	// manyStates are read once only: with so many there is always something under way.
	manyStates = 1000
	// underWay is how long a packet may be between the stack, which numbers it or counts it, and the NIC:
	// in the queue of the device, in that of its driver, and in that of a CPU.
	underWay = 5 * time.Millisecond
)

// During observes what happens while f runs, in the calling goroutine. An error of f ends it.
func (o *Observer) During(ctx context.Context, f func(context.Context) error) (*Observation, error) {
	if o.cpu != nil {
		o.cpu.reset()
	}
	departures := o.departures(ctx)
	if departures != nil {
		defer departures.stop()
	}
	before, err := o.read(ctx, nil)
	if err != nil {
		return nil, err
	}
	type answer struct {
		*facts
		error
	}
	asking := make(chan answer, 1)
	go func() {
		f, err := o.facts(ctx, before)
		asking <- answer{f, err}
	}()
	err = f(ctx)
	asked := <-asking
	if err = cmp.Or(err, asked.error); err != nil {
		return nil, err
	}
	facts := asked.facts
	facts.departures = departures
	if o.cpu != nil {
		facts.net = o.cpu.net
	}
	after, err := o.read(ctx, before.ports[0])
	if err != nil {
		return nil, err
	}
	if err := o.late(ctx, facts, after); err != nil {
		return nil, err
	}
	for range rests {
		if seen := compare(before, after, facts, o.userspace); len(after.states) > manyStates || !seen.maySettle() {
			return seen, nil
		}
		if err := sleep(ctx, rest); err != nil {
			return nil, err
		}
		if after, err = o.read(ctx, before.ports[0]); err != nil {
			return nil, err
		}
	}
	return compare(before, after, facts, o.userspace), nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drops asks the SAD what it dropped, if it counts that.
func (o *Observer) drops(ctx context.Context) []ipsec.DropCount {
	accounting, ok := o.sad.(ipsec.Accounting)
	if !ok {
		return nil
	}
	drops, err := accounting.Drops(ctx)
	if err != nil {
		return nil // a kernel without CONFIG_XFRM_STATISTICS
	}
	return drops
}
