package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
	"espalier/xfrm/client"
)

// Target is an engine under test. It holds nothing but what the suite puts there.
type Target struct {
	Name   string // for the reader, such as "device" or "kernel 6.12"
	Device bool   // the userspace device, else a kernel
	// Major and Minor are the version of the kernel.
	Major, Minor int
	ESP          bool // it takes ESP SAs with AES-GCM

	Client *client.Client
	// Local is an address of the host of the engine, Peer one that it reaches.
	Local, Peer netip.Addr
	// Send has the host send UDP datagrams from Local to a port of Peer, each with so many
	// bytes of payload. That they cannot be sent is no error.
	Send func(port uint16, datagrams, size int) error
	// PeerSocket is a UDP socket of the host of Peer.
	PeerSocket func(port uint16) (*net.UDPConn, error)
	// OpenPort has the host of the engine take UDP encapsulation at a port, until it is closed; nil if
	// the engine does so by itself.
	OpenPort func(port uint16) (io.Closer, error)
	// SetLarvalTime sets net.core.xfrm_acq_expires of the host, in seconds.
	SetLarvalTime func(seconds int) error
}

// Case is one piece of behaviour.
type Case struct {
	Name string
	ESP  bool // it takes ESP SAs
	Do   func(e *env) string
	Want string // what it comes to, but for the differences
}

// suites are all cases, by subject.
var suites = []struct {
	name  string
	cases []Case
}{
	{"SAD", sadCases}, {"Larval", larvalCases}, {"SPD", spdCases}, {"Selection", selectionCases},
	{"Lifetime", lifetimeCases}, {"Progress", progressCases}, {"Events", eventCases}, {"NAT", natCases},
}

// Run runs all cases against a target, one after the other.
func Run(t *testing.T, target Target) {
	for _, s := range suites {
		t.Run(s.name, func(t *testing.T) {
			for _, c := range s.cases {
				t.Run(c.Name, func(t *testing.T) { c.run(t, &target) })
			}
		})
	}
}

func (c *Case) run(t *testing.T, target *Target) {
	if c.ESP && !target.ESP {
		t.Skipf("%s has no ESP with AES-GCM", target.Name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	e := &env{T: t, Target: target, ctx: ctx}
	e.empty()
	defer e.empty()
	want, why := c.Want, ""
	if d := differenceOf(target, c.Name); d != nil {
		want, why = d.outcome, " ("+d.why+")"
	}
	if got := c.Do(e); got != want {
		t.Errorf("%s: %q, want %q%s", target.Name, got, want, why)
	}
}

// env is what a case works with.
type env struct {
	*testing.T
	*Target
	ctx context.Context
}

// must ends a case that cannot go on.
func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// empty takes everything out and gives larval SAs their usual time.
func (e *env) empty() {
	e.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, err := range []error{
		e.Client.FlushPolicies(ctx, xfrm.PolicyMain), e.Client.FlushStates(ctx, 0), e.SetLarvalTime(30),
	} {
		if err != nil {
			e.Error(err)
		}
	}
}

// verdict is an error in one word: the errno, or "ok".
func verdict(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, unix.EOPNOTSUPP): // which has two names
		return "EOPNOTSUPP"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

// verdicts are several.
func verdicts(errs ...error) string {
	words := make([]string, len(errs))
	for i, err := range errs {
		words[i] = verdict(err)
	}
	return strings.Join(words, ", ")
}

// states are all, as the engine lists them.
func (e *env) states(f xfrm.StateFilter) (all []*xfrm.State) {
	e.Helper()
	for s, err := range e.Client.States(e.ctx, f) {
		e.must(err)
		all = append(all, s)
	}
	return all
}

// spis are those of states, in words.
func spis(all []*xfrm.State) string {
	words := []string{}
	for _, s := range all {
		words = append(words, fmt.Sprintf("%x", uint32(s.SPI)))
	}
	return strings.Join(words, " ")
}

// policies are all, as the engine lists them.
func (e *env) policies() (all []*xfrm.Policy) {
	e.Helper()
	for p, err := range e.Client.Policies(e.ctx) {
		e.must(err)
		all = append(all, p)
	}
	return all
}
