package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/guard"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
	"espalier/underlay"
)

// Config of a Device. Only Underlay and StateDir must be set.
type Config struct {
	Underlay string   // the device ESP leaves and arrives by, such as p4p1
	Guarded  []string // further devices the guard closes for cleartext
	TUN      string   // name of the TUN device; "" is "esp-" and Underlay
	Queues   int      // TUN queues, each with two threads of its own; 0 is 1

	// Mark and Mask are the fwmark of the underlay's own packets; 0 are DefaultMark and
	// all ones. Table and RulePriority place the steering; 0 are DefaultTable plus the
	// underlay's ifindex, and DefaultRulePriority.
	Mark, Mask   uint32
	Table        int
	RulePriority int

	// A path MTU that was learned is forgotten after PathMTUAge, or if it was found by probing, a
	// longer one is tried again; 0 is 10 minutes, as RFC 1191 has it. A path that carries large packets
	// is probed every ProbeInterval; 0 is 1 minute, less than 0 is never.
	PathMTUAge, ProbeInterval time.Duration

	StateDir string       // where the settings found are kept, to put them back
	Log      *slog.Logger // nil: slog.Default()
}

// mostRaw is how many raw sockets of a family there are at most: each packet of protocol 50 is shown to
// all of them.
const mostRaw = 4

// Defaults of Config. The mark reads "ESP" in part; the rule stands behind the local table
// (0) and before main (32766).
const (
	DefaultMark         = 0xe5b00000
	DefaultTable        = 58800
	DefaultRulePriority = 5880
)

// Device is a userspace offload device. It implements ipsec.Database and
// ipsec.Accounting. Its methods are safe for concurrent use.
type Device struct {
	log     *slog.Logger
	link    underlayLink
	nl      *netlink.Handle
	tun     *tun.Device
	senders []*underlay.LinkSender // one for each TUN queue
	hops    *nextHops
	raw     []*underlay.Receiver // of IPv4, and of IPv6 where the kernel has it
	crews   []*crew              // one for each TUN queue

	udpFrames bool // the TUN takes UDP in frames
	udp       udpPorts
	tap       tapPort
	guard     *guard.Guard
	guarded   []string
	steering  steering
	filter    reversePath
	watcher   *watcher
	locals    locals

	control sync.Mutex          // one change of policies or encapsulations at a time
	closed  bool                // no more changes
	encaps  map[guard.Encap]int // what passes the guard, with the number of SAs
	sad     *sad
	spd     *spd
	drops   drops
	ids     fragmentIDs
	paths   *paths

	keeper    *keeper
	observers observers
	acquires  uint32 // AcquireIDs given out

	ike   atomic.Pointer[func(IKEMessage)]
	aside func(local, remote netip.AddrPort, payload []byte) error // udpPorts.sendAside

	running errorGroup
}

// New opens the device in the network namespace of the process: TUN, underlay sockets, guard
// (with what an earlier process left in force) and steering. Run makes it work; Close must
// be called if Run is not.
func New(cfg Config) (*Device, error) {
	cfg.setDefaults()
	d := newDevice(cfg.Log)
	if err := d.open(&cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("device behind %s: %w", cfg.Underlay, err), d.Close())
	}
	return d, nil
}

// newDevice is a device that has not opened anything yet.
func newDevice(log *slog.Logger) *Device {
	d := &Device{log: log, encaps: make(map[guard.Encap]int), paths: newPaths()}
	d.keeper = newKeeper(d.acquire)
	d.sad = newSAD(d.tendSA, d.tendPath, func() { d.spd.change()() })
	d.spd = newSPD(d.tendPolicy)
	d.aside = d.udp.sendAside
	return d
}

func (c *Config) setDefaults() {
	if c.TUN == "" {
		c.TUN = TUNName(c.Underlay)
	}
	if c.Queues == 0 {
		c.Queues = 1
	}
	if c.Mark == 0 {
		c.Mark = DefaultMark
	}
	if c.Mask == 0 {
		c.Mask = ^uint32(0)
	}
	if c.RulePriority == 0 {
		c.RulePriority = DefaultRulePriority
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

// TUNName is the default name of the TUN device behind an underlay device, cut to what the
// kernel takes (IFNAMSIZ).
func TUNName(underlay string) string {
	const longest = 15
	name := "esp-" + underlay
	return name[:min(len(name), longest)]
}

// open takes the resources in the order in which packets need them. What was opened before
// an error, Close gives back.
func (d *Device) open(cfg *Config) (err error) {
	if d.nl, err = netlink.NewHandle(); err != nil {
		return err
	}
	if err := d.findUnderlay(cfg); err != nil {
		return err
	}
	d.guarded = append([]string{cfg.Underlay}, cfg.Guarded...)
	if d.guard, err = guard.Open(guard.Config{Devices: d.guarded, Mark: cfg.Mark, Mask: cfg.Mask, Tap: cfg.Underlay}); err != nil {
		return err
	}
	sockets := underlay.Config{Mark: cfg.Mark, Share: cfg.Queues}
	for _, v6 := range []bool{false, true} {
		raw := sockets
		raw.Share = min(cfg.Queues, mostRaw)
		r, err := underlay.ListenRaw(raw, v6)
		if v6 && errors.Is(err, unix.EAFNOSUPPORT) {
			d.log.Info("the kernel runs without IPv6, and so does the device")
			continue
		}
		if err != nil {
			return err
		}
		d.raw = append(d.raw, r...)
	}
	if d.hops, err = newNextHops(d); err != nil {
		return err
	}
	for range cfg.Queues {
		raw, err := underlay.NewSender(sockets)
		if err != nil {
			return err
		}
		s, err := underlay.NewLinkSender(sockets, raw, d.hops.NextHops)
		if err != nil {
			return errors.Join(err, raw.Close())
		}
		d.senders = append(d.senders, s)
	}
	d.udp = udpPorts{config: sockets, start: d.listenUDP, stop: d.leaveUDP}
	d.paths.times.set(cfg)
	if err := d.openPaths(sockets); err != nil {
		return err
	}
	if err := d.openTUN(cfg); err != nil {
		return err
	}
	if err := d.openCrews(); err != nil {
		return err
	}
	d.steering = steering{nl: d.nl, table: cfg.Table, priority: cfg.RulePriority, mark: cfg.Mark, mask: cfg.Mask, tun: d.tun.Index(), underlay: int(d.link.index.Load())}
	if err := d.steering.open(); err != nil {
		return err
	}
	d.filter = reversePath{device: cfg.Underlay, file: rpFilterFile(cfg.StateDir, cfg.Underlay)}
	if err := d.filter.loosen(); err != nil {
		return err
	}
	if d.watcher, err = newWatcher(); err != nil {
		return err
	}
	d.reportGuard(cfg.TUN)
	if err := d.locals.read(d.nl); err != nil {
		return err
	}
	if err := d.guard.Untap(); err != nil {
		return err
	}
	return d.openTap()
}

func rpFilterFile(dir, device string) string { return filepath.Join(dir, device+".rp_filter") }

func (d *Device) findUnderlay(cfg *Config) error {
	link, err := d.nl.LinkByName(cfg.Underlay)
	if err != nil {
		return err
	}
	d.link.name = cfg.Underlay
	d.link.index.Store(int64(link.Attrs().Index))
	d.link.mtu.Store(int64(link.Attrs().MTU))
	if cfg.Table == 0 {
		cfg.Table = DefaultTable + link.Attrs().Index
	}
	return nil
}

// openTUN makes the TUN. It gets no link-local address (addr_gen_mode none): nothing but the
// steering may send into it. Its own reverse path filter is off, for SAs whose traffic goes back in
// clear, as on one of two hosts while tunnels are set up or taken down.
func (d *Device) openTUN(cfg *Config) (err error) {
	if d.tun, err = tun.Create(cfg.TUN, cfg.Queues); err != nil {
		return err
	}
	d.udpFrames = d.tun.UDPFrames()
	filter, err := tunFilter()
	if err != nil {
		return err
	}
	for _, c := range []struct {
		sysctl
		value string
	}{
		{sysctl{"ipv6", d.tun.Name(), "addr_gen_mode"}, "1"},
		{sysctl{"ipv4", d.tun.Name(), "rp_filter"}, filter},
	} {
		if err := c.write(c.value); err != nil && !(c.family == "ipv6" && errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("set %s of %s: %w", c.name, d.tun.Name(), err)
		}
	}
	link, err := d.nl.LinkByIndex(d.tun.Index())
	if err != nil {
		return err
	}
	if err := d.fitTUN(link); err != nil {
		return err
	}
	if err := d.nl.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", d.tun.Name(), err)
	}
	return nil
}

// openCrews makes a crew for each TUN queue.
func (d *Device) openCrews() error {
	for i, queue := range d.tun.Queues() {
		out := newOutbound(d, newSockets(d.senders[i], &d.udp, i))
		out.answer, out.queue = d.writeTUN(queue), uint16(i)+1
		c, err := newCrew()
		if err != nil {
			return err
		}
		d.crews = append(d.crews, c)
		c.listen(&queueSource{queue, out})
	}
	for i, r := range d.raw {
		d.listen(i%len(d.crews), r, false)
	}
	return nil
}

// listenUDP has each queue receive from one of the sockets.
func (d *Device) listenUDP(sockets []*underlay.UDP) {
	for i, u := range sockets {
		d.listen(i, u, true)
	}
}

// listen has a queue receive from a socket too.
func (d *Device) listen(queue int, r receiver, udp bool) {
	in := newInbound(d, udp, d.writeTUN(d.tun.Queues()[queue]))
	d.crews[queue].listen(&socketSource{r, in})
}

// leaveUDP returns when nobody receives from sockets that were closed.
func (d *Device) leaveUDP() {
	for _, c := range d.crews {
		c.leave()
	}
}

// reportGuard tells what the guard holds already, and which of the user's own packet filter
// rules will not see decrypted traffic.
func (d *Device) reportGuard(tun string) {
	if ids := d.guard.Inherited(); len(ids) > 0 {
		d.log.Info("guard left by an earlier process stays in force", "policies", len(ids))
	}
	rules, err := guard.InterfaceRules(d.link.name)
	if err != nil {
		d.log.Warn("read nftables rules", "err", err)
	}
	for _, r := range rules {
		d.log.Warn("firewall rule names the underlay device, but decrypted packets come and go by the TUN: add the same rule for it",
			"rule", r, "tun", tun)
	}
}

// Run carries packets until ctx ends or the underlay device goes. It returns when all its
// goroutines have, with the steering removed and rp_filter put back. The guard stays in force
// as long as there are policies: see guard.Release.
func (d *Device) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.running.begin(ctx, cancel)
	d.running.start(func(ctx context.Context) error { return d.watch(ctx, d.watcher) })
	d.running.start(d.watcher.followRules)
	d.running.start(d.hops.follow)
	d.running.start(d.hops.learn)
	d.running.start(d.watchGuard)
	d.running.start(d.keeper.run)
	for _, c := range d.crews {
		d.running.start(c.first.run)
		d.running.start(c.second.run)
	}
	for _, i := range d.paths.icmp {
		d.running.start(func(context.Context) error { return d.hearRouters(i) })
	}
	<-ctx.Done()
	return errors.Join(d.paths.deafen(), d.running.wait(), d.Close())
}

// Close gives back what New took, if Run was never called.
func (d *Device) Close() error { return errors.Join(d.closeFiles(), d.release()) }

// closeFiles closes all that packets go by. With the TUN its routes go; from here on it is the guard
// alone that holds cleartext back.
func (d *Device) closeFiles() error {
	var errs []error
	for _, c := range d.crews {
		errs = append(errs, c.close())
	}
	if d.tun != nil {
		errs = append(errs, d.tun.Close())
	}
	for _, r := range d.raw {
		errs = append(errs, r.Close())
	}
	d.closeTaps(d.tap.replace(nil))
	for _, s := range d.senders {
		errs = append(errs, s.Close())
	}
	if d.hops != nil {
		d.hops.events.Close()
	}
	return errors.Join(append(errs, d.paths.close(), d.udp.close())...)
}

// watchGuard puts the guard back when somebody removes it.
func (d *Device) watchGuard(ctx context.Context) error {
	return d.guard.Watch(ctx, func(err error) {
		if err != nil {
			d.log.Error("somebody changed the guard's nftables, and it cannot be put back: trying again", "err", err)
			return
		}
		d.log.Warn("somebody changed the guard's nftables (nft flush ruleset?): put back", "device", d.link.name)
	})
}

// release puts the host's settings back and wipes the keys. The guard stays as long as it
// protects something.
func (d *Device) release() error {
	d.control.Lock()
	defer d.control.Unlock()
	d.closed = true
	var errs []error
	if d.steering.nl != nil {
		errs = append(errs, d.steering.close())
	}
	if d.filter.device != "" {
		errs = append(errs, d.filter.restore())
	}
	if d.guard != nil {
		errs = append(errs, d.untap(d.sad.list()...))
		if len(d.guard.Inherited()) == 0 && d.spd.len() == 0 {
			for _, dev := range d.guarded {
				errs = append(errs, guard.Release(dev))
			}
		}
		errs = append(errs, d.guard.Close())
	}
	for _, p := range d.spd.newestFirst() {
		p.end()
	}
	for _, a := range d.sad.flush() {
		a.retire()
	}
	if d.nl != nil {
		d.nl.Close()
	}
	return errors.Join(errs...)
}

// Release removes what a dead device left behind: its guard, its steering rule and the
// loosened rp_filter. The underlay device may be gone; then a rule in a table that was named
// after it stays, and leads nowhere.
func Release(cfg Config) error {
	cfg.setDefaults()
	nl, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer nl.Close()
	if _, err := nl.LinkByName(cfg.TUN); err == nil {
		return fmt.Errorf("release %s: its device still runs, for there is %s: stop it first", cfg.Underlay, cfg.TUN)
	}
	var errs []error
	for _, dev := range append([]string{cfg.Underlay}, cfg.Guarded...) {
		errs = append(errs, guard.Release(dev))
	}
	filter := reversePath{device: cfg.Underlay, file: rpFilterFile(cfg.StateDir, cfg.Underlay)}
	errs = append(errs, filter.restore())
	d := Device{nl: nl}
	if err := d.findUnderlay(&cfg); err == nil || cfg.Table != 0 {
		s := steering{nl: nl, table: cfg.Table, priority: cfg.RulePriority, mark: cfg.Mark, mask: cfg.Mask}
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// readFlow sets all of f to what a selector sees of a packet. Field by field in place, as copying
// what has just been written is slow.
func readFlow(f *ipsec.Flow, h *inet.Header) {
	f.Src, f.Dst, f.Protocol = h.Src, h.Dst, h.Protocol
	f.SrcPort, f.DstPort = h.SrcPort, h.DstPort
	f.NoPorts = noPorts(h)
}

// noPorts reports whether the packet has ports that cannot be read.
func noPorts(h *inet.Header) bool { return !h.HasPorts && inet.UsesPorts(h.Protocol) }
