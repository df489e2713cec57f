package soak

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"

	"espalier/test/bench/device/hosts"
	"espalier/test/bench/device/traffic"
	"espalier/test/lab"
)

// load has traffic without rekeying, then with.
func (s *soak) load(ctx context.Context, udp bool) (f findings, err error) {
	if err := s.tunnel.rekey(ctx); err != nil {
		return f, err
	}
	if err := s.tunnel.ProgramPolicies(ctx, lab.Pair{UDP: udp, Reqid: reqid}); err != nil {
		return f, err
	}
	dropsBefore, lostBefore, err := s.losses(ctx)
	if err != nil {
		return f, err
	}
	progress("%s: %s without rekeying", s.name, s.length/2)
	if f.control, err = s.stream(ctx, s.length/2); err != nil {
		return f, err
	}
	progress("%s: %s with rekeying every %s", s.name, s.length, s.every)
	if f.load, err = s.whileRekeying(ctx, &f); err != nil {
		return f, err
	}
	drops, lost, err := s.losses(ctx)
	f.cable = lost - lostBefore
	f.drops = make(map[string]uint64)
	for reason, n := range drops {
		if n > dropsBefore[reason] {
			f.drops[reason] = n - dropsBefore[reason]
		}
	}
	return f, err
}

func (s *soak) stream(ctx context.Context, length time.Duration) (traffic.Stream, error) {
	return traffic.TCP(ctx, s.tunnel.A, s.tunnel.B, lab.B4, int(length.Seconds()), 1, false)
}

// whileRekeying is the load. What is done meanwhile is done by one goroutine: rekeying, and a look at
// the memory every second. An error of either ends both. The last SAs still have time to be used.
func (s *soak) whileRekeying(ctx context.Context, f *findings) (traffic.Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type outcome struct {
		stream traffic.Stream
		err    error
	}
	streamed := make(chan outcome, 1)
	go func() {
		stream, err := s.stream(ctx, s.length)
		streamed <- outcome{stream, err}
	}()
	rekeyed := make(chan error, 1)
	begun := time.Now()
	second := time.NewTicker(time.Second)
	defer second.Stop()
	rekeyings, busy := 0, false
	nextRekey, nextWord := s.every, interval
	for {
		select {
		case end := <-streamed:
			if busy {
				end.err = errors.Join(end.err, <-rekeyed)
			}
			return end.stream, end.err
		case err := <-rekeyed:
			rekeyings, busy = rekeyings+1, false
			if err != nil {
				cancel()
				return traffic.Stream{}, errors.Join(err, (<-streamed).err)
			}
		case <-second.C:
			past := time.Since(begun)
			if past >= nextRekey && !busy && nextRekey+2*s.tunnel.grace <= s.length {
				nextRekey, busy = nextRekey+s.every, true
				go func() { rekeyed <- s.tunnel.rekey(ctx) }()
			}
			for i, d := range s.devices {
				n, err := hosts.Memory(d.PID)
				if err != nil {
					cancel()
					return traffic.Stream{}, errors.Join(err, d.Alive(), (<-streamed).err)
				}
				f.memory[i] = append(f.memory[i], n)
			}
			if past >= nextWord {
				nextWord += interval
				s.tell(past, rekeyings, f)
			}
		}
	}
}

// losses are the drops of both devices by reason, and what the cable has lost, so far.
func (s *soak) losses(ctx context.Context) (drops map[string]uint64, cable uint64, err error) {
	drops = make(map[string]uint64)
	for _, h := range s.tunnel.Hosts() {
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

// tell says how it goes.
func (s *soak) tell(past time.Duration, rekeyings int, f *findings) {
	seen := s.witness.SoFar()
	last := func(m []uint64) float64 { return float64(m[len(m)-1]) / hosts.MiB }
	progress("%s: %s of %s: %d rekeyings; %d packets under %d SPIs, %d missing, %d out of order; %.1f and %.1f MiB",
		s.name, past.Round(time.Second), s.length, rekeyings,
		seen.Seen, seen.SPIs, seen.Missing, seen.Late+seen.Again, last(f.memory[0]), last(f.memory[1]))
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench soak: "+format+"\n", args...)
}
