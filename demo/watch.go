package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/safchain/ethtool"

	"espalier/internal/wire"
)

// splitOnTheWire has the kernel cut UDP super-packets before they cross the virtual cable, as
// a real NIC would: the tap then sees the packets of the wire.
func splitOnTheWire() error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return fmt.Errorf("open ethtool: %w", err)
	}
	defer e.Close()
	if err := e.Change(device, map[string]bool{"tx-udp-segmentation": false}); err != nil {
		return fmt.Errorf("ethtool -K %s tx-udp-segmentation off: %w", device, err)
	}
	return nil
}

// watch taps the cable at A's end. Everything that A sends passes there behind its guard, and
// everything that B sent before A's.
func (r *run) watch(context.Context) error {
	c := wire.Classifier{}
	for _, f := range families {
		for _, d := range r.directions(f) {
			c.Protected = append(c.Protected, selector(d.src, d.dst))
			if r.UDP {
				c.Encaps = append(c.Encaps, wire.Ends{Src: netip.AddrPortFrom(d.src, udpPort), Dst: netip.AddrPortFrom(d.dst, udpPort)})
			}
		}
	}
	r.Step("A: watch every packet on %s", device)
	return r.a.ns.Do(func() (err error) {
		r.watcher, err = wire.Watch(device, c, r.files.wire)
		return err
	})
}

// stopWatching may be called again; the second time it has nothing to do.
func (r *run) stopWatching() (wire.Counts, error) {
	w := r.watcher
	r.watcher = nil
	if w == nil {
		return r.report.Wire, nil
	}
	counts, err := w.Stop()
	return counts, errors.Join(err, r.files.close())
}
