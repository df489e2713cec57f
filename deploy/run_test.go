package deploy

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"espalier/config"
	"espalier/deploy/steps"
	"espalier/remote"
	"espalier/tunnel"
)

// order is that of a change, with what is between the steps of the coordinator.
var order = map[steps.Kind][]string{
	steps.Apply: {
		steps.Begin, steps.Inbound, steps.Outbound, steps.Policies, steps.Policies, steps.Probe, steps.Policies, steps.Guard, "fresh",
		"status", steps.Confirm, steps.Finish, steps.Forget,
	},
	steps.Down: {steps.Begin, steps.Policies, steps.Policies, "fresh", steps.Confirm, steps.Finish, steps.Forget},
}

// inTime runs a test beside others, in a time of its own, which does not pass while something is done.
func inTime(t *testing.T, test func(*testing.T)) {
	t.Parallel()
	synctest.Test(t, test)
}

// TestOrder: no host goes on before all have done a step.
func TestOrder(t *testing.T) { inTime(t, testOrder) }

func testOrder(t *testing.T) {
	for kind, want := range order {
		fakes, hosts, plan, log := twoHosts(t, kind)
		var said []string
		opt := options(kind)
		opt.Say = func(host, done string) {
			if host == "db2" {
				said = append(said, done)
			}
		}
		report, err := Run(t.Context(), plan, hosts, opt)
		if err != nil || report.Result != Confirmed {
			t.Fatalf("%s: %v, %+v", kind, err, report)
		}
		lines := log.lines
		// Status comes with a new connection, and with status there are probes.
		last := func(line string) bool { return strings.HasSuffix(line, " fresh") || strings.HasSuffix(line, " status") }
		if from := slices.IndexFunc(lines, last); from >= 0 {
			to := from
			for to < len(lines) && (last(lines[to]) || strings.HasSuffix(lines[to], steps.Probe)) {
				to++
			}
			slices.SortStableFunc(lines[from:to], func(a, b string) int { // fresh, status, probe
				return cmp.Compare(a[strings.LastIndex(a, " "):], b[strings.LastIndex(b, " "):])
			})
		}
		at := 0
		for _, step := range want {
			for range fakes {
				for strings.HasSuffix(lines[at], steps.Probe) && step != steps.Probe {
					at++
				}
				if !strings.HasSuffix(lines[at], " "+step) {
					t.Fatalf("%s: %q where both hosts do %s:\n%s", kind, lines[at], step, strings.Join(lines, "\n"))
				}
				at++
			}
		}
		if at != len(lines) {
			t.Errorf("%s: more: %q", kind, lines[at:])
		}
		for _, f := range fakes {
			if f.stage != steps.Finished || !f.forgotten {
				t.Errorf("%s: %s is %s, forgotten %t", kind, f.name, f.stage, f.forgotten)
			}
		}
		t.Logf("%s: %s", kind, strings.Join(said, "\n"))
	}
}

// TestReport: what was read back, and the verdicts, stand beside the right SAs.
func TestReport(t *testing.T) { inTime(t, testReport) }

func testReport(t *testing.T) {
	fakes, hosts, plan, _ := twoHosts(t, steps.Apply)
	fakes[1].offload, fakes[1].verdict = "no", "SOFTWARE"
	report, err := Run(t.Context(), plan, hosts, options(steps.Apply))
	if err != nil {
		t.Fatal(err)
	}
	if len(report.SAs) != 4 {
		t.Fatalf("%+v", report.SAs)
	}
	for _, sa := range report.SAs {
		offload, judged := "crypto", "HARDWARE"
		if sa.Host == "db2" {
			offload, judged = "no", "SOFTWARE"
		}
		if sa.Offload != offload || string(sa.Verdict) != judged || sa.SPI == "0x00001000" || !sa.ESN {
			t.Errorf("%+v", sa)
		}
	}
	for i := range fakes {
		for e := range plan.Pairs[0].Ends {
			if key := plan.Pairs[0].Ends[e].Outbound[0].Key; slices.ContainsFunc(key.ExposeSecretBytes(), func(b byte) bool { return b != 0 }) {
				t.Errorf("the key of end %d is still there after the change (%d)", e, i)
			}
		}
	}
}

// TestFailure of any step before hosts were told to confirm: everything is undone.
func TestFailure(t *testing.T) { inTime(t, testFailure) }

func testFailure(t *testing.T) {
	for kind, all := range order {
		for at, step := range all[:slices.Index(all, steps.Confirm)] {
			if step == "fresh" || step == "status" {
				continue
			}
			fakes, hosts, plan, log := twoHosts(t, kind)
			n := 0
			fakes[1].before = func(operation string) error {
				if operation == steps.Undo || operation == steps.State {
					return nil
				}
				if n++; n-1 == at {
					return errors.New("no room is left")
				}
				return nil
			}
			report, err := Run(t.Context(), plan, hosts, options(kind))
			if err == nil || report.Result != RolledBack || !strings.Contains(err.Error(), "db2: no room is left") {
				t.Errorf("%s, step %d: %v", kind, at, err)
			}
			for i, f := range fakes {
				if f.stage != steps.Undone && !(step == steps.Begin && i == 1) {
					t.Errorf("%s, step %d: %s is %q\n%s", kind, at, f.name, f.stage, strings.Join(log.lines, "\n"))
				}
			}
		}
	}
}

// TestCut connections, before and after an operation was carried out, are made again.
func TestCut(t *testing.T) { inTime(t, testCut) }

func testCut(t *testing.T) {
	for kind, all := range order {
		for at, step := range all {
			if step == "fresh" {
				continue
			}
			for _, late := range []bool{false, true} {
				fakes, hosts, plan, log := twoHosts(t, kind)
				cut := false
				hook := func(operation string) error {
					if operation == step && !cut {
						cut = true
						return errCut
					}
					return nil
				}
				if late {
					fakes[0].after = hook
				} else {
					fakes[0].before = hook
				}
				report, err := Run(t.Context(), plan, hosts, options(kind))
				if err != nil || report.Result != Confirmed || fakes[0].stage != steps.Finished || !cut {
					t.Errorf("%s, cut at step %d (%s), late %t: %v\n%s", kind, at, step, late, err, strings.Join(log.lines, "\n"))
				}
			}
		}
	}
}

var errUnreachable = &remote.Error{Host: "db2", Reason: remote.Unreachable, Detail: "No route to host"}

// TestGone: a host that cannot be reached any more before it was told to confirm undoes it by itself, and
// the other one is told to.
func TestGone(t *testing.T) { inTime(t, testGone) }

func testGone(t *testing.T) {
	for at, step := range order[steps.Apply][:9] {
		if step == "fresh" {
			continue
		}
		fakes, hosts, plan, _ := twoHosts(t, steps.Apply)
		fakes[1].before = func(operation string) error {
			if operation == step {
				fakes[1].mu.Lock()
				fakes[1].dial = func() error { return errUnreachable }
				fakes[1].mu.Unlock()
				return errCut
			}
			return nil
		}
		opt := options(steps.Apply)
		opt.Timeout = 300 * time.Millisecond
		start := time.Now()
		report, err := Run(t.Context(), plan, hosts, opt)
		if err == nil || report.Result != RolledBack || fakes[0].stage != steps.Undone {
			t.Errorf("step %d: %v, db1 is %s", at, err, fakes[0].stage)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("step %d: it took %s", at, took)
		}
		if h := report.Hosts[1]; !h.Silent {
			t.Errorf("%+v", h)
		}
	}
}

// TestUndoneByItself: one host's time was over before it was told to confirm. The other one, which has confirmed,
// undoes it as well.
func TestUndoneByItself(t *testing.T) { inTime(t, testUndoneByItself) }

func testUndoneByItself(t *testing.T) {
	fakes, hosts, plan, _ := twoHosts(t, steps.Apply)
	fakes[1].before = func(operation string) error {
		if operation == steps.Confirm {
			fakes[1].mu.Lock()
			fakes[1].stage = steps.Undone
			fakes[1].mu.Unlock()
		}
		return nil
	}
	report, err := Run(t.Context(), plan, hosts, options(steps.Apply))
	if err == nil || report.Result != RolledBack || fakes[0].stage != steps.Undone {
		t.Errorf("%v, db1 is %s", err, fakes[0].stage)
	}
}

// TestLater: a host that begins long before another one is told for how long the other may still undo it.
func TestLater(t *testing.T) {
	t.Parallel()
	fakes, hosts, plan, _ := twoHosts(t, steps.Apply)
	fakes[0].left, fakes[1].left = time.Hour, time.Hour+time.Minute
	if _, err := Run(t.Context(), plan, hosts, options(steps.Apply)); err != nil {
		t.Fatal(err)
	}
	// As much less as it took to ask them.
	if a, b := fakes[0].later, fakes[1].later; a <= 0 || a > time.Minute || b != 0 {
		t.Errorf("%s, %s", a, b)
	}
}

// TestRefusedConfirm: a host that has not seen its peers says no, and everything is undone at once.
func TestRefusedConfirm(t *testing.T) { inTime(t, testRefusedConfirm) }

func testRefusedConfirm(t *testing.T) {
	fakes, hosts, plan, _ := twoHosts(t, steps.Apply)
	fakes[1].before = func(operation string) error {
		if operation == steps.Confirm {
			return errors.New("nothing was seen")
		}
		return nil
	}
	report, err := Run(t.Context(), plan, hosts, options(steps.Apply))
	if err == nil || report.Result != RolledBack || fakes[0].stage != steps.Undone || fakes[1].stage != steps.Undone {
		t.Errorf("%v, %s, %s", err, fakes[0].stage, fakes[1].stage)
	}
}

// TestSilentConfirm: nobody knows whether a host has confirmed, so the others are not undone.
func TestSilentConfirm(t *testing.T) { inTime(t, testSilentConfirm) }

func testSilentConfirm(t *testing.T) {
	fakes, hosts, plan, _ := twoHosts(t, steps.Apply)
	fakes[1].after = func(operation string) error {
		if operation == steps.Confirm {
			fakes[1].mu.Lock()
			fakes[1].dial = func() error { return errUnreachable }
			fakes[1].mu.Unlock()
			return errCut
		}
		return nil
	}
	opt := options(steps.Apply)
	opt.Timeout = 400 * time.Millisecond
	report, err := Run(t.Context(), plan, hosts, opt)
	if err == nil || report.Result != Unclear || !strings.HasPrefix(err.Error(), "unclear: ") || fakes[0].stage != steps.Confirmed || !strings.Contains(err.Error(), "No route to host") {
		t.Errorf("%v, %+v, db1 is %s", err, report, fakes[0].stage)
	}
}

// TestUnfinished: as long as one host has not said that it has finished, none forgets the change.
func TestUnfinished(t *testing.T) {
	t.Parallel()
	fakes, hosts, plan, log := twoHosts(t, steps.Down)
	fakes[1].before = func(operation string) error {
		if operation == steps.Finish {
			fakes[1].mu.Lock()
			fakes[1].dial = func() error { return errUnreachable }
			fakes[1].mu.Unlock()
			return errCut
		}
		return nil
	}
	opt := options(steps.Down)
	opt.Timeout = 200 * time.Millisecond
	report, err := Run(t.Context(), plan, hosts, opt)
	if err == nil || report.Result != Confirmed || fakes[0].stage != steps.Finished || fakes[0].forgotten || fakes[1].forgotten {
		t.Errorf("%v, %+v\n%s", err, report, strings.Join(log.lines, "\n"))
	}
}

// TestRequire: what is read back, and who encrypts, must be what the file requires.
func TestRequire(t *testing.T) { inTime(t, testRequire) }

func testRequire(t *testing.T) {
	for _, c := range []struct {
		offload, verdict string
		ok               bool
	}{{"no", "SOFTWARE", false}, {"crypto", "SOFTWARE", false}, {"crypto", "MIXED", false}, {"crypto", "HARDWARE", true}, {"packet", "UNKNOWN", true}} {
		fakes, hosts, plan, _ := twoHosts(t, steps.Apply)
		plan.Pairs[0].Of.Offload = config.RequireOffload
		fakes[0].offload, fakes[0].verdict = c.offload, c.verdict
		report, err := Run(t.Context(), plan, hosts, options(steps.Apply))
		want, stage := NotMet, steps.Undone
		if c.ok {
			want, stage = Confirmed, steps.Finished
		}
		if report.Result != want || fakes[0].stage != stage || fakes[1].stage != stage {
			t.Errorf("%+v: %v, %s, %s", c, err, fakes[0].stage, fakes[1].stage)
		}
	}
}

// TestInterrupted before hosts were told to confirm, everything is undone; later it is too late.
func TestInterrupted(t *testing.T) { inTime(t, testInterrupted) }

func testInterrupted(t *testing.T) {
	for _, step := range order[steps.Apply] {
		if step == "fresh" {
			continue
		}
		fakes, hosts, plan, _ := twoHosts(t, steps.Apply)
		ctx, cancel := context.WithCancel(t.Context())
		fakes[1].after = func(operation string) error {
			if operation == step {
				cancel()
			}
			return nil
		}
		report, err := Run(ctx, plan, hosts, options(steps.Apply))
		if step == steps.Confirm || step == steps.Finish || step == steps.Forget {
			if err != nil || report.Result != Confirmed {
				t.Errorf("%s: %v", step, err)
			}
			continue
		}
		if !errors.Is(err, context.Canceled) || report.Result != RolledBack {
			t.Errorf("%s: %v", step, err)
		}
		for _, f := range fakes {
			if f.stage != steps.Undone && (f.stage != steps.None || step != steps.Begin) {
				t.Errorf("%s: %s is %q", step, f.name, f.stage)
			}
		}
	}
}

// TestSecond: a second coordinator is refused in words, and takes nothing of the first's away.
func TestSecond(t *testing.T) { inTime(t, testSecond) }

func testSecond(t *testing.T) {
	fakes, hosts, plan, _ := twoHosts(t, steps.Apply)
	fakes[1].change, fakes[1].stage = "another", steps.Open
	report, err := Run(t.Context(), plan, hosts, options(steps.Apply))
	if err == nil || report.Result != RolledBack || !strings.Contains(err.Error(), "another change is under way") {
		t.Errorf("%v", err)
	}
	if fakes[0].stage != steps.Undone || fakes[1].stage != steps.Open || fakes[1].change != "another" {
		t.Errorf("%s, %s", fakes[0].stage, fakes[1].stage)
	}
}

// TestUnchanged: nobody is asked for anything.
func TestUnchanged(t *testing.T) { inTime(t, testUnchanged) }

func testUnchanged(t *testing.T) {
	_, hosts, plan, log := twoHosts(t, steps.Apply)
	plan.Pairs[0].Action = tunnel.Keep
	report, err := Run(t.Context(), plan, hosts, options(steps.Apply))
	if err != nil || report.Result != Unchanged || len(log.lines) != 0 {
		t.Errorf("%v, %+v, %q", err, report, log.lines)
	}
}

// What a host cannot send its peer is not waited for, and this is said; what does not come otherwise is an error.
func TestExcusedProbes(t *testing.T) {
	cannot := steps.Seen{Tunnel: "db", Local: addressB, Remote: addressA, Selector: "some", Why: "UDP port 514 is taken"}
	for _, announced := range []bool{true, false} {
		fakes, hosts, plan, _ := twoHosts(t, steps.Apply)
		fakes[0].probe = func(q steps.ProbeQuestion) (a steps.ProbeAnswer) {
			s := steps.Seen{Tunnel: "db", Local: addressA, Remote: addressB, Selector: "some"}
			if len(q.Excused) == 1 && q.Excused[0] == cannot {
				s.Why = cannot.Why
				a.Seen = append(a.Seen, s)
			} else {
				a.Missing = append(a.Missing, s)
			}
			return a
		}
		fakes[1].probe = func(steps.ProbeQuestion) (a steps.ProbeAnswer) {
			a.Seen = []steps.Seen{{Tunnel: "db", Packets: 3}}
			if announced {
				a.Unsendable = []steps.Seen{cannot}
			}
			return a
		}
		opt, said := options(steps.Apply), make(chan string, 100)
		opt.Say = func(host, done string) { said <- host + " " + done }
		report, err := Run(t.Context(), plan, hosts, opt)
		close(said)
		told := false
		for line := range said {
			told = told || strings.Contains(line, "db1") && strings.Contains(line, "514 is taken")
		}
		if (err == nil) != announced || told != announced || (report.Result == Confirmed) != announced {
			t.Errorf("announced %v: %s, told %v, %v", announced, report.Result, told, err)
		}
	}
}

// TestUndoOrder: this host, which has no ssh, undoes a change after those that are reached by it, but does
// not wait for one that does not answer; that one's part is told, with when it undoes it by itself.
func TestUndoOrder(t *testing.T) { inTime(t, testUndoOrder) }

func testUndoOrder(t *testing.T) {
	for _, silent := range []bool{false, true} {
		fakes, hosts, plan, log := twoHosts(t, steps.Apply)
		hosts[0].Knock = nil
		ctx, cancel := context.WithCancel(t.Context())
		fakes[1].after = func(operation string) error {
			switch {
			case operation == steps.Guard:
				cancel()
			case operation == steps.Undo && silent:
				fakes[1].mu.Lock()
				fakes[1].dial = func() error { return errUnreachable }
				fakes[1].mu.Unlock()
				return errCut
			}
			return nil
		}
		fakes[0].before = func(operation string) error {
			fakes[1].mu.Lock()
			defer fakes[1].mu.Unlock()
			if operation == steps.Undo && fakes[1].stage != steps.Undone {
				t.Error("this host is the first")
			}
			return nil
		}
		opt := options(steps.Apply)
		if silent {
			opt.Timeout = 2 * time.Second // for the whole undo
		}
		report, err := Run(ctx, plan, hosts, opt)
		if !errors.Is(err, context.Canceled) || fakes[0].stage != steps.Undone || report.Hosts[0].Stage != steps.Undone {
			t.Errorf("%v, db1 is %s\n%s", err, fakes[0].stage, strings.Join(log.lines, "\n"))
		}
		if h := report.Hosts[1]; h.Silent != silent || strings.Contains(h.Problem, "No route to host; it undoes the change by itself, within ") != silent {
			t.Errorf("silent %t: %+v", silent, h)
		}
	}
}
