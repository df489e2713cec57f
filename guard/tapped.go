package guard

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// AddTapped has the packets of SAs dropped behind the tap. Those added already are left out. On an error
// everything stays as it was. It wraps ipsec.ErrInvalid if an argument is at fault.
func (g *Guard) AddTapped(all ...Tapped) error {
	all, err := checkTapped(all)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.begin()
	for _, t := range all {
		if _, ok := g.tapped[t]; ok {
			continue
		}
		g.tapped[t] = struct{}{}
		c.undo = append(c.undo, func() { delete(g.tapped, t) })
		c.tapped(t, false)
	}
	return c.commitOrUndo()
}

// RemoveTapped is the reverse of AddTapped. What the kernel does not take back goes with the next change.
func (g *Guard) RemoveTapped(all ...Tapped) error {
	all, err := checkTapped(all)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.begin()
	for _, t := range all {
		if _, ok := g.tapped[t]; ok {
			delete(g.tapped, t)
			c.tapped(t, true)
		}
	}
	if err := c.commit(); err != nil {
		g.unfinished = true
		return err
	}
	return nil
}

// Untap has nothing dropped that the tap of an earlier process received: it does not any more. All rules
// are put in force again, if there are any.
func (g *Guard) Untap() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.tapped)
	for _, d := range g.devices {
		if d.found > 0 {
			return g.install()
		}
	}
	return nil
}

func checkTapped(all []Tapped) ([]Tapped, error) {
	checked := slices.Clone(all)
	for i := range checked {
		t := &checked[i]
		t.Dst = t.Dst.Unmap().WithZone("")
		if !t.Dst.IsValid() || t.Dst.IsUnspecified() || t.Dst.IsMulticast() {
			return nil, fmt.Errorf("guard: %w: SA to %s: its destination must be a host", ipsec.ErrInvalid, all[i].Dst)
		}
	}
	return checked, nil
}

// tappedAt are the SAs that the device's tap receives.
func (g *Guard) tappedAt(d *device) []Tapped {
	if d.name != g.cfg.Tap {
		return nil
	}
	return slices.Collect(maps.Keys(g.tapped))
}

// tapped puts an SA into the set of the tap's device, or takes it out.
func (c *change) tapped(t Tapped, remove bool) {
	for i, d := range c.g.devices {
		if d.name != c.g.cfg.Tap {
			continue
		}
		for _, f := range families {
			if t.Dst.BitLen() != 8*f.addrLen {
				continue
			}
			if d.layout == nil || d.layout.walks[&ingress][f].tapped == nil {
				c.whole = true
				return
			}
			all, k := d.layout.walks[&ingress][f].tapped, t.key()
			if remove {
				c.elements[i] = append(c.elements[i], all.take(k)...)
				continue
			}
			c.elements[i] = append(c.elements[i], all.put(k, nil)...)
			c.undo = append(c.undo, func() { all.take(k) })
		}
	}
}

// key is the key of an SA: address and SPI.
func (t Tapped) key() key {
	return key(binary.BigEndian.AppendUint32(t.Dst.AsSlice(), uint32(t.SPI)))
}

// addTapped drops what is received before the hook, by a set that is returned; nil if there is none. It
// must be no more than a tap takes.
func (c *chain) addTapped(f *family, tapped []Tapped) *set {
	all := &set{
		name: ingress.familyChain(f) + "_tapped", family: f, members: make(map[key]*ranked),
		shape: shape{dstBits: uint8(8 * f.addrLen), protocol: unix.IPPROTO_ESP, spi: true},
	}
	for _, t := range tapped {
		if t.Dst.BitLen() == 8*f.addrLen {
			all.put(t.key(), nil)
		}
	}
	if len(all.members) == 0 {
		return nil
	}
	c.rules = slices.Insert(c.rules, 0, rule{all.in(f.wholeESP(), false).done(), "ESP received before"})
	return all
}

// wholeESP tests for ESP to this host's link-layer address that is neither a fragment nor behind a VLAN
// tag or IPv6 extension headers.
func (f *family) wholeESP() match {
	m := match(nil).etherType(etherTypeAt, f.etherType).
		upper(equal, unix.IPPROTO_ESP).
		meta(expr.MetaKeyPKTTYPE).compare(equal, []byte{unix.PACKET_HOST})
	if f == &ipv6 {
		return m.load(expr.PayloadBaseNetworkHeader, nextHeaderAt, 1).compare(equal, []byte{unix.IPPROTO_ESP})
	}
	return m.load(expr.PayloadBaseNetworkHeader, 6, 2).masked(equal, be16(fragOffsetMask|moreFragments), be16(0))
}

const (
	nextHeaderAt  = 6      // IPv6
	moreFragments = 0x2000 // IPv4
)

// done ends a packet's way without regarding it as a drop.
func (m match) done() match { return m.with(&expr.Verdict{Kind: expr.VerdictDrop}) }
