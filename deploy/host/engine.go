package host

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/tunnel"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// Engine is a SAD and SPD. *client.Client is one.
type Engine interface {
	AddState(context.Context, *xfrm.State) error
	DeleteState(context.Context, xfrm.StateID) error
	GetState(context.Context, xfrm.StateID) (*xfrm.State, error)
	AddPolicy(context.Context, *xfrm.Policy) error
	UpdatePolicy(context.Context, *xfrm.Policy) error
	DeletePolicy(context.Context, xfrm.PolicyID) error
	GetPolicy(context.Context, xfrm.PolicyID) (*xfrm.Policy, error)
	Policies(context.Context) iter.Seq2[*xfrm.Policy, error]
	Close() error
}

// kernelEngine is the name of the kernel's SAD and SPD in a plan.
const kernelEngine = "kernel"

// openEngine opens the kernel of the calling thread's network namespace, or a device by its socket.
func openEngine(name string) (Engine, error) {
	if name == kernelEngine {
		return client.Kernel()
	}
	path, ok := strings.CutPrefix(name, "unix:")
	if !ok {
		return nil, fmt.Errorf("there is no engine %q: it is kernel or unix:PATH", name)
	}
	return client.Dial(path)
}

// engines are those that one step needs, each opened once.
type engines struct {
	open func(string) (Engine, error)
	all  map[string]Engine
	// senders are what was listed of each.
	senders map[string]*tunnel.Senders
}

func (h *Host) engines() *engines {
	return &engines{open: h.cfg.Open, all: map[string]Engine{}, senders: map[string]*tunnel.Senders{}}
}

func (e *engines) get(name string) (Engine, error) {
	if one, ok := e.all[name]; ok {
		return one, nil
	}
	one, err := e.open(name)
	if name != kernelEngine && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)) {
		one, err = ended{err}, nil
	}
	if err != nil {
		return nil, err
	}
	e.all[name] = one
	return one, nil
}

// sending are the policies by which an engine decides on what is sent, as they are the first time that it is asked.
func (e *engines) sending(ctx context.Context, name string) (*tunnel.Senders, error) {
	if s := e.senders[name]; s != nil {
		return s, nil
	}
	one, err := e.get(name)
	if err != nil {
		return nil, err
	}
	s := new(tunnel.Senders)
	for p, err := range one.Policies(ctx) {
		if err != nil {
			return nil, err
		}
		if p.Dir == xfrm.PolicyOut {
			live := livePolicy(p)
			s.Add(&live.Policy)
		}
	}
	e.senders[name] = s
	return s, nil
}

func (e *engines) close() {
	for _, one := range e.all {
		one.Close()
	}
}
