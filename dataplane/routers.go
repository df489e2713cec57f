package dataplane

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"espalier/esp"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/underlay"
)

// paths is what the paths of all SAs share.
type paths struct {
	times   pathTimes
	icmp    []*underlay.ICMP // IPv4, and IPv6 where the kernel has it
	sender  *underlay.Sender // the prober's
	prober  *prober
	answers bucket // ICMP messages for packets that are too big
	news    bucket // lines of the log
	short   bucket // messages of routers for which all SAs have to be looked through
}

func newPaths() *paths {
	return &paths{
		times:   defaultPathTimes,
		answers: bucket{burst: 200, every: time.Millisecond},
		news:    bucket{burst: 20, every: 10 * time.Second},
		short:   bucket{burst: 10, every: 100 * time.Millisecond},
	}
}

// openPaths opens what routers are heard by, and what probes leave by.
func (d *Device) openPaths(sockets underlay.Config) (err error) {
	for _, v6 := range []bool{false, true} {
		i, err := underlay.ListenICMP(sockets, v6)
		if v6 && errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err != nil {
			return err
		}
		d.paths.icmp = append(d.paths.icmp, i)
	}
	if d.paths.sender, err = underlay.NewSender(sockets); err != nil {
		return err
	}
	d.paths.prober = newProber(d, newSockets(d.paths.sender, &d.udp, 0))
	return nil
}

// deafen ends hearRouters.
func (p *paths) deafen() error {
	var errs []error
	for _, i := range p.icmp {
		errs = append(errs, i.Close())
	}
	p.icmp = nil
	return errors.Join(errs...)
}

func (p *paths) close() error {
	err := p.deafen()
	if p.sender != nil {
		err = errors.Join(err, p.sender.Close())
	}
	return err
}

// hearRouters takes messages until the socket is closed.
func (d *Device) hearRouters(i *underlay.ICMP) error {
	for {
		m, err := i.Receive()
		if err != nil {
			return err
		}
		d.hear(&m)
	}
}

// hear believes a router as far as RFC 4301 §8.2 lets it: the message must quote a packet that an SA has
// sent lately.
func (d *Device) hear(m *underlay.TooBig) {
	all, reason := d.quoted(m)
	if len(all) == 0 {
		if reason != reasons {
			d.drops.count(reason)
		}
		return
	}
	for _, a := range all {
		if !d.lower(a, m.MTU, m.From) {
			d.drops.count(InTooBigRefused)
			return
		}
	}
}

// quoted are the SAs that a message is about, or why there is none: reasons where it is about something
// else of the host's. There may be several only where the router quotes UDP encapsulation no further than
// to its ports.
func (d *Device) quoted(m *underlay.TooBig) ([]*association, Reason) {
	text := m.Payload
	var ports ipsec.Encap
	switch m.Protocol {
	case inet.ProtoESP:
	case inet.ProtoUDP:
		if len(text) < udpLen {
			return nil, InTooBigUnknown
		}
		ports = ipsec.Encap{SrcPort: binary.BigEndian.Uint16(text), DstPort: binary.BigEndian.Uint16(text[2:])}
		if !d.udp.has(udpPort{v6: m.Src.Is6(), port: ports.SrcPort}) {
			return nil, reasons
		}
		if text = text[udpLen:]; len(text) < esp.HeaderLen {
			return d.allBetween(m, ports)
		}
	default:
		return nil, reasons
	}
	if len(text) < esp.HeaderLen {
		return nil, InTooBigUnknown
	}
	a := d.sad.inbound(ipsec.SAID{Dst: m.Dst, SPI: ipsec.SPI(binary.BigEndian.Uint32(text))})
	switch {
	case a == nil, !a.sendsBetween(m, ports):
		return nil, InTooBigUnknown
	case !a.sentLately(binary.BigEndian.Uint32(text[4:])):
		return nil, InTooBigRefused
	}
	return []*association{a}, 0
}

// allBetween are all SAs with UDP encapsulation between the ends of a packet quoted.
func (d *Device) allBetween(m *underlay.TooBig, ports ipsec.Encap) (all []*association, reason Reason) {
	if !d.paths.short.take(time.Now()) {
		return nil, InTooBigRefused
	}
	for _, a := range d.sad.list() {
		if a.sa.Dst == m.Dst && a.sendsBetween(m, ports) && a.out.Sent() != 0 {
			all = append(all, a)
		}
	}
	return all, InTooBigUnknown
}

// sendsBetween reports whether the SA's packets have these addresses and, if they are encapsulated,
// ports.
func (a *association) sendsBetween(m *underlay.TooBig, ports ipsec.Encap) bool {
	e := a.encap.Load()
	switch {
	case a.out == nil || a.sa.Src != m.Src:
		return false
	case e == nil || m.Protocol != inet.ProtoUDP:
		return e == nil && m.Protocol == inet.ProtoESP
	}
	return e.ports == ports
}

// lately is how many numbers back a packet counts as sent lately: one that a router answers is not much
// older than a round trip.
const lately = 1 << 16

// sentLately reports whether the packet with the low half of a number may have been sent lately.
func (a *association) sentLately(low uint32) bool {
	sent := a.out.Sent()
	return uint64(uint32(sent)-low) < min(sent, lately)
}
