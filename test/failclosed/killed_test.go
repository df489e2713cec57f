package failclosed

import (
	"strings"
	"testing"
	"time"

	"espalier/test/lab"
)

// A device killed in the middle of a transfer leaves its guard behind: nothing is sent in
// clear, though the routes into the device went with it. The next device inherits the guard,
// and programmed anew it carries the very connection on.
func TestKilledDevice(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "ping")
	for _, side := range []string{"sender", "receiver"} {
		t.Run(side, func(t *testing.T) {
			t.Parallel()
			l := lab.New(t, "")
			startDevices(l)
			program(l, pairs(0))
			from, to, dst := l.A, l.B, lab.B4
			if side == "receiver" {
				from, to, dst = l.B, l.A, lab.A4
			}
			s := startStream(t, from, to, dst)
			s.awaitMore(t, "before")

			wantClosed(t, l, l.A, "killed", func() {
				l.A.Kill()
				time.Sleep(time.Second) // the stream goes on trying
				tryAll(l)
			})
			before := s.received.Load()
			wantClosed(t, l, l.A, "restarted, without policies", func() {
				l.A.StartDevice()
				tryAll(l)
			})
			if !l.A.AwaitLog("guard left by an earlier process stays in force") {
				t.Errorf("the restarted device says nothing of what it inherited:\n%s", l.A.Log())
			}
			if got := s.received.Load(); got != before {
				t.Errorf("%d bytes arrived though no SA was there", got-before)
			}

			c := wantClosed(t, l, l.A, "programmed anew", func() {
				renew(l, pairs(1))
				s.awaitMore(t, "programmed anew")
				s.stop()
				checkWorks(t, l, "programmed anew")
			})
			if c.ESP == 0 {
				t.Error("programmed anew: no ESP on the wire")
			}
		})
	}
}

// renew gives A, which has nothing, and B, which has SAs and policies of an earlier round, new
// ones. B's policies are updated in place, so that they protect without a gap.
func renew(l *lab.Lab, pairs []lab.Pair) {
	addStates(l, l.A, pairs)
	addStates(l, l.B, pairs)
	addPolicies(l, l.A, pairs)
	for _, p := range pairs {
		l.B.Batch(strings.ReplaceAll(l.Policies(l.B, p), "policy add", "policy update"))
	}
}

// Without the guard a killed device lets the transfer go on in clear: what TestKilledDevice
// does not see would be seen.
func TestKilledDeviceWithoutGuard(t *testing.T) {
	t.Parallel()
	lab.Tools(t, "nft")
	l := lab.New(t, "")
	startDevices(l)
	program(l, pairs(0))
	s := startStream(t, l.A, l.B, lab.B4)
	s.awaitMore(t, "before")
	c := watch(t, l, l.A, func() {
		l.A.Kill()
		l.A.Must("nft", "flush", "ruleset")
		time.Sleep(time.Second)
	})
	if c.Cleartext == 0 {
		t.Error("the transfer was not seen in clear")
	}
}
