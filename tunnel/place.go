package tunnel

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"espalier/config"
)

// placeAll finds the hosts of all tunnels.
func (m *maker) placeAll() {
	for i := range m.file.Tunnels {
		for j := range m.file.Tunnels[i].Hosts {
			m.place(&m.file.Tunnels[i].Hosts[j])
		}
	}
}

// place finds out which host has the address of h, and whether its device is there. What is wrong
// is told once for each address.
func (m *maker) place(h *config.Host) {
	if _, done := m.at[h.Address]; done {
		return
	}
	m.at[h.Address] = nil
	if m.opt.Absent != nil && m.opt.Absent(h) {
		return
	}
	i := m.hostOf(h)
	if i < 0 {
		return
	}
	facts := m.plan.Hosts[i].Facts
	p := &place{host: m.first(i), facts: facts, device: facts.Device(h.Dev)}
	with := facts.deviceWith(h.Address)
	switch {
	case p.device != nil && p.device.has(h.Address):
		m.at[h.Address] = p
	default:
		p.device = with // for what else is wrong, or has to go
		m.at[h.Address] = p
		if m.opt.Kind == Down {
			return
		}
		what := fmt.Sprintf("%s has no device %s: %s has %s", m.name(i), h.Dev, with.Name, h.Address)
		if facts.Device(h.Dev) != nil {
			what = fmt.Sprintf("%s of %s does not have %s: %s has it", h.Dev, m.name(i), h.Address, with.Name)
		}
		m.problem(h.Place("dev"), what, "write dev: "+with.Name)
	}
}

// hostOf is the host that has the address of h, -1 if none has; then that is told.
func (m *maker) hostOf(h *config.Host) int {
	here := m.opt.Here
	for i := range m.plan.Hosts {
		host := &m.plan.Hosts[i]
		if host.SSH != (config.SSH{}) {
			continue
		}
		here = host.Facts
		if m.isAt(here, h.Address) {
			return i
		}
	}
	if h.SSH == nil {
		what, instead := fmt.Sprintf("this host does not have %s, and there is no ssh to reach another one by", h.Address), "add ssh: root@HOST, or give an address of this host"
		if here != nil {
			if near, ok := here.nearest(h.Address); ok {
				instead = fmt.Sprintf("add ssh: root@HOST, or write %s, which this host has", near)
			}
		}
		m.problem(h.Place("address"), what, instead)
		return -1
	}
	for i := range m.plan.Hosts {
		host := &m.plan.Hosts[i]
		if host.SSH != *h.SSH {
			continue
		}
		if m.isAt(host.Facts, h.Address) {
			return i
		}
		instead := "give an address that it has"
		if near, ok := host.Facts.nearest(h.Address); ok {
			instead = fmt.Sprintf("write %s, which it has, or another ssh", near)
		}
		m.problem(h.Place("address"), fmt.Sprintf("%s (%s) does not have %s: it has %s", host.Name, host.Facts.Hostname, h.Address, host.Facts.addresses()), instead)
		return -1
	}
	m.problem(h.Place("ssh"), fmt.Sprintf("%s was not asked", h.SSH.To), "")
	return -1
}

// isAt reports whether a host has an address. One that is to be rid of its tunnels may have lost it.
func (m *maker) isAt(f *Facts, a netip.Addr) bool { return f.Has(a) || m.opt.Kind == Down && f.Had(a) }

// first is the first of the hosts that are one and the same with host i: it may be reached in several
// ways.
func (m *maker) first(i int) int {
	for j := range i {
		if m.plan.Hosts[j].Facts.Same(m.plan.Hosts[i].Facts) {
			return j
		}
	}
	return i
}

// Device is the one of that name, nil if there is none.
func (f *Facts) Device(name string) *Device {
	for i := range f.Devices {
		if f.Devices[i].Name == name {
			return &f.Devices[i]
		}
	}
	return nil
}

// Has reports whether the host has an address.
func (f *Facts) Has(a netip.Addr) bool { return f.deviceWith(a) != nil }

// Had reports whether the host has tunnels of an address of its own, which may have gone.
func (f *Facts) Had(a netip.Addr) bool {
	return slices.ContainsFunc(f.Owned, func(o Owned) bool { return o.Local == a })
}

func (f *Facts) deviceWith(a netip.Addr) *Device {
	for i := range f.Devices {
		if f.Devices[i].has(a) {
			return &f.Devices[i]
		}
	}
	return nil
}

func (d *Device) has(a netip.Addr) bool {
	for _, p := range d.Addresses {
		if p.Addr() == a {
			return true
		}
	}
	return false
}

// Engine is the one of that name, nil if there is none.
func (f *Facts) Engine(name string) *Engine {
	for i := range f.Engines {
		if f.Engines[i].Name == name {
			return &f.Engines[i]
		}
	}
	return nil
}

// nearest is the address of the host that has most leading bits in common with a, link-local ones
// aside.
func (f *Facts) nearest(a netip.Addr) (near netip.Addr, ok bool) {
	most := -1
	for i := range f.Devices {
		for _, p := range f.Devices[i].Addresses {
			if b := p.Addr(); b.Is4() == a.Is4() && !b.IsLinkLocalUnicast() && commonBits(a, b) > most {
				near, ok, most = b, true, commonBits(a, b)
			}
		}
	}
	return near, ok
}

func commonBits(a, b netip.Addr) (n int) {
	x, y := a.As16(), b.As16()
	for i := range x {
		if d := x[i] ^ y[i]; d != 0 {
			return n + bits.LeadingZeros8(d)
		}
		n += 8
	}
	return n
}

// addresses are the first few, for a message.
func (f *Facts) addresses() string {
	const most = 4
	var list []string
	for i := range f.Devices {
		for _, p := range f.Devices[i].Addresses {
			if !p.Addr().IsLinkLocalUnicast() {
				list = append(list, p.Addr().String())
			}
		}
	}
	if len(list) == 0 {
		return "no addresses"
	}
	if len(list) > most {
		list = append(list[:most], "…")
	}
	return strings.Join(list, ", ")
}
