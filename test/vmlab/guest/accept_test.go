package guest

import (
	"context"
	"strings"
	"testing"
	"time"

	"espalier/accept"
	"espalier/remote"
	"espalier/test/lab"
)

// `espalier accept` tries two hosts on the lab's NIC, end to end, and comes to the verdict that its tests
// trust the driver to. Each host is a process of its own, in the host's network namespace.
func TestLongAccept(t *testing.T) {
	l := newNICLab(t, "p4p1")
	report := accepted(t, l)
	verdicts := 0
	for _, s := range report.Steps {
		if s.Result != accept.Passed {
			t.Errorf("%s: %s %s", s.Name, s.Result, s.Error)
		}
		verdicts += len(s.Verdicts)
	}
	if !report.OK || report.Verdict != "HARDWARE" || len(report.Steps) != 7 || verdicts != 3*2 {
		t.Fatalf("%t, %s, %d steps, %d verdicts", report.OK, report.Verdict, len(report.Steps), verdicts)
	}
	// The kernel takes offloaded SAs along with their link, which no event tells.
	if facts := strings.Join(report.Steps[5].Facts, "\n"); strings.Count(facts, "0 of 2 SAs are left") != 2 {
		t.Errorf("links down and up:\n%s", facts)
	}
	for _, h := range report.Hosts {
		if h.SAD != "kernel" || h.Readiness != "READY" {
			t.Errorf("%+v", h)
		}
	}
	l.mustBeEmpty(t)
}

// accepted runs `espalier accept` on the hosts of a lab. Traffic is so slow that a look at the counters finds moments
// in which nothing passes, on a machine that is slow, too.
func accepted(t *testing.T, l *nicLab) *accept.Report {
	t.Helper()
	start := time.Now()
	opt := accept.Options{
		Duration: 600 * time.Millisecond, Pace: 20_000, DownFor: 100 * time.Millisecond, OwnTraffic: true,
		Step: func(format string, args ...any) {
			t.Logf("%5.1fs "+format, append([]any{time.Since(start).Seconds()}, args...)...)
		},
		Confirm: func(string) error { return nil },
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var sides [2]*accept.Host
	for i, h := range l.Hosts() {
		t.Setenv("ESPALIER_STATE_DIR", h.Dir) // the process below keeps it
		sides[i] = &accept.Host{Device: l.Device}
		inside(t, h, func() (err error) {
			sides[i].Conn, err = remote.Child(ctx, h.Name, remote.Options{Root: remote.RootRequired})
			return err
		})
		defer sides[i].Conn.Close()
	}
	opt.A, opt.B = sides[0], sides[1]
	report, err := accept.Run(ctx, opt)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// mustBeEmpty looks for SAs and policies that were left.
func (l *nicLab) mustBeEmpty(t *testing.T) {
	t.Helper()
	for _, h := range l.Hosts() {
		for _, object := range []string{"state", "policy"} {
			if left := espalier(t, h, object, "list"); left != "" {
				t.Errorf("host %s: %s", h.Name, left)
			}
		}
	}
	if !l.A.Ping(lab.B4, 1) {
		t.Error("the hosts do not reach each other any more")
	}
}
