package dataplane

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"espalier/internal/inet"
	"espalier/ipsec"
)

// No path MTU goes below these, in bytes with the outer IP header: not on the word of a router, which
// nobody vouches for, and not by probing. 576 is what every IPv4 host takes in (RFC 791 §3.1), and no
// link of today carries less. Then 511 bytes at least are left for an inner packet. That is below the
// 552 that Linux hosts go down to by default (net.ipv4.route.min_pmtu): from there on they let packets
// be fragmented, and we do. 1280 is IPv6's minimum link MTU: RFC 8201 §4 has less than that ignored.
const (
	minPathMTU4 = 576
	minPathMTU6 = 1280
)

func minPathMTU(dst netip.Addr) int {
	if dst.Is4() {
		return minPathMTU4
	}
	return minPathMTU6
}

// pmtu is what packets need to know of the path of an outbound SA. Lengths are those of outer packets
// in bytes, IP header included. Both are 0 before the first packet.
type pmtu struct {
	look  atomic.Uint32 // longer packets take a closer look: see outbound.fits
	value atomic.Uint32 // the path MTU
}

// path is the rest of it, from which that follows. The path MTU is what the route allows, unless a
// router or a probe has found it to be less: that is believed for a while only.
type path struct {
	errand errand      // to tend it
	stale  atomic.Bool // the route is to be looked up

	mu      sync.Mutex
	route   int       // MTU of the route and its device; 0: not known, that of the underlay
	routed  time.Time // when it was looked up
	link    int       // MTU of the underlay, when it was last settled
	ceiling int       // what the underlay and the route allow
	learned learned
	probing probing
	timer   *time.Timer
	ended   bool // the SA has gone
}

// learned is a path MTU that is less than what the route allows. The zero value is none.
type learned struct {
	mtu    int
	probed bool // by ourselves; else a router said so
	at     time.Time
}

// pathTimes say how long what lasts. Times that are not positive are never.
type pathTimes struct {
	age      time.Duration // of what was learned
	interval time.Duration // of probing while all is well
	patience time.Duration // for the answer to a probe
}

// defaultPathTimes: RFC 1191 §6.3 has learned values forgotten after 10 minutes.
var defaultPathTimes = pathTimes{age: 10 * time.Minute, interval: time.Minute, patience: time.Second}

// set takes what is configured.
func (t *pathTimes) set(cfg *Config) {
	if cfg.PathMTUAge != 0 {
		t.age = cfg.PathMTUAge
	}
	if cfg.ProbeInterval != 0 {
		t.interval = cfg.ProbeInterval
	}
}

// outside is how many bytes of an SA's packets stand before ESP, whoever writes them.
func outside(a *association, inner *inet.Header) int {
	n := inet.IPv6Len
	switch {
	case a.mode == ipsec.Transport:
		n = inner.Len
	case a.sa.Dst.Is4():
		n = inet.IPv4Len
	}
	if a.encap.Load() != nil {
		n += udpLen
	}
	return n
}

// longestInner is the longest packet with the header inner that an SA carries in outer packets of at
// most mtu bytes; less than inner.Len if there is none.
func longestInner(a *association, inner *inet.Header, mtu int) int {
	n := a.out.MaxPayload(mtu - outside(a, inner))
	if a.mode == ipsec.Transport {
		n += inner.Len
	}
	return n
}

// settle sets what packets need to know. path.mu is held.
func (a *association) settle(link int) {
	p := &a.path
	p.link, p.ceiling = link, link
	if p.route != 0 {
		p.ceiling = min(p.ceiling, p.route)
	}
	mtu := p.ceiling
	if p.learned.mtu != 0 {
		mtu = min(mtu, p.learned.mtu)
	}
	if old := int(a.pmtu.value.Swap(uint32(mtu))); old != mtu {
		p.probing.stop()
	}
	look := mtu
	if p.probing.counting {
		look = min(mtu, large(mtu, minPathMTU(a.sa.Dst)))
	}
	a.pmtu.look.Store(uint32(look))
}

// closerLook is the path MTU of an SA, for packets longer than pmtu.look: the first one of all makes the
// keeper look up the route, and large ones are counted until it is to probe.
func (d *Device) closerLook(a *association, packets int) int {
	if mtu := a.pmtu.value.Load(); mtu != 0 && mtu == a.pmtu.look.Load() {
		return int(mtu)
	}
	p := &a.path
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case a.pmtu.value.Load() == 0:
		p.probing.counting = d.paths.times.interval > 0
		p.stale.Store(true)
		d.keeper.ask(&p.errand)
	case p.probing.counting && p.probing.count(packets):
		p.stale.Store(true)
		d.keeper.ask(&p.errand)
	}
	a.settle(int(d.link.mtu.Load()))
	return int(a.pmtu.value.Load())
}

// followLink has all SAs go by another MTU of the underlay.
func (d *Device) followLink() {
	for _, a := range d.sad.list() {
		if a.pmtu.value.Load() == 0 {
			continue // it begins with the first packet
		}
		a.path.mu.Lock()
		a.settle(int(d.link.mtu.Load()))
		a.path.mu.Unlock()
	}
}

// lower makes mtu the path MTU on the word of a router, if it is less than the present one. It reports
// false for what no path has.
func (d *Device) lower(a *association, mtu int, from netip.Addr) bool {
	if mtu < minPathMTU(a.sa.Dst) {
		return false
	}
	p := &a.path
	p.mu.Lock()
	if p.ended || mtu >= int(a.pmtu.value.Load()) {
		p.mu.Unlock()
		return true
	}
	p.learned = learned{mtu: mtu, at: time.Now()}
	a.settle(int(d.link.mtu.Load()))
	p.mu.Unlock()
	d.tellMTU(a, mtu, "router "+from.String()+" says so")
	d.keeper.ask(&p.errand)
	return true
}

// inherit takes over what an SA between the same ends, which this one is to follow, knows of the path.
func (a *association) inherit(before *association) {
	before.path.mu.Lock()
	known := before.path.learned
	before.path.mu.Unlock()
	a.path.learned = known
}

// forsake ends the tending.
func (p *path) forsake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if p.timer != nil {
		p.timer.Stop()
	}
}

// routeRest is how long a route is not looked up again, however many packets the kernel refuses: those
// that follow will ask again.
const routeRest = time.Second

// tendPath does what is due on an SA's path: the keeper's.
func (d *Device) tendPath(a *association) {
	p, now := &a.path, time.Now()
	if p.stale.Swap(false) && now.Sub(p.routed) >= routeRest {
		route := d.routeMTU(a.sa.Dst)
		p.mu.Lock()
		p.route, p.routed = route, now
		p.mu.Unlock()
	}
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	was := int(a.pmtu.value.Load())
	why := a.age(now, &d.paths.times)
	a.settle(int(d.link.mtu.Load()))
	if why == "" {
		why = "the route says so"
	}
	probes, found := a.probe(now, &d.paths.times)
	if found != 0 {
		why = "probing found it"
	}
	a.settle(int(d.link.mtu.Load()))
	is := int(a.pmtu.value.Load())
	p.mu.Unlock()

	if was != 0 && is != was {
		d.tellMTU(a, is, why)
	}
	for _, size := range probes {
		if d.paths.prober == nil || !d.paths.prober.send(a, size, now) {
			p.mu.Lock()
			p.probing.rest(now, &d.paths.times)
			p.mu.Unlock()
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.timer = d.keeper.askAt(&p.errand, p.timer, a.nextLook(&d.paths.times))
	}
}

// age forgets what a router said long ago: it will say so again. What was probed stays until a longer
// probe is answered, as in silence packets would be lost until the next one.
func (a *association) age(now time.Time, times *pathTimes) (why string) {
	l := &a.path.learned
	if l.mtu == 0 || l.probed || times.age <= 0 || !reached(l.at, times.age, now) {
		return ""
	}
	*l = learned{}
	return "what a router said has aged"
}

// nextLook is when the keeper has to look again, the zero time if packets will tell. path.mu is held.
func (a *association) nextLook(times *pathTimes) time.Time {
	p := &a.path
	var aged time.Time
	if p.learned.mtu != 0 && !p.learned.probed && times.age > 0 {
		aged = p.learned.at.Add(times.age)
	}
	return earliest(p.probing.next, aged)
}

// routeMTU is the MTU of the route to dst as it was set, and of the devices it leads out by; 0 if it
// is not known. What the kernel itself believes of the path does not count: anyone may feed it.
func (d *Device) routeMTU(dst netip.Addr) (mtu int) {
	if d.nl == nil {
		return 0
	}
	options := d.steering.routeOptions()
	options.FIBMatch = true
	routes, err := d.nl.RouteGetWithOptions(dst.AsSlice(), options)
	if err != nil || len(routes) == 0 {
		return 0
	}
	r := &routes[0]
	mtu = r.MTU
	out := []int{r.LinkIndex}
	for _, hop := range r.MultiPath {
		out = append(out, hop.LinkIndex)
	}
	out = slices.DeleteFunc(out, func(index int) bool { return index == 0 || int64(index) == d.link.index.Load() })
	for _, index := range out {
		if link, err := d.nl.LinkByIndex(index); err == nil && (mtu == 0 || link.Attrs().MTU < mtu) {
			mtu = link.Attrs().MTU
		}
	}
	return mtu
}

// tellMTU says what the path MTU of an SA is now, and why.
func (d *Device) tellMTU(a *association, mtu int, why string) {
	if d.paths.news.take(time.Now()) {
		d.log.Info("path MTU of SA has changed", "spi", a.sa.SPI, "src", a.sa.Src, "dst", a.sa.Dst, "mtu", mtu, "why", why)
	}
}
