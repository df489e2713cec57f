package guard

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// Config says what to guard.
type Config struct {
	Devices []string // underlay devices; at least one, and all must exist
	// The underlay's own sockets send with a fwmark of which the bits in Mask read Mark.
	// With a zero Mask there is no such mark, and Apply refuses encapsulations.
	Mark, Mask uint32
}

// Encap is UDP encapsulation that an SA owns (RFC 3948), seen from this host. IPv4-mapped
// addresses count as IPv4; zones are ignored.
type Encap struct{ Local, Remote netip.AddrPort }

// Counters counts what the rules dropped, in packets, on all devices together. It starts
// from what the rules of an earlier process had counted and never goes back within one
// process. Packets dropped in the moment a rule set is replaced may be missing.
type Counters struct{ In, Out uint64 }

// Guard keeps the rules of its devices. Its methods are safe for concurrent use. They act
// in the network namespace of the thread that called Open, whatever thread calls them: the
// netlink socket made there stays in use, so that no privilege to change namespace is needed.
type Guard struct {
	cfg     Config
	devices []*device

	mu     sync.Mutex
	conn   *conn
	own    []entry // of the last Apply
	encaps []Encap

	events *netlink.Conn
}

// device is one underlay device, which has a table of its own.
type device struct {
	name      string
	index     int
	inherited []entry
	rules     int      // how many there are to be
	seen      drops    // last reading of the counters
	lost      Counters // what had been counted when someone else removed the table
}

// Open finds the rules an earlier process left on the devices and changes nothing: they
// stay in force until Apply, and the policies in them, inherited, beyond that until they
// are replaced or disinherited. It fails if a policy in them cannot be read.
func Open(cfg Config) (*Guard, error) {
	if cfg.Mark&^cfg.Mask != 0 {
		return nil, fmt.Errorf("guard: %w: mark %#x has bits outside its mask %#x", ipsec.ErrInvalid, cfg.Mark, cfg.Mask)
	}
	if len(cfg.Devices) == 0 {
		return nil, fmt.Errorf("guard: %w: no underlay device", ipsec.ErrInvalid)
	}
	c, err := dial()
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	events, err := watchEvents()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("guard: %w", err), c.close())
	}
	g := &Guard{cfg: cfg, conn: c, events: events}
	for _, name := range cfg.Devices {
		d, err := openDevice(c, name)
		if err == nil && slices.ContainsFunc(g.devices, func(have *device) bool { return have.index == d.index }) {
			err = fmt.Errorf("%w: named twice", ipsec.ErrInvalid)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("guard %s: %w", name, err), g.Close())
		}
		g.devices = append(g.devices, d)
	}
	return g, nil
}

func openDevice(c *conn, name string) (*device, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("find device: %w", err)
	}
	d := &device{name: name, index: link.Index}
	if d.inherited, err = c.readEntries(name); err != nil {
		return nil, err
	}
	if d.rules, err = c.countRules(name); err != nil {
		return nil, err
	}
	d.seen, err = c.readDrops(name)
	return d, err
}

// Apply replaces the rules of all devices, in one transaction, by those for the policies,
// the inherited policies with another direction and selector, and the encapsulations. The
// policies may come in any order; of equal priority the first given decides. On an error
// the rules in force stay. It wraps ipsec.ErrInvalid if an argument is at fault.
func (g *Guard) Apply(policies []ipsec.Policy, encaps []Encap) error {
	own := make([]entry, len(policies))
	for i := range policies {
		var err error
		if own[i], err = newEntry(&policies[i]); err != nil {
			return fmt.Errorf("guard: policy %s: %w", policies[i].ID(), err)
		}
	}
	encaps, err := checkEncaps(&g.cfg, encaps)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.install(own, encaps); err != nil {
		return err
	}
	g.own, g.encaps = own, encaps
	for _, d := range g.devices {
		d.inherited = without(d.inherited, own)
	}
	return nil
}

// install puts the rules for these and the inherited policies in the place of those in force.
func (g *Guard) install(own []entry, encaps []Encap) error {
	var requests []request
	rules := make([]int, len(g.devices))
	for i, d := range g.devices {
		if err := d.count(g.conn); err != nil {
			return fmt.Errorf("guard %s: %w", d.name, err)
		}
		entries := slices.DeleteFunc(inSPDOrder(own, d.inherited), func(e entry) bool { return !e.concerns(d.index, g.guards) })
		chains := buildChains(&g.cfg, entries, encaps)
		for _, c := range chains {
			rules[i] += len(c.rules)
		}
		requests = append(requests, replaceTable(d.name, chains, d.seen)...)
	}
	if err := g.conn.commit(requests); err != nil {
		return fmt.Errorf("guard %s: rules not changed: %w", strings.Join(g.cfg.Devices, " "), err)
	}
	for i, d := range g.devices {
		d.rules = rules[i]
	}
	return nil
}

func checkEncaps(cfg *Config, encaps []Encap) ([]Encap, error) {
	plain := func(a netip.AddrPort) netip.AddrPort {
		return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
	}
	checked := make([]Encap, len(encaps))
	for i, e := range encaps {
		e = Encap{plain(e.Local), plain(e.Remote)}
		l, r := e.Local.Addr(), e.Remote.Addr()
		if !l.IsValid() || l.BitLen() != r.BitLen() || l.IsUnspecified() || r.IsUnspecified() || e.Local.Port() == 0 || e.Remote.Port() == 0 {
			return nil, fmt.Errorf("%w: encapsulation between %s and %s: it takes two addresses of one family and two ports",
				ipsec.ErrInvalid, encaps[i].Local, encaps[i].Remote)
		}
		checked[i] = e
	}
	if len(encaps) > 0 && cfg.Mask == 0 {
		return nil, fmt.Errorf("%w: encapsulation without a mark: any program could send in its place", ipsec.ErrInvalid)
	}
	return checked, nil
}

func (g *Guard) guards(ifindex int) bool {
	return slices.ContainsFunc(g.devices, func(d *device) bool { return d.index == ifindex })
}

// Inherited lists the policies that are in force only because an earlier process left them.
func (g *Guard) Inherited() []ipsec.PolicyID {
	g.mu.Lock()
	defer g.mu.Unlock()
	var ids []ipsec.PolicyID
	seen := map[ipsec.PolicyID]bool{}
	for _, d := range g.devices {
		for _, e := range d.inherited {
			if id := e.id(); !seen[id] {
				seen[id] = true
				ids = append(ids, ipsec.PolicyID{Direction: e.Direction, Selector: e.Selector})
			}
		}
	}
	return ids
}

// Disinherit gives up an inherited policy at the next Apply. An id with an Index names
// none: inherited policies have no index.
func (g *Guard) Disinherit(id ipsec.PolicyID) {
	id.Selector = canonical(id.Selector)
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.devices {
		d.inherited = slices.DeleteFunc(d.inherited, func(e entry) bool { return e.id() == id })
	}
}

// DisinheritAll gives up all inherited policies at the next Apply.
func (g *Guard) DisinheritAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.devices {
		d.inherited = nil
	}
}

// Counters reads what was dropped so far.
func (g *Guard) Counters() (Counters, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var sum Counters
	for _, d := range g.devices {
		if err := d.count(g.conn); err != nil {
			return Counters{}, fmt.Errorf("guard %s: %w", d.name, err)
		}
		sum.In += d.lost.In + d.seen.in.packets
		sum.Out += d.lost.Out + d.seen.out.packets
	}
	return sum, nil
}

// count takes a reading. One that is lower than the last means that someone removed the table.
func (d *device) count(c *conn) error {
	now, err := c.readDrops(d.name)
	if err != nil {
		return err
	}
	if now.in.packets < d.seen.in.packets {
		d.lost.In += d.seen.in.packets
	}
	if now.out.packets < d.seen.out.packets {
		d.lost.Out += d.seen.out.packets
	}
	d.seen = now
	return nil
}

// Close ends the use of g. The rules stay in force.
func (g *Guard) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := errors.Join(g.conn.close(), g.events.Close()); err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	return nil
}

// Release removes the rules of a device whose process is dead, in the network namespace of
// the calling thread. The device need not exist any more. Without rules it does nothing.
// It does not ask whether a process still uses them.
func Release(device string) error {
	c, err := dial()
	if err != nil {
		return fmt.Errorf("guard: release %s: %w", device, err)
	}
	err = c.commit(removeTable(device))
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	if err := errors.Join(err, c.close()); err != nil {
		return fmt.Errorf("guard: release %s: %w", device, err)
	}
	return nil
}
