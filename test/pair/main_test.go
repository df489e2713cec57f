// Package pair has two userspace devices speak to each other, and looks at what comes out of
// the second: is it what went into the first?
package pair

import (
	"os"
	"testing"

	"espalier/test/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.Run(m)) }

// newPair starts both devices.
func newPair(t *testing.T) *lab.Lab {
	lab.Root(t)
	lab.Tools(t, "ip", "ping", "ethtool", "sysctl")
	l := lab.New(t, "")
	for _, h := range l.Hosts() {
		h.StartDevice()
	}
	return l
}

// wipe takes all SAs and policies away.
func wipe(l *lab.Lab) {
	for _, h := range l.Hosts() {
		h.Xfrm("policy", "flush")
		h.Xfrm("state", "flush")
	}
}

// stop ends both devices, which must not have raced.
func stop(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, h := range l.Hosts() {
		if code := h.Stop(); code != 0 {
			t.Errorf("the device of host %s ended with %d", h.Name, code)
		}
	}
}
