package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"espalier/internal/netns"
	"espalier/internal/wire"
	"espalier/ipsec"
	"espalier/verdict"
)

// Options of a run. The zero value is IPv4 and IPv6, transport mode, IP protocol 50, no ESN.
type Options struct {
	Mode  ipsec.Mode
	UDP   bool  // encapsulate ESP in UDP, port 4500 (RFC 3948)
	ESN   bool  // 64-bit sequence numbers
	Bytes int64 // per TCP transfer; there are four

	Pcap string // write every packet on the cable to this file
	Keys string // write the keys to this file, as an esp_sa table of Wireshark (mode 0600)

	// Unprotected leaves SAs, policies and guard out: the control that shows that the
	// tap sees cleartext where there is some.
	Unprotected bool

	// Device is the program that is started as `Device dataplane …` on each host.
	Device string
	// Step is told what is done, as a command where there is one. It may be nil.
	Step func(format string, args ...any)
	// Hold, if not nil, is called once everything is set up and checked, and keeps the
	// hosts alive until it returns.
	Hold func(context.Context, []HostInfo) error
}

// HostInfo is what a person needs to look around on a host of the demo.
type HostInfo struct {
	Name   string `json:"name"`
	PID    int    `json:"pid"` // a process in the host's network namespace
	Socket string `json:"socket"`
}

const device = "p4p1"

// The addresses are those of the vendor's example, and an IPv6 pair.
var families = []family{
	{name: "IPv4", a: netip.MustParseAddr("192.168.1.64"), b: netip.MustParseAddr("192.168.1.65"), bits: 24},
	{name: "IPv6", a: netip.MustParseAddr("fd00:192:168:1::64"), b: netip.MustParseAddr("fd00:192:168:1::65"), bits: 64},
}

type family struct {
	name string
	a, b netip.Addr
	bits int
}

// Run makes the hosts, protects the traffic between them, sends some and judges what was
// seen. The report is complete only if err is nil; Report.OK tells whether all held.
func Run(ctx context.Context, opt Options) (report *Report, err error) {
	if opt.Step == nil {
		opt.Step = func(string, ...any) {}
	}
	r := &run{Options: opt}
	defer func() { err = errors.Join(err, r.cleanUp()) }()
	for _, step := range []func(context.Context) error{
		r.openFiles, r.makeHosts, r.startDevices, r.program, r.watch, r.ping, r.transfer, r.hold, r.judge,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return &r.report, nil
}

// run is one demonstration under way.
type run struct {
	Options
	dir     string // for the sockets
	a, b    *host
	sas     []ipsec.SA // from the sender's point of view
	before  map[string]ipsec.Counters
	watcher *wire.Watcher
	files   files
	report  Report
}

func (r *run) hosts() []*host { return []*host{r.a, r.b} }

func (r *run) openFiles(context.Context) error { return r.files.open(r.Keys, r.Pcap) }

func (r *run) makeHosts(context.Context) (err error) {
	if r.dir, err = os.MkdirTemp("", "espalier-demo-"); err != nil {
		return err
	}
	for _, h := range []struct {
		at   **host
		name string
	}{{&r.a, "A"}, {&r.b, "B"}} {
		ns, err := netns.New()
		if err != nil {
			return fmt.Errorf("host %s: %w", h.name, err)
		}
		*h.at = &host{name: h.name, ns: ns}
	}
	enda, endb := netns.End{NS: r.a.ns, Name: device}, netns.End{NS: r.b.ns, Name: device}
	for _, f := range families {
		enda.Addresses = append(enda.Addresses, netip.PrefixFrom(f.a, f.bits))
		endb.Addresses = append(endb.Addresses, netip.PrefixFrom(f.b, f.bits))
	}
	r.Step("two hosts, A (%s, %s) and B (%s, %s), joined by a cable %s–%s",
		families[0].a, families[1].a, families[0].b, families[1].b, device, device)
	if err := netns.Cable(enda, endb); err != nil {
		return err
	}
	for _, h := range r.hosts() {
		if err := h.ns.Do(splitOnTheWire); err != nil {
			return fmt.Errorf("host %s: %w", h.name, err)
		}
	}
	return nil
}

func (r *run) startDevices(ctx context.Context) error {
	if r.Unprotected {
		return nil
	}
	for _, h := range r.hosts() {
		r.Step("%s: espalier dataplane --dev %s", h.name, device)
		if err := h.startDevice(ctx, r.Device, r.dir); err != nil {
			return fmt.Errorf("host %s: %w", h.name, err)
		}
	}
	return nil
}

func (r *run) ping(ctx context.Context) error {
	const count = 3
	for _, f := range families {
		for _, d := range r.directions(f) {
			r.Step("%s: ping -c %d %s", d.from.name, count, d.dst)
			rtt, err := ping(ctx, d, count)
			if err != nil {
				return fmt.Errorf("ping from %s to %s: %w", d.from.name, d.dst, err)
			}
			r.report.Pings = append(r.report.Pings, Ping{From: d.src, To: d.dst, Count: count, MedianRTT: rtt})
		}
	}
	return nil
}

func (r *run) transfer(ctx context.Context) error {
	for _, f := range families {
		for _, d := range r.directions(f) {
			r.Step("%s: send %s by TCP to %s", d.from.name, byteCount(r.Bytes), d.dst)
			start := time.Now()
			if err := transfer(ctx, d, r.Bytes); err != nil {
				return fmt.Errorf("TCP from %s to %s: %w", d.from.name, d.dst, err)
			}
			took := time.Since(start)
			r.report.Transfers = append(r.report.Transfers, Transfer{
				From: d.src, To: d.dst, Bytes: r.Bytes, Seconds: took.Seconds(), GbitPerSecond: float64(r.Bytes) * 8 / 1e9 / took.Seconds(),
			})
		}
	}
	return nil
}

// direction of traffic between the hosts.
type direction struct {
	from, to *host
	src, dst netip.Addr
}

func (r *run) directions(f family) []direction {
	return []direction{{r.a, r.b, f.a, f.b}, {r.b, r.a, f.b, f.a}}
}

func (r *run) hold(ctx context.Context) error {
	if r.Hold == nil {
		return nil
	}
	var info []HostInfo
	for _, h := range r.hosts() {
		info = append(info, h.info())
	}
	return r.Hold(ctx, info)
}

// judge reads everything back and fills in the report.
func (r *run) judge(ctx context.Context) error {
	counts, err := r.stopWatching()
	if err != nil {
		return err
	}
	r.report.Wire = counts
	if !r.Unprotected {
		if err := r.readBack(ctx); err != nil {
			return err
		}
	}
	r.report.conclude()
	return nil
}

// readBack asks each host for its SAs and drops, and judges each SA.
func (r *run) readBack(ctx context.Context) error {
	for _, h := range r.hosts() {
		for sa, err := range h.db.SAs(ctx) {
			if err != nil {
				return fmt.Errorf("host %s: read the SAs back: %w", h.name, err)
			}
			before := r.before[h.name+sa.ID().String()]
			j := verdict.Judge(verdict.Evidence{Engine: verdict.Userspace, SAs: []verdict.SA{verdict.SAOf(&sa, &before)}})[0]
			r.report.SAs = append(r.report.SAs, newSAReport(h.name, &sa, j.Verdict, j.Why))
		}
	}
	return nil
}

func (r *run) cleanUp() error {
	var errs []error
	if r.watcher != nil {
		_, err := r.stopWatching()
		errs = append(errs, err)
	}
	errs = append(errs, r.files.close())
	// Both devices first: a namespace takes the cable with it, which a device notices.
	for _, end := range []func(*host) error{(*host).stop, (*host).close} {
		for _, h := range r.hosts() {
			if h != nil {
				errs = append(errs, end(h))
			}
		}
	}
	if r.dir != "" {
		errs = append(errs, os.RemoveAll(r.dir))
	}
	return errors.Join(errs...)
}
