package outage

import (
	"context"
	"errors"
	"iter"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"espalier/ipsec"
	"espalier/xfrm"
)

// memory is a SAD whose SAs go some dumps after the test has sentenced them, as the kernel's go
// some time after the message about their link.
type memory struct {
	mu     sync.Mutex
	states []*xfrm.State
	doomed int // dumps until the states are gone; 0: they stay
}

func (m *memory) States(context.Context, xfrm.StateFilter) iter.Seq2[*xfrm.State, error] {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.doomed > 0 {
		if m.doomed--; m.doomed == 0 {
			m.states = nil
		}
	}
	states := m.states
	return func(yield func(*xfrm.State, error) bool) {
		for _, s := range states {
			c := *s
			if !yield(&c, nil) {
				return
			}
		}
	}
}

func (m *memory) doom(dumps int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doomed = dumps
}

// inFreshNetns runs f in a network namespace with the ends v0 and v1 of one cable, both up.
func inFreshNetns(t *testing.T, f func(v0, v1 netlink.Link)) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("it takes root to make a network namespace")
		}
		t.Skip("it takes root to make a network namespace")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	fresh, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer fresh.Close()
	defer netns.Set(home)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"}); err != nil {
		t.Fatal(err)
	}
	var ends [2]netlink.Link
	for i, name := range []string{"v0", "v1"} {
		if ends[i], err = netlink.LinkByName(name); err == nil {
			err = netlink.LinkSetUp(ends[i])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f(ends[0], ends[1])
}

// outages starts a watch; next is its next word.
func outages(t *testing.T, sad SAD) (next func() (Outage, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	w, err := Watch(ctx, sad)
	if err != nil {
		t.Fatal(err)
	}
	type word struct {
		Outage
		error
	}
	words := make(chan word)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for o, err := range w.Outages(ctx) {
			select {
			case words <- word{o, err}:
			case <-ctx.Done():
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		w.Close()
	})
	return func() (Outage, error) {
		select {
		case w := <-words:
			return w.Outage, w.error
		case <-ctx.Done():
			return Outage{}, ctx.Err()
		}
	}
}

func TestWatch(t *testing.T) {
	inFreshNetns(t, func(v0, v1 netlink.Link) {
		sad := &memory{}
		for _, spi := range []ipsec.SPI{1, 2} {
			sad.states = append(sad.states, state(spi, func(s *xfrm.State) { s.Offload.Ifindex = int32(v0.Attrs().Index) }))
		}
		next := outages(t, sad)
		want := func(state LinkState, lost, kept []ipsec.SPI) {
			t.Helper()
			o, err := next()
			if err != nil || o.Device != "v0" || o.State != state || !slices.Equal(spis(o.Lost), lost) || !slices.Equal(spis(o.Kept), kept) {
				t.Fatalf("%+v, %v; want v0 %s, lost %v, kept %v", o, err, state, lost, kept)
			}
		}
		do := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		both := []ipsec.SPI{1, 2}
		do(netlink.LinkSetDown(v1)) // the cable of v0
		want(NoCarrier, nil, both)
		do(netlink.LinkSetUp(v1))
		want(Carrier, nil, both)

		sad.doom(3) // the first dumps still have them
		do(netlink.LinkSetDown(v0))
		want(Down, both, nil)
		do(netlink.LinkSetUp(v0))
		want(Up, nil, nil)
		do(netlink.LinkDel(v0))
		want(Down, nil, nil)
		want(Gone, nil, nil)
	})
}

// The end of its context ends a watch in which nothing happens.
func TestWatchStops(t *testing.T) {
	inFreshNetns(t, func(netlink.Link, netlink.Link) {
		ctx, cancel := context.WithCancel(context.Background())
		w, err := Watch(ctx, &memory{})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		time.AfterFunc(10*time.Millisecond, cancel)
		n := 0
		for _, err := range w.Outages(ctx) {
			if n++; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		if n != 1 {
			t.Errorf("the iteration has %d elements", n)
		}
	})
}
