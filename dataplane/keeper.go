package dataplane

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"espalier/ipsec"
)

// keeper does what packets and time ask for and what the packet path has no time for: SAs and
// policies that expire, SAs that are wanted, progress and moves of peers that are to be told, NATs that
// are to be kept open. Nothing of it happens on the packet path but ask.
type keeper struct {
	// now is the time in Unix seconds, coarse so that the packet path may read it.
	now    atomic.Int64
	wake   chan struct{}
	wanted chan want
	onWant func(want)

	mu  sync.Mutex
	due []*errand
}

// errand is work on one SA or policy.
type errand struct {
	asked atomic.Bool
	do    func()
}

// want is a packet without an SA.
type want struct {
	policy *policy
	flow   ipsec.Flow
	queue  uint16 // that it is from, as in outbound
}

// wantsAtOnce is how many packets without an SA wait for the keeper. More of them than that are
// dropped without a word: those that matter will be sent again.
const wantsAtOnce = 64

func newKeeper(onWant func(want)) *keeper {
	k := &keeper{wake: make(chan struct{}, 1), wanted: make(chan want, wantsAtOnce), onWant: onWant}
	k.now.Store(time.Now().Unix())
	return k
}

// ask has an errand done soon. One that waits already is done once.
func (k *keeper) ask(e *errand) {
	if !e.asked.CompareAndSwap(false, true) {
		return
	}
	k.mu.Lock()
	k.due = append(k.due, e)
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default: // it has not got round to the last one
	}
}

// askAt has an errand done at a time, and later no more often than that. It gives the timer back,
// which takes the place of the one given; the zero time is never.
func (k *keeper) askAt(e *errand, timer *time.Timer, at time.Time) *time.Timer {
	if timer != nil {
		timer.Stop()
	}
	if at.IsZero() {
		return nil
	}
	return time.AfterFunc(time.Until(at), func() { k.ask(e) })
}

// want tells of a packet without an SA.
func (k *keeper) want(w want) {
	select {
	case k.wanted <- w:
	default:
	}
}

// run works until ctx ends.
func (k *keeper) run(ctx context.Context) error {
	seconds := time.NewTicker(time.Second)
	defer seconds.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case t := <-seconds.C:
			k.now.Store(t.Unix())
		case <-k.wake:
			k.work()
		case w := <-k.wanted:
			k.onWant(w)
		}
	}
}

// work does what is due. What is asked for meanwhile is done the next time.
func (k *keeper) work() {
	k.mu.Lock()
	due := k.due
	k.due = nil
	k.mu.Unlock()
	for _, e := range due {
		e.asked.Store(false)
		e.do()
	}
}
