package dataplane

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"espalier/ipsec"
)

// larvalTimeFile is how many seconds a larval SA lives, in the network namespace of the process;
// larvalTime is its value unless changed, and where the kernel has no XFRM.
const (
	larvalTimeFile = "/proc/sys/net/core/xfrm_acq_expires"
	larvalTime     = 30 * time.Second
)

func larvalLimits() ipsec.Limits {
	text, err := os.ReadFile(larvalTimeFile)
	if err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 31); err == nil && n > 0 {
			return ipsec.Limits{HardTime: time.Duration(n) * time.Second}
		}
	}
	return ipsec.Limits{HardTime: larvalTime}
}

// AllocateSPI implements ipsec.SAD.
func (d *Device) AllocateSPI(_ context.Context, r ipsec.SPIRequest) (ipsec.SA, error) {
	d.control.Lock()
	defer d.control.Unlock()
	a, err := d.allocateSPI(&r)
	if err != nil {
		return ipsec.SA{}, saError("allocate", r.Src, ipsec.SAID{Dst: r.Dst}, err)
	}
	return a.read(), nil
}

func (d *Device) allocateSPI(r *ipsec.SPIRequest) (*association, error) {
	switch {
	case d.closed:
		return nil, errClosed
	case r.Max == 0 || r.Min > r.Max:
		return nil, fmt.Errorf("%w: SPIs from %s to %s", ipsec.ErrInvalid, r.Min, r.Max)
	}
	sa := ipsec.SA{
		Src: r.Src, Dst: r.Dst, Mode: r.Mode, Direction: r.Direction, RequestID: r.RequestID, Larval: true,
		Selector: ipsec.Selector{Src: hostPrefix(r.Src), Dst: hostPrefix(r.Dst)},
		Limits:   larvalLimits(),
	}
	if err := d.checkSA(&sa); err != nil {
		return nil, err
	}
	a := d.sad.larvaFor(r)
	if a != nil && a.sa.SPI != 0 {
		return a, nil // as in Linux: it keeps the SPI it has
	}
	if sa.SPI = d.sad.freeSPI(r.Dst, max(r.Min, 1), r.Max); sa.SPI == 0 {
		return nil, fmt.Errorf("no SPI from %s to %s is free: %w", r.Min, r.Max, ipsec.ErrNotExist)
	}
	if a != nil { // the one that an acquire has made, with what that knows
		was := a
		sa.AcquireID, sa.Selector, sa.Limits = was.sa.AcquireID, *was.sa.Selector, *was.limits
		if r.Direction == ipsec.AnyDirection {
			sa.Direction = was.sa.Direction
		}
		d.sad.drop(was)
		a = d.addLarva(sa, was.added)
		return a, d.retire(was)
	}
	return d.addLarva(sa, time.Now()), nil
}

func (d *Device) addLarva(sa ipsec.SA, added time.Time) *association {
	a := newState(&d.sad.lines, &sa, added)
	d.sad.addLarva(a)
	d.begin(a)
	return a
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// freeSPI is an SPI of the range that no SA with this destination has, by chance; 0 if there is
// none.
func (s *sad) freeSPI(dst netip.Addr, low, high ipsec.SPI) ipsec.SPI {
	s.mu.RLock()
	defer s.mu.RUnlock()
	size := uint64(high) - uint64(low) + 1
	start := rand.Uint64N(size)
	for i := range size {
		spi := low + ipsec.SPI((start+i)%size)
		if s.inbound(ipsec.SAID{Dst: dst, SPI: spi}) == nil {
			return spi
		}
	}
	return 0
}

// acquire asks for the SA that a packet is without. A larval SA stands for it from then on, so
// that packets like it ask no more; as in Linux there is none if nobody has heard.
func (d *Device) acquire(w want) {
	d.control.Lock()
	defer d.control.Unlock()
	t := &w.policy.Processing[0]
	if a, waiting := d.sad.forPacket(t, &w.flow, w.queue); d.closed || w.policy.gone || a != nil || waiting {
		return
	}
	sa := ipsec.SA{
		Src: w.flow.Src, Dst: w.flow.Dst, SPI: t.SPI, Mode: t.Mode, RequestID: t.RequestID, Larval: true,
		Selector: flowSelector(&w.flow),
	}
	if t.Mode == ipsec.Tunnel {
		sa.Src, sa.Dst = t.Src, t.Dst
		if !sa.Src.IsValid() {
			sa.Src = d.sourceFor(t.Dst)
		}
	}
	if d.acquires++; d.acquires == 0 {
		d.acquires = 1 // 0 is none
	}
	sa.AcquireID = d.acquires
	// Who answers at once waits for d.control, and finds the larval SA.
	if d.observers.tell(ipsec.Acquire{SA: sa, Policy: w.policy.read()}) {
		sa.Limits = larvalLimits()
		d.addLarva(sa, time.Now())
	}
}

// flowSelector selects what is like a packet.
func flowSelector(f *ipsec.Flow) ipsec.Selector {
	s := ipsec.Selector{Src: hostPrefix(f.Src), Dst: hostPrefix(f.Dst), Protocol: f.Protocol}
	if !f.NoPorts {
		s.SrcPort, s.DstPort = ipsec.Port(f.SrcPort), ipsec.Port(f.DstPort)
	}
	return s
}

// sourceFor is the address that this host sends to dst from, the zero Addr if it has none.
func (d *Device) sourceFor(dst netip.Addr) netip.Addr {
	if d.nl == nil {
		return netip.Addr{}
	}
	routes, err := d.nl.RouteGetWithOptions(net.IP(dst.AsSlice()), d.steering.routeOptions())
	if err != nil || len(routes) == 0 {
		return netip.Addr{}
	}
	src, _ := netip.AddrFromSlice(routes[0].Src)
	return src.Unmap()
}
