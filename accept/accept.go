package accept

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"espalier/probe"
	"espalier/remote"
)

// Host is one of the two.
type Host struct {
	Conn *remote.Conn
	// Device and Address are those to try; zero values are found.
	Device  string
	Address netip.Addr

	engine string // the SAD that took the SAs: kernel, unix:PATH; "" until then
	label  string // A or B: the only name in the report
	links  []Link
	link   Link // that of Device
	doctor probe.Report
}

// Options of a run.
type Options struct {
	A, B *Host
	// Duration of each transfer; 0 is 5 s.
	Duration time.Duration
	// Pace is how fast our own traffic goes each way at most, in bytes a second; 0 is as fast as it can.
	Pace int
	// DownFor is how long a link stays down; 0 is 2 s.
	DownFor time.Duration
	// Port is where TCP connections go; 0 is any.
	Port uint16
	// OwnTraffic sends TCP itself even if both hosts have iperf3.
	OwnTraffic bool
	// KeepLinks leaves the links up. AllowLinkDown takes one down even if the connection to its host
	// comes in by it.
	KeepLinks, AllowLinkDown bool
	// Confirm is asked once, with what is going to be done, before anything is changed.
	Confirm func(what string) error
	// Step is told what is done. It may be nil.
	Step func(format string, args ...any)
}

// step is one thing that is tried. undo takes back what do has changed, as far as it got; nil if it
// changes nothing, or nothing stays.
type step struct {
	name string
	do   func(context.Context, *StepReport) error
	undo func() error
}

// run is one acceptance under way.
type run struct {
	Options
	reqid    uint32
	tool     string   // that measures, on both hosts: iperf3; "" is our own
	leases   []*lease // what is held now, in the order it was added
	newest   *generation
	problems []error // of taking things back
	report   Report
}

func (r *run) hosts() []*Host { return []*Host{r.A, r.B} }

func (r *run) peer(h *Host) *Host {
	if h == r.A {
		return r.B
	}
	return r.A
}

// Run goes through all steps. What goes wrong ends it, is taken back, and stands in the report; err
// says that there is nothing to report on, because a person said no or the hosts do not fit.
func Run(ctx context.Context, opt Options) (*Report, error) {
	if opt.Step == nil {
		opt.Step = func(string, ...any) {}
	}
	if opt.Duration <= 0 {
		opt.Duration = 5 * time.Second
	}
	if opt.DownFor <= 0 {
		opt.DownFor = 2 * time.Second
	}
	r := &run{Options: opt, reqid: 0x65000000 | rand.Uint32N(1<<24)}
	r.A.label, r.B.label = "A", "B"
	r.report.Schema, r.report.Started = Schema, time.Now()
	if err := r.look(ctx); err != nil {
		return nil, err
	}
	if r.report.Traffic = r.tool; r.tool == "" {
		r.report.Traffic = "espalier"
	}
	if err := opt.Confirm(r.plan()); err != nil {
		return nil, err
	}
	r.carryOut(ctx, []step{
		{"nothing is in the way", r.nothingThere, nil},
		{"traffic without ESP", r.plainTraffic, nil},
		{"SAs and policies", r.install, r.releaseAll},
		{"traffic, and who encrypts it", r.traffic, nil},
		{"new keys under traffic", r.rekey, nil},
		{"links down and up", r.flapLinks, nil},
	})
	r.report.conclude(r.hosts())
	return &r.report, nil
}

// carryOut does the steps until one fails, takes back what they did, and looks if all has gone.
func (r *run) carryOut(ctx context.Context, steps []step) {
	var undo []func() error
	for _, s := range steps {
		if s.undo != nil {
			undo = append(undo, s.undo)
		}
		if !r.perform(ctx, s) {
			break
		}
	}
	r.perform(context.WithoutCancel(ctx), step{name: "everything is taken back", do: func(ctx context.Context, s *StepReport) error {
		var errs []error
		for i := len(undo) - 1; i >= 0; i-- {
			errs = append(errs, undo[i]())
		}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		left := r.nothingThere(ctx, s)
		if left != nil {
			errs = append(errs, r.problems...)
		}
		return errors.Join(append(errs, left)...)
	}})
}

func (r *run) perform(ctx context.Context, s step) bool {
	r.Step("%s", s.name)
	report := StepReport{Name: s.name, mu: new(sync.Mutex)}
	start := time.Now()
	err := s.do(ctx, &report)
	report.Seconds = time.Since(start).Seconds()
	switch {
	case err != nil && ctx.Err() != nil:
		report.Result, report.Error = Failed, "interrupted"
	case err != nil:
		report.Result, report.Error = Failed, err.Error()
	case report.Result == "":
		report.Result = Passed
	}
	for _, fact := range report.Facts {
		r.Step("  %s", fact)
	}
	if report.Error != "" {
		r.Step("  %s: %s", report.Result, report.Error)
	}
	r.report.Steps = append(r.report.Steps, report)
	return err == nil
}

// plan is what a person is asked about.
func (r *run) plan() string {
	text := fmt.Sprintf(`Host A is %s: %s on %s
Host B is %s: %s on %s

All traffic between these two addresses is put into ESP for about %s, and may stop for moments.
SAs get fresh keys; nothing that is there now is touched, and everything is taken back.
`, r.A.Conn.Host(), r.A.Address, r.A.Device, r.B.Conn.Host(), r.B.Address, r.B.Device, (8 * r.Duration).Round(time.Second))
	for _, h := range r.hosts() {
		if why := r.keepsUp(h); why != "" {
			text += fmt.Sprintf("%s on host %s stays up: %s.\n", h.Device, h.label, why)
		} else {
			text += fmt.Sprintf("%s on host %s GOES DOWN for %s and comes up again: all its traffic stops meanwhile.\n", h.Device, h.label, r.DownFor)
		}
	}
	return text
}
