package trial

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

const testIfindex = 7

// sad is a SAD in memory that answers as a kernel does. nic decides about an SA that is to be added:
// it changes what it says of its offload, or refuses.
type sad struct {
	mu     sync.Mutex
	states map[name]*xfrm.State
	nic    func(*xfrm.State) error

	before func(ctx context.Context, op string, id xfrm.StateID) error // of each request, nil: nothing
	adds   []*xfrm.State                                               // all that were asked for
	most   int                                                         // SAs that were there at a time
}

// name is what a kernel knows an SA by.
type name struct {
	spi ipsec.SPI
	dst string
}

func newSAD(nic func(*xfrm.State) error, there ...*xfrm.State) *sad {
	s := &sad{states: make(map[name]*xfrm.State), nic: nic}
	for _, x := range there {
		s.states[nameOf(x.ID())] = x
	}
	return s
}

func nameOf(id xfrm.StateID) name { return name{id.SPI, id.Dst.String()} }

func refusal(errno syscall.Errno, message string) error {
	return &client.Error{Op: "add SA", Errno: errno, Message: message}
}

func (s *sad) begin(ctx context.Context, op string, id xfrm.StateID) error {
	if err := context.Cause(ctx); err != nil {
		return &ipsec.OpError{Op: op, Err: err}
	}
	if s.before != nil {
		return s.before(ctx, op, id)
	}
	return nil
}

func (s *sad) AddState(ctx context.Context, x *xfrm.State) error {
	if err := s.begin(ctx, "add", x.ID()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	own := *x
	own.AEAD = &xfrm.AEAD{Name: x.AEAD.Name, ICVBits: x.AEAD.ICVBits, Key: ipsec.NewKey(x.AEAD.Key.ExposeSecretBytes())}
	if x.Offload != nil {
		o := *x.Offload
		own.Offload = &o
	}
	s.adds = append(s.adds, &own)
	if s.states[nameOf(x.ID())] != nil {
		return refusal(unix.EEXIST, "")
	}
	if err := s.nic(&own); err != nil {
		return err
	}
	s.states[nameOf(x.ID())] = &own
	s.most = max(s.most, len(s.states))
	return nil
}

func (s *sad) GetState(ctx context.Context, id xfrm.StateID) (*xfrm.State, error) {
	if err := s.begin(ctx, "get", id); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.states[nameOf(id)]
	if x == nil {
		return nil, refusal(unix.ESRCH, "")
	}
	back := *x
	back.AEAD = nil // its key would be wiped
	return &back, nil
}

func (s *sad) DeleteState(ctx context.Context, id xfrm.StateID) error {
	if err := s.begin(ctx, "delete", id); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.states[nameOf(id)] == nil {
		return refusal(unix.ESRCH, "")
	}
	delete(s.states, nameOf(id))
	return nil
}

func (s *sad) States(context.Context, xfrm.StateFilter) iter.Seq2[*xfrm.State, error] {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Collect(maps.Values(s.states))
	return func(yield func(*xfrm.State, error) bool) {
		for _, x := range all {
			back := *x
			back.AEAD = nil
			if !yield(&back, nil) {
				return
			}
		}
	}
}

// names of the SAs that are there.
func (s *sad) names() []name {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.states))
}

// kinds of NIC.

func offloadsAll(*xfrm.State) error { return nil }

func softwareOnly(x *xfrm.State) error {
	x.Offload = nil
	return nil
}

// connectX does what is documented of a card with crypto offload and without packet offload.
func connectX(x *xfrm.State) error {
	if x.Offload.Flags&xfrm.OffloadPacket != 0 {
		return refusal(unix.EINVAL, "mlx5_core: no packet offload")
	}
	if x.AEAD.Key.Len() == 28 {
		return refusal(unix.EINVAL, "mlx5_core: not with AES-192")
	}
	return nil
}

func options(t *testing.T) Options {
	return Options{Device: "p4p1", Ifindex: testIfindex, Driver: "mlx5_core", StateDir: t.TempDir(), Scope: "host"}
}

func mustRun(t *testing.T, e Engine, o Options) *Result {
	t.Helper()
	r, err := Run(t.Context(), e, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var errBoom = errors.New("boom")
