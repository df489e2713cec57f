package host

import (
	"context"
	"iter"
	"slices"

	"espalier/deploy/steps"
	"espalier/ipsec"
	"espalier/tunnel"
	"espalier/xfrm"
)

// ended is the engine of a device that nobody listens for any more. Its SAs and policies went with it.
type ended struct{ why error }

func (e ended) AddState(context.Context, *xfrm.State) error      { return e.why }
func (ended) DeleteState(context.Context, xfrm.StateID) error    { return ipsec.ErrNotExist }
func (e ended) AddPolicy(context.Context, *xfrm.Policy) error    { return e.why }
func (e ended) UpdatePolicy(context.Context, *xfrm.Policy) error { return e.why }
func (ended) DeletePolicy(context.Context, xfrm.PolicyID) error  { return ipsec.ErrNotExist }
func (ended) Close() error                                       { return nil }
func (ended) GetState(context.Context, xfrm.StateID) (*xfrm.State, error) {
	return nil, ipsec.ErrNotExist
}
func (ended) GetPolicy(context.Context, xfrm.PolicyID) (*xfrm.Policy, error) {
	return nil, ipsec.ErrNotExist
}

func (ended) Policies(context.Context) iter.Seq2[*xfrm.Policy, error] {
	return func(func(*xfrm.Policy, error) bool) {}
}

// follow has what is owned in a userspace device be where that listens now. The name of its socket has the
// number of the network namespace in it, which is another one after a boot, or is what --listen said; what
// stays the same is the network device. It is for the pairs of engines as plans have them.
func (j *Journal) follow(engines []tunnel.Engine, there func(engine string) bool) {
	j.Owned = slices.Clone(j.Owned)
	for i := range j.Owned {
		o := &j.Owned[i]
		k := slices.IndexFunc(engines, func(e tunnel.Engine) bool { return e.Name != kernelEngine && e.Device == o.Device })
		if k >= 0 && o.Engine != kernelEngine && o.Engine != engines[k].Name && !there(o.Engine) {
			o.Engine = engines[k].Name
		}
	}
}

// follow goes by the pairs of a change.
func (r *round) follow(pairs []steps.PairEnd) {
	var engines []tunnel.Engine
	for i := range pairs {
		engines = append(engines, tunnel.Engine{Name: pairs[i].Engine, Device: pairs[i].Device})
	}
	r.j.follow(engines, func(engine string) bool {
		e, err := r.engines.get(engine)
		_, gone := e.(ended)
		return err != nil || !gone
	})
}
