package tunnels

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"espalier/test/bench/device/hosts"
	"espalier/test/bench/device/traffic"
	"espalier/test/bench/report"
	"espalier/test/bench/sequence"
	"espalier/test/lab"
)

const (
	roundTime = 20 // seconds of traffic, with rotations or without
	perSecond = 10000
	datagram  = 200 // bytes
	grace     = 500 * time.Millisecond
)

// loaded is two hosts with traffic between them.
type loaded struct {
	*site
	pair *hosts.Pair
	rate float64   // of TCP, in bits a second
	took []float64 // each rotation, in seconds
}

// sum is what came of the traffic of several rounds.
type sum struct {
	seconds     float64
	sent, lost  int    // datagrams
	unread      uint64 // of those lost: what came, and waited too long for the program that received
	bits        float64
	retransmits int // segments sent again
}

// findings are what came of all.
type findings struct {
	control, load sum
	witness       sequence.Testimony
	drops         map[string]uint64 // of both devices, by reason
	cable         uint64            // packets that the cable lost
	took          []float64
}

// underLoad rotates the keys of a tunnel again and again while traffic runs, in rounds between rounds
// without rotation.
func underLoad(ctx context.Context, s *stage, rotations int) ([]report.Result, error) {
	progress("setting up two hosts")
	pair, err := hosts.New(s.dir)
	if err != nil {
		return nil, err
	}
	s.Cleanup(func() { pair.Close() })
	for _, h := range pair.Hosts() {
		if _, err := s.startDevice(ctx, h); err != nil {
			return nil, err
		}
	}
	l := &loaded{site: s.newSite(pair.A), pair: pair}
	l.serve(pair.B, "db2", lab.B4)
	err = os.WriteFile(l.file, fmt.Appendf(nil, "tunnels:\n  - name: db\n    hosts: [{address: %s, dev: %s}, {address: %s, dev: %[2]s, ssh: root@db2}]\n",
		lab.A4, hosts.Device, lab.B4), 0o644)
	if err != nil {
		return nil, err
	}
	var w *sequence.Witness
	if err := pair.B.Do(func() (err error) { w, err = sequence.Watch(hosts.Device); return err }); err != nil {
		return nil, err
	}
	f, err := l.rounds(ctx, rotations, w)
	seen, stopErr := w.Stop()
	f.witness = seen
	if err = errors.Join(err, stopErr); err == nil && seen.Seen == 0 {
		err = errors.New("the witness has seen no ESP")
	}
	if err != nil {
		return nil, err
	}
	return f.results(rotations), nil
}

func (l *loaded) rounds(ctx context.Context, rotations int, w *sequence.Witness) (f findings, err error) {
	if _, err := l.run(ctx, "apply"); err != nil {
		return f, err
	}
	capacity, err := traffic.TCP(ctx, l.pair.A, l.pair.B, lab.B4, 5, 1, false)
	if err != nil {
		return f, err
	}
	l.rate = capacity.Rate / 2
	progress("TCP at %.2f Gb/s, half of what it can", l.rate/1e9)
	dropsBefore, cableBefore, err := l.losses(ctx)
	if err != nil {
		return f, err
	}
	for len(l.took) < rotations {
		if err := l.round(ctx, &f.control, 0); err != nil {
			return f, err
		}
		if err := l.round(ctx, &f.load, rotations); err != nil {
			return f, err
		}
		seen := w.SoFar()
		progress("%d rotations; UDP lost %d of %d (%d unread), without %d of %d (%d unread); %d ESP packets under %d SPIs, %d missing",
			len(l.took), f.load.lost, f.load.sent, f.load.unread, f.control.lost, f.control.sent, f.control.unread, seen.Seen, seen.SPIs, seen.Missing)
	}
	drops, cable, err := l.losses(ctx)
	f.drops, f.cable, f.took = map[string]uint64{}, cable-cableBefore, l.took
	for reason, n := range drops {
		if n > dropsBefore[reason] {
			f.drops[reason] = n - dropsBefore[reason]
		}
	}
	return f, err
}

// round has traffic for a while, and rotates meanwhile until there were so many rotations.
func (l *loaded) round(ctx context.Context, into *sum, rotations int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		stream    traffic.Stream
		datagrams traffic.Datagrams
		err       error
	}
	over := make(chan outcome, 2)
	unread, err := l.unread()
	if err != nil {
		return err
	}
	begun := time.Now()
	go func() {
		var o outcome
		o.stream, o.err = traffic.TCPAt(ctx, l.pair.A, l.pair.B, lab.B4, roundTime, l.rate)
		over <- o
	}()
	go func() {
		var o outcome
		o.datagrams, o.err = traffic.UDPAt(ctx, l.pair.A, l.pair.B, lab.B4, roundTime, datagram, perSecond)
		over <- o
	}()
	var errs []error
	longest := 0.0
	time.Sleep(time.Second) // traffic runs
	for len(l.took) < rotations && len(errs) == 0 && time.Since(begun).Seconds()+max(longest, 1.5*grace.Seconds()) < roundTime {
		c, err := l.run(ctx, "rotate", "--grace", grace.String())
		l.took = append(l.took, c.seconds)
		longest = max(longest, c.seconds)
		if err != nil {
			errs = append(errs, err)
			cancel()
		}
	}
	for range 2 {
		o := <-over
		errs = append(errs, o.err)
		if o.datagrams.Sent > 0 {
			into.sent, into.lost = into.sent+o.datagrams.Sent, into.lost+o.datagrams.Lost
			continue
		}
		into.bits += o.stream.Rate * roundTime
		into.seconds += roundTime
		for _, n := range o.stream.Retransmits {
			into.retransmits += n
		}
	}
	now, err := l.unread()
	into.unread += now - unread
	return errors.Join(append(errs, err)...)
}

// unread is how many datagrams the receiving host has thrown away because a socket's buffer was full.
func (l *loaded) unread() (n uint64, err error) {
	err = l.pair.B.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err == nil {
			n, err = rcvbufErrors(string(text))
		}
		return err
	})
	return n, err
}

// rcvbufErrors reads UDP's RcvbufErrors: a line of names, and one of values.
func rcvbufErrors(snmp string) (uint64, error) {
	var names []string
	for line := range strings.Lines(snmp) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = fields
			continue
		}
		if i := slices.Index(names, "RcvbufErrors"); i >= 0 && i < len(fields) {
			return strconv.ParseUint(fields[i], 10, 64)
		}
	}
	return 0, errors.New("the kernel does not count UDP's RcvbufErrors")
}

// losses are the drops of both devices by reason, and what the cable has lost, so far.
func (l *loaded) losses(ctx context.Context) (drops map[string]uint64, cable uint64, err error) {
	drops = make(map[string]uint64)
	for _, h := range l.pair.Hosts() {
		d, err := h.Drops(ctx)
		if err != nil {
			return nil, 0, err
		}
		for reason, n := range d {
			drops[reason] += n
		}
		err = h.Do(func() error {
			link, err := netlink.LinkByName(hosts.Device)
			if err == nil {
				cable += link.Attrs().Statistics.TxDropped
			}
			return err
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return drops, cable, nil
}
