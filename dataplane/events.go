package dataplane

import (
	"slices"
	"sync"

	"espalier/ipsec"
)

// observers are those who want to hear of events.
type observers struct {
	mu  sync.Mutex
	all []*func(ipsec.Event) bool
}

func (o *observers) add(f func(ipsec.Event) bool) (stop func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, &f)
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.all = slices.DeleteFunc(o.all, func(g *func(ipsec.Event) bool) bool { return g == &f })
	}
}

// tell reports whether anybody has heard.
func (o *observers) tell(e ipsec.Event) (heard bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.all {
		if (*f)(e) {
			heard = true
		}
	}
	return heard
}

// Observe implements ipsec.Observable.
func (d *Device) Observe(f func(ipsec.Event) bool) (stop func()) { return d.observers.add(f) }

// WatchProgress implements ipsec.Observable.
func (d *Device) WatchProgress(on bool) {
	d.control.Lock()
	defer d.control.Unlock()
	d.sad.watch = on
	for _, a := range d.sad.list() {
		a.progress.look(on)
		d.keeper.ask(&a.errand)
	}
}
