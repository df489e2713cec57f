package accept

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"espalier/remote"
	"espalier/verdict"
)

// sad are the options by which espalier xfrm and status find the SAD that was programmed.
func (h *Host) sad() []string {
	if h.engine == "" {
		return nil
	}
	return []string{"--sad", h.engine}
}

// plainTraffic is the measure for what comes later, and shows that the addresses reach each other.
func (r *run) plainTraffic(ctx context.Context, s *StepReport) error {
	return r.transferBoth(ctx, s, nil)
}

// install adds SAs, those for receiving first, and then policies.
func (r *run) install(ctx context.Context, s *StepReport) error {
	if err := r.addGeneration(ctx, s); err != nil {
		return err
	}
	for _, h := range r.hosts() {
		add, remove := policies(h, r.peer(h), r.reqid)
		if _, err := r.hold(ctx, h, "policies", add, remove); err != nil {
			return err
		}
	}
	s.fact("policies out and in on both hosts")
	return nil
}

// addGeneration adds SAs with fresh keys on both hosts.
func (r *run) addGeneration(ctx context.Context, s *StepReport) error {
	g := newGeneration(r.A, r.B)
	r.newest = g
	for _, receives := range []bool{true, false} {
		for _, h := range r.hosts() {
			x, dir := g.of(h, receives), "out"
			if receives {
				dir = "in"
			}
			l, err := r.hold(ctx, h, fmt.Sprintf("SA %#08x %s", x.spi, dir), x.add(h, r.reqid), x.delete())
			if err != nil {
				return err
			}
			h.engine = l.batch.SAD
			s.fact("host %s: SA %#08x %s: %s", h.label, x.spi, dir, strings.Join(l.batch.Offload, "; "))
			for _, w := range l.batch.Warned {
				s.fact("host %s: %s", h.label, w)
			}
		}
	}
	return nil
}

// hold remembers what is held, for releaseAll.
func (r *run) hold(ctx context.Context, h *Host, what, add, remove string) (*lease, error) {
	l, err := h.hold(ctx, what, add, remove)
	if err == nil {
		r.leases = append(r.leases, l)
	}
	return l, err
}

// releaseAll takes back what is held, the last first: policies before the SAs they need.
func (r *run) releaseAll() error {
	var errs []error
	for len(r.leases) > 0 {
		last := len(r.leases) - 1
		errs = append(errs, r.release(r.leases[last]))
	}
	return errors.Join(errs...)
}

// traffic goes both ways at once, and both hosts say who encrypts it.
func (r *run) traffic(ctx context.Context, s *StepReport) error {
	return r.judged(ctx, s)
}

// rekey replaces the SAs while packets flow: receiving ones, sending ones, and the old ones go. Then
// the new ones have to carry traffic.
func (r *run) rekey(ctx context.Context, s *StepReport) error {
	old := slices.Clone(r.leases)
	err := r.transferBoth(ctx, s, func(ctx context.Context, goesOn func() bool) error {
		if err := r.addGeneration(ctx, s); err != nil {
			return err
		}
		if err := sleep(ctx, r.Duration/4); err != nil { // what is under way still comes by the old ones
			return err
		}
		for _, l := range old {
			if !strings.HasPrefix(l.what, "SA ") {
				continue
			}
			if err := r.release(l); err != nil {
				return err
			}
		}
		if !goesOn() {
			return errors.New("this took longer than the traffic: make it last longer with --duration")
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.judged(ctx, s)
}

// release takes one thing back.
func (r *run) release(l *lease) error {
	r.leases = slices.DeleteFunc(r.leases, func(other *lease) bool { return other == l })
	err := l.release()
	if l.problem != "" {
		r.problems = append(r.problems, fmt.Errorf("host %s: take back %s: %s", l.host.label, l.what, l.problem))
	}
	return err
}

// keepsUp says why the host's device is not taken down; "" if it is.
func (r *run) keepsUp(h *Host) string {
	switch {
	case r.KeepLinks:
		return "links are to be left alone"
	case h.link.Management && !r.AllowLinkDown:
		return "the connection to this host comes in by it (--allow-link-down takes it down all the same)"
	}
	return ""
}

// flapLinks takes the device of one host after the other down and up. A kernel silently drops the
// SAs that were offloaded to it; fresh ones then have to carry traffic.
func (r *run) flapLinks(ctx context.Context, s *StepReport) error {
	done := false
	for _, h := range r.hosts() {
		if why := r.keepsUp(h); why != "" {
			s.fact("host %s: %s stays up: %s", h.label, h.Device, why)
			continue
		}
		done = true
		question := flapQuestion{Device: h.Device, For: r.DownFor, Session: r.session(h), Anyway: r.AllowLinkDown}
		answer, err := remote.Call[flapAnswer](ctx, h.Conn, "accept-flap", question, nil)
		if err != nil {
			return err
		}
		if len(answer.Restored) > 0 {
			s.fact("host %s: put back what went with the link: %s", h.label, strings.Join(answer.Restored, ", "))
		}
		var states struct {
			States []struct{ Src, Dst string } `json:"states"`
		}
		if err := h.xfrm(ctx, "state", &states); err != nil {
			return err
		}
		left := 0
		for _, x := range states.States {
			if r.between(x.Src, x.Dst) {
				left++
			}
		}
		s.fact("host %s: %d of 2 SAs are left after the link was down", h.label, left)
	}
	if !done {
		s.Result = Skipped
		return nil
	}
	if err := r.releaseAll(); err != nil {
		return err
	}
	if err := r.install(ctx, s); err != nil {
		return err
	}
	return r.judged(ctx, s)
}

// watches is for how much longer hosts watch each time when it was too short to tell, and enoughWatch when they
// leave it at that.
const watches, enoughWatch = 4, 5 * time.Second

// judged sends both ways at once while both hosts watch who encrypts. Our own traffic goes on for as long as
// that takes.
func (r *run) judged(ctx context.Context, s *StepReport) error {
	return r.transferBoth(ctx, s, func(ctx context.Context, _ func() bool) error {
		if err := sleep(ctx, r.Duration/5); err != nil {
			return err
		}
		var all sync.WaitGroup
		errs := make([]error, 2)
		results := make([]Judged, 2)
		for i, h := range r.hosts() {
			all.Go(func() {
				for watch := r.Duration / 2; ; watch *= watches {
					var coarse bool
					results[i], coarse, errs[i] = r.status(ctx, h, watch)
					if errs[i] != nil || !coarse || r.tool != "" || watch >= enoughWatch {
						return
					}
				}
			})
		}
		all.Wait()
		s.Verdicts = append(s.Verdicts, results...)
		for _, j := range results {
			for _, sa := range j.SAs {
				s.fact("host %s: SA %s %s: %s: %s", j.Host, sa.SPI, sa.Direction, sa.Verdict, sa.Why)
			}
			for _, d := range j.Drops {
				s.fact("host %s: dropped meanwhile: %s", j.Host, d)
			}
		}
		return errors.Join(errs...)
	})
}

// status asks a host who encrypts the SAs of this run. coarse: a longer interval may tell more.
func (r *run) status(ctx context.Context, h *Host, interval time.Duration) (j Judged, coarse bool, err error) {
	j.Host = h.label
	answer, err := h.Conn.Run(ctx, "status", append(h.sad(), "--interval", interval.String(), "-o", "json"), nil, nil)
	if err != nil {
		return j, false, err
	}
	type saView struct {
		Direction, SPI, Verdict, Why string
		Reason                       verdict.Reason
		Unchecked                    []string
	}
	var view struct {
		Pairs []struct {
			Out, In *saView
		}
		Drops []struct {
			Reason, Counter string
			Moved           uint64 `json:"in_interval"`
		}
	}
	if err := json.Unmarshal(answer.Stdout, &view); err != nil || answer.Code != 0 {
		return j, false, fmt.Errorf("host %s: status ended with %d: %s", h.label, answer.Code, strings.TrimSpace(answer.Stderr))
	}
	for _, p := range view.Pairs {
		for _, v := range []*saView{p.Out, p.In} {
			if v == nil || !r.ours(v.SPI) {
				continue
			}
			coarse = coarse || v.Reason == verdict.Coarse
			j.SAs = append(j.SAs, JudgedSA{SPI: v.SPI, Direction: v.Direction, Verdict: v.Verdict, Why: v.Why, Unchecked: v.Unchecked})
		}
	}
	for _, d := range view.Drops {
		if d.Moved > 0 {
			j.Drops = append(j.Drops, fmt.Sprintf("%d %s %s", d.Moved, d.Reason, d.Counter))
		}
	}
	if len(j.SAs) != 2 {
		return j, false, fmt.Errorf("host %s: status tells of %d SAs of this run, not of 2", h.label, len(j.SAs))
	}
	for _, sa := range j.SAs {
		if sa.Verdict == "IDLE" {
			return j, false, fmt.Errorf("host %s: SA %s (%s) carries nothing while traffic flows", h.label, sa.SPI, sa.Direction)
		}
	}
	return j, coarse, nil
}

// ours reports whether an SPI is of the newest SAs.
func (r *run) ours(text string) bool {
	spi, err := strconv.ParseUint(text, 0, 32)
	return err == nil && slices.ContainsFunc(r.newest.sas[:], func(x sa) bool { return x.spi == uint32(spi) })
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
