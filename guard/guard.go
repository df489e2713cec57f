package guard

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
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
	Tap        string // of the Devices the one that Tapped is about; "": none
}

// Tapped is an inbound SA whose ESP packets are received from the device itself, before the hook. Those
// that are whole are then dropped behind it without being counted, so that nobody receives them twice;
// fragments, and packets with IPv6 extension headers, go on.
type Tapped struct {
	Dst netip.Addr // as Encap's addresses
	SPI ipsec.SPI
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
	own    map[ipsec.PolicyID]*ranked // by direction and selector as given
	encaps map[Encap]int              // how often each was added
	tapped map[Tapped]struct{}
	// unfinished tells that something is in force that should not be: the next change replaces all.
	unfinished bool

	events *netlink.Conn
}

// device is one underlay device, which has a table of its own.
type device struct {
	name      string
	index     int
	inherited map[ipsec.PolicyID][]*ranked // by canonicalID
	layout    *layout                      // what there is to be; nil before the first change
	found     int                          // rules there were at the last look, or are to be
	seen      drops                        // last reading of the counters
	lost      Counters                     // what had been counted when someone else removed the table
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
	g := &Guard{cfg: cfg, conn: c, events: events, own: make(map[ipsec.PolicyID]*ranked), encaps: make(map[Encap]int), tapped: make(map[Tapped]struct{})}
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
	d := &device{name: name, index: link.Index, inherited: make(map[ipsec.PolicyID][]*ranked)}
	entries, err := c.readEntries(name)
	if err != nil {
		return nil, err
	}
	for _, e := range inOrder(entries, inheritedOrder) {
		d.inherited[e.id()] = append(d.inherited[e.id()], e)
	}
	if d.found, err = c.countRules(name); err != nil {
		return nil, err
	}
	d.seen, err = c.readDrops(deviceTable(name))
	return d, err
}

// Apply replaces the rules of all devices, in one transaction, by those for the policies,
// the inherited policies with another direction and selector, and the encapsulations. The
// policies may come in any order; of equal priority the first given decides. On an error
// the rules in force stay. It wraps ipsec.ErrInvalid if an argument is at fault.
func (g *Guard) Apply(policies []ipsec.Policy, encaps []Encap) error {
	own := make(map[ipsec.PolicyID]*ranked, len(policies))
	replaced := make(map[ipsec.PolicyID]bool, len(policies))
	for i := range policies {
		e, err := newEntry(&policies[i])
		if err != nil {
			return fmt.Errorf("guard: policy %s: %w", policies[i].ID(), err)
		}
		own[policies[i].ID()] = &ranked{e, uint64(i)}
		replaced[e.id()] = true
	}
	counted, err := countEncaps(&g.cfg, encaps)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	ownBefore, encapsBefore, inherited := g.own, g.encaps, make([]map[ipsec.PolicyID][]*ranked, len(g.devices))
	g.own, g.encaps = own, counted
	for i, d := range g.devices {
		inherited[i] = d.inherited
		d.inherited = maps.Clone(d.inherited)
		maps.DeleteFunc(d.inherited, func(id ipsec.PolicyID, _ []*ranked) bool { return replaced[id] })
	}
	if err := g.install(); err != nil {
		g.own, g.encaps = ownBefore, encapsBefore
		for i, d := range g.devices {
			d.inherited = inherited[i]
		}
		return err
	}
	return nil
}

// SetEncaps replaces the encapsulations, and puts all rules in force again. On an error what was
// before stays in force. It wraps ipsec.ErrInvalid if an argument is at fault.
func (g *Guard) SetEncaps(encaps []Encap) error {
	counted, err := countEncaps(&g.cfg, encaps)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.encaps
	g.encaps = counted
	if err := g.install(); err != nil {
		g.encaps = before
		return err
	}
	return nil
}

// install puts the rules for all that is to be in force in the place of those that are.
func (g *Guard) install() error {
	var requests []request
	layouts := make([]*layout, len(g.devices))
	for i, d := range g.devices {
		if err := d.count(g.conn); err != nil {
			return fmt.Errorf("guard %s: %w", d.name, err)
		}
		layouts[i] = build(&g.cfg, g.entries(d), slices.Collect(maps.Keys(g.encaps)), g.tappedAt(d), setFrom)
		requests = append(requests, replaceTable(d.name, layouts[i], d.seen)...)
	}
	if err := g.conn.commit(requests); err != nil {
		return fmt.Errorf("guard %s: rules not changed: %w", strings.Join(g.cfg.Devices, " "), err)
	}
	g.unfinished = false
	for i, d := range g.devices {
		d.layout, d.found = layouts[i], layouts[i].rules()
		d.layout.chains = nil // they can be made again
	}
	return nil
}

// entries are those that have a place in a device's table, in SPD order.
func (g *Guard) entries(d *device) []*ranked {
	all := make([]*ranked, 0, len(g.own)+len(d.inherited))
	for _, e := range g.own {
		all = append(all, e)
	}
	for _, some := range d.inherited {
		all = append(all, some...)
	}
	all = slices.DeleteFunc(all, func(e *ranked) bool { return !e.concerns(d.index, g.guards) })
	slices.SortFunc(all, (*ranked).compare)
	return all
}

func countEncaps(cfg *Config, encaps []Encap) (map[Encap]int, error) {
	checked, err := checkEncaps(cfg, encaps)
	if err != nil {
		return nil, err
	}
	counted := make(map[Encap]int, len(checked))
	for _, e := range checked {
		counted[e]++
	}
	return counted, nil
}

func checkEncaps(cfg *Config, encaps []Encap) ([]Encap, error) {
	if len(encaps) > 0 && cfg.Mask == 0 {
		return nil, fmt.Errorf("%w: encapsulation without a mark: any program could send in its place", ipsec.ErrInvalid)
	}
	return checkEnds(encaps)
}

// checkEnds checks the ends of encapsulations, and gives them plain addresses.
func checkEnds(encaps []Encap) ([]Encap, error) {
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
	return checked, nil
}

func (g *Guard) guards(ifindex int) bool {
	return slices.ContainsFunc(g.devices, func(d *device) bool { return d.index == ifindex })
}

// Inherited lists the policies that are in force only because an earlier process left them.
func (g *Guard) Inherited() []ipsec.PolicyID {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []*ranked
	seen := map[ipsec.PolicyID]bool{}
	for _, d := range g.devices {
		for id, some := range d.inherited {
			if !seen[id] {
				seen[id] = true
				all = append(all, some[0])
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *ranked) int { return cmp.Compare(a.order, b.order) })
	ids := make([]ipsec.PolicyID, len(all))
	for i, e := range all {
		ids[i] = ipsec.PolicyID{Direction: e.Direction, Selector: e.Selector}
	}
	return ids
}

// Disinherit gives up an inherited policy at the next Apply. An id with an Index names
// none: inherited policies have no index.
func (g *Guard) Disinherit(id ipsec.PolicyID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.devices {
		delete(d.inherited, canonicalID(id))
	}
}

// DisinheritAll gives up all inherited policies at the next Apply.
func (g *Guard) DisinheritAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.devices {
		clear(d.inherited)
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
	now, err := c.readDrops(deviceTable(d.name))
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
