package server

import (
	"context"
	"iter"
	"sort"
	"sync"
	"time"

	"espalier/ipsec"
)

// fakeDB is a SAD and SPD in memory, which words its errors as a device does. Errors injected by fail come first.
type fakeDB struct {
	mu       sync.Mutex
	sas      map[ipsec.SAID]ipsec.SA
	policies map[ipsec.PolicyID]ipsec.Policy
	index    uint32
	fail     error
}

func newFakeDB() *fakeDB {
	return &fakeDB{sas: make(map[ipsec.SAID]ipsec.SA), policies: make(map[ipsec.PolicyID]ipsec.Policy)}
}

func (d *fakeDB) lock() (func(), error) {
	d.mu.Lock()
	return d.mu.Unlock, d.fail
}

func (d *fakeDB) setFail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = err
}

func (d *fakeDB) countSAs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.sas)
}

func (d *fakeDB) countPolicies() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.policies)
}

// sa is the SA as it is held, with its key.
func (d *fakeDB) sa(id ipsec.SAID) ipsec.SA {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sas[id]
}

func (d *fakeDB) AddSA(_ context.Context, sa ipsec.SA) error {
	unlock, err := d.lock()
	defer unlock()
	if err != nil {
		return err
	}
	if _, ok := d.sas[sa.ID()]; ok {
		return &ipsec.OpError{Op: "add SA", Object: sa.ID().String(), Err: ipsec.ErrExist}
	}
	sa.Counters.Added = time.Unix(1_700_000_000, 0)
	d.sas[sa.ID()] = sa
	return nil
}

func (d *fakeDB) UpdateSA(_ context.Context, sa ipsec.SA) error {
	unlock, err := d.lock()
	defer unlock()
	if err != nil {
		return err
	}
	old, ok := d.sas[sa.ID()]
	if !ok {
		return &ipsec.OpError{Op: "update SA", Object: sa.ID().String(), Err: ipsec.ErrNotExist}
	}
	old.Limits, old.Encap = sa.Limits, sa.Encap
	d.sas[sa.ID()] = old
	return nil
}

func (d *fakeDB) DeleteSA(_ context.Context, id ipsec.SAID) error {
	unlock, err := d.lock()
	defer unlock()
	if err != nil {
		return err
	}
	if _, ok := d.sas[id]; !ok {
		return &ipsec.OpError{Op: "delete SA", Object: id.String(), Err: ipsec.ErrNotExist}
	}
	delete(d.sas, id)
	return nil
}

// AllocateSPI gives the lowest SPI of the range to a larval SA that has everything else from the
// request.
func (d *fakeDB) AllocateSPI(_ context.Context, r ipsec.SPIRequest) (ipsec.SA, error) {
	unlock, err := d.lock()
	defer unlock()
	if err != nil {
		return ipsec.SA{}, err
	}
	sa := ipsec.SA{
		Src: r.Src, Dst: r.Dst, Mode: r.Mode, Direction: r.Direction, RequestID: r.RequestID, AcquireID: r.AcquireID, Larval: true,
		SPI: r.Min, Limits: ipsec.Limits{HardTime: 30 * time.Second}, Counters: ipsec.Counters{Added: time.Unix(1_700_000_000, 0)},
	}
	if _, ok := d.sas[sa.ID()]; ok {
		return ipsec.SA{}, &ipsec.OpError{Op: "allocate SPI", Object: sa.ID().String(), Err: ipsec.ErrNotExist}
	}
	d.sas[sa.ID()] = sa
	return sa, nil
}

func (d *fakeDB) LookupSA(_ context.Context, id ipsec.SAID) (ipsec.SA, error) {
	unlock, err := d.lock()
	defer unlock()
	if err != nil {
		return ipsec.SA{}, err
	}
	sa, ok := d.sas[id]
	if !ok {
		return ipsec.SA{}, &ipsec.OpError{Op: "get SA", Object: id.String(), Err: ipsec.ErrNotExist}
	}
	return sa, nil
}

func (d *fakeDB) SAs(context.Context) iter.Seq2[ipsec.SA, error] {
	unlock, err := d.lock()
	defer unlock()
	var all []ipsec.SA
	for _, sa := range d.sas {
		all = append(all, sa)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].SPI < all[j].SPI })
	return seq(all, err)
}

// seq yields all and then err, if there is one.
func seq[V any](all []V, err error) iter.Seq2[V, error] {
	return func(yield func(V, error) bool) {
		for _, v := range all {
			if !yield(v, nil) {
				return
			}
		}
		if err != nil {
			var none V
			yield(none, err)
		}
	}
}

func (d *fakeDB) FlushSAs(context.Context) error {
	unlock, err := d.lock()
	defer unlock()
	if err == nil {
		clear(d.sas)
	}
	return err
}

func (d *fakeDB) AddPolicy(_ context.Context, p ipsec.Policy) error {
	unlock, err := d.lock()
	defer unlock()
	if err != nil {
		return err
	}
	if _, ok := d.policies[p.ID()]; ok {
		return &ipsec.OpError{Op: "add policy", Object: p.ID().String(), Err: ipsec.ErrExist}
	}
	d.install(p)
	return nil
}

func (d *fakeDB) install(p ipsec.Policy) {
	if p.Index == 0 {
		d.index += 8
		p.Index = d.index
	}
	d.policies[p.ID()] = p
}

func (d *fakeDB) UpdatePolicy(_ context.Context, p ipsec.Policy) error {
	unlock, err := d.lock()
	defer unlock()
	if err == nil {
		d.install(p)
	}
	return err
}

// find looks a policy up by index or selector.
func (d *fakeDB) find(id ipsec.PolicyID) (ipsec.Policy, error) {
	if id.Index == 0 {
		if p, ok := d.policies[id]; ok {
			return p, nil
		}
	}
	for _, p := range d.policies {
		if id.Index != 0 && p.Index == id.Index && p.Direction == id.Direction {
			return p, nil
		}
	}
	return ipsec.Policy{}, &ipsec.OpError{Op: "get policy", Object: id.String(), Err: ipsec.ErrNotExist}
}

func (d *fakeDB) DeletePolicy(_ context.Context, id ipsec.PolicyID) error {
	unlock, err := d.lock()
	defer unlock()
	if err != nil {
		return err
	}
	p, err := d.find(id)
	if err == nil {
		delete(d.policies, p.ID())
	}
	return err
}

func (d *fakeDB) LookupPolicy(_ context.Context, id ipsec.PolicyID) (ipsec.Policy, error) {
	unlock, err := d.lock()
	defer unlock()
	if err != nil {
		return ipsec.Policy{}, err
	}
	return d.find(id)
}

func (d *fakeDB) Policies(context.Context) iter.Seq2[ipsec.Policy, error] {
	unlock, err := d.lock()
	defer unlock()
	var all []ipsec.Policy
	for _, p := range d.policies {
		all = append(all, p)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Index < all[j].Index })
	return seq(all, err)
}

func (d *fakeDB) FlushPolicies(context.Context) error {
	unlock, err := d.lock()
	defer unlock()
	if err == nil {
		clear(d.policies)
	}
	return err
}
