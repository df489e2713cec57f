package host

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"espalier/deploy/boot"
	"espalier/deploy/steps"
	"espalier/remote"
	"espalier/tunnel"
)

// Config says what a Host works with. Only Dir and Keys must be set.
type Config struct {
	Dir  string // of the journal, see Dir
	Keys string // of the record of used keys: the state directory

	Open      func(engine string) (Engine, error)  // nil: the kernel's, or a device's by its socket
	Clock     Clock                                // nil: the host's
	Boot      Boot                                 // nil: nothing lasts beyond a reboot
	Send      func(context.Context, Flow) error    // a probe; nil: by sockets of the calling thread's network namespace
	Addresses func() ([]netip.Addr, error)         // of this host; nil: of the calling thread's network namespace
	Interface func(ifID uint32) string             // the xfrm interface; nil: of the calling thread's network namespace
	Keeper    func() error                         // starts one, if none runs; nil: somebody calls Tick
	Write     func(path string, data []byte) error // a file, durably and at once; nil: WriteFile
	// Gather tells what there is apart from the journal; nil: GatherFacts.
	Gather func(ctx context.Context, sad string) (*tunnel.Facts, error)
}

// Boot keeps what lasts: *boot.Place.
type Boot interface {
	Can() (ok bool, why string) // whether there can be units
	Install(pairs []boot.Pair) error
	Hold(ctx context.Context, ports []uint16) error
	Lost(pairs []boot.Pair, ports []uint16) []string // what is no longer there of all that
}

// Host carries out its part of changes. Its methods may be called by several goroutines and processes
// at a time.
type Host struct {
	cfg Config

	mu   sync.Mutex
	seen map[string]sighting // when SAs have received last, as far as Tick has looked
}

// New makes a Host. Nothing is read before the first operation.
func New(cfg Config) *Host {
	if cfg.Open == nil {
		cfg.Open = openEngine
	}
	if cfg.Clock == nil {
		cfg.Clock = systemClock{}
	}
	if cfg.Send == nil {
		cfg.Send = sendProbe
	}
	if cfg.Addresses == nil {
		cfg.Addresses = ownAddresses
	}
	if cfg.Interface == nil {
		cfg.Interface = interfaceOf
	}
	if cfg.Gather == nil {
		cfg.Gather = GatherFacts
	}
	if cfg.Write == nil {
		cfg.Write = WriteFile
	}
	return &Host{cfg: cfg, seen: map[string]sighting{}}
}

// Dir is where the journal of the calling thread's network namespace is, in the state directory:
// "tunnels" for the host's own namespace; for others by the name that ip-netns(8) knows them by, which one
// that takes its place has as well, or, if there is none or the host's own is not to be seen, by the number.
func Dir(stateDir string) (string, error) {
	var own, first unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return "", os.NewSyscallError("find out the network namespace: stat", err)
	}
	if err := unix.Stat("/proc/1/ns/net", &first); err == nil && own.Ino == first.Ino && own.Dev == first.Dev {
		return filepath.Join(stateDir, "tunnels"), nil
	}
	name, err := boot.NamespaceName(&own)
	if err != nil {
		return "", err
	}
	if name != "" {
		return filepath.Join(stateDir, "tunnels-netns-"+name), nil
	}
	return filepath.Join(stateDir, "tunnels-"+strconv.FormatUint(own.Ino, 10)), nil
}

// Operations are the steps that this host serves, by name. They end in time by themselves; ctx of a
// question that nobody waits for any more only ends its waiting.
func (h *Host) Operations() remote.Operations {
	return remote.Operations{
		steps.Facts: remote.JSON(func(ctx context.Context, q steps.FactsQuestion, _ remote.Progress) (*tunnel.Facts, error) {
			return h.Facts(ctx, q)
		}),
		steps.State: remote.JSON(func(ctx context.Context, _ struct{}, _ remote.Progress) (steps.Progress, error) {
			return h.State(ctx)
		}),
		steps.Begin:    step(h.Begin),
		steps.Inbound:  wiping(step(h.Inbound)),
		steps.Outbound: wiping(step(h.Outbound)),
		steps.Policies: step(h.Policies),
		steps.Probe:    step(h.Probe),
		steps.Guard:    step(h.Guard),
		steps.Confirm:  step(h.Confirm),
		steps.Finish:   step(h.Finish),
		steps.Forget:   step(h.Forget),
		steps.Undo:     step(h.Undo),
		steps.Detour:   step(h.Detour),
	}
}

func step[Q, A any](do func(context.Context, Q) (A, error)) remote.Operation {
	return remote.JSON(func(ctx context.Context, q Q, _ remote.Progress) (A, error) { return do(ctx, q) })
}

// wiping is a step whose question has keys in it.
func wiping(op remote.Operation) remote.Operation {
	return func(ctx context.Context, question []byte, say remote.Progress) ([]byte, error) {
		defer clear(question)
		return op(ctx, question, say)
	}
}

// sighting is what was seen of an inbound SA.
type sighting struct {
	begun       time.Duration // when it was looked at for the first time
	packets     uint64
	first, last time.Duration // when it was seen to have received more than before, since it is watched; 0: never
}
