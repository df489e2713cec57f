package cli

import (
	"errors"
	"testing"
	"time"

	"espalier/deploy"
	"espalier/tunnel"
)

// The host that takes longest tells how long is waited; one that does not know ends the waiting.
func TestBusy(t *testing.T) {
	host := func(name, change string, left time.Duration) deploy.Host {
		return deploy.Host{Host: tunnel.Host{Name: name, Facts: &tunnel.Facts{Change: change, ChangeLeft: left}}}
	}
	idle, short, long, unknown := host("i", "", 0), host("s", "is under way", 1500*time.Millisecond), host("l", "is under way", 70*time.Second), host("u", "is under way", 0)
	for _, c := range []struct {
		hosts []deploy.Host
		host  string
		left  time.Duration
	}{
		{[]deploy.Host{idle}, "", 0},
		{[]deploy.Host{idle, short}, "s", 2 * time.Second},
		{[]deploy.Host{short, long}, "l", 71 * time.Second},
		{[]deploy.Host{long, short}, "l", 71 * time.Second},
		{[]deploy.Host{long, unknown, short}, "u", 0},
		{[]deploy.Host{unknown, long}, "u", 0},
	} {
		err := busy(c.hosts)
		e, _ := errors.AsType[*busyError](err)
		switch {
		case c.host == "" && err != nil, c.host != "" && (e == nil || e.host != c.host || e.left != c.left):
			t.Errorf("%v, want %s %s", err, c.host, c.left)
		}
	}
}
