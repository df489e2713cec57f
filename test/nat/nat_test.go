package nat

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"espalier/test/lab"
)

const keepalives = "nat-keepalive 1"

// talk has both hosts ping each other and A open a connection, by which both send.
func (h *house) talk(when string) {
	h.t.Helper()
	if !h.a.Ping(h.outside, 3) {
		h.t.Errorf("%s: A does not reach B", when)
	}
	if !h.b.Ping(h.public, 3) {
		h.t.Errorf("%s: B does not reach A", when)
	}
	if err := lab.Exchange(h.a, h.b, netip.AddrPortFrom(h.outside, 0), 1<<20); err != nil {
		h.t.Errorf("%s: TCP: %v", when, err)
	}
}

// sound fails the test if packets were lost for a reason that is none of the NAT's.
func (h *house) sound() {
	h.t.Helper()
	for _, host := range []*lab.Host{h.a, h.b} {
		if drops := host.Drops(); len(drops) > 0 {
			h.t.Errorf("host %s dropped %v", host.Name, drops)
		}
		if code := host.Stop(); code != 0 {
			h.t.Errorf("the device of host %s ended with %d", host.Name, code)
		}
	}
}

// Transport mode passes a NAT both ways, with checksums that the NAT has made wrong: corrected
// without the original address, which A's packets had, and mended with it. ICMPv6's covers addresses, too.
func TestTransport(t *testing.T) {
	for _, e := range []ends{ends4, ends6} {
		t.Run(e.table, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, e)
			h.program(keepalives)
			h.talk("original address unknown")
			h.source = h.inside
			h.program(keepalives)
			h.talk("original address known")
			h.source = h.public
			h.program(keepalives)
			h.talk("original address wrong")
			h.sound()
		})
	}
}

// A NAT forgets who is silent. Keepalives are enough for it not to.
func TestKeepalives(t *testing.T) {
	t.Parallel()
	h := newHouse(t, ends4)
	h.program("")
	h.talk("new")
	silence := func() { time.Sleep((2*forgets + 1) * time.Second) }
	silence()
	if h.remembers() || h.b.Ping(h.public, 1) {
		t.Error("control: the NAT remembers A without keepalives")
	}
	h.program(keepalives)
	h.talk("with keepalives")
	silence()
	if !h.remembers() {
		t.Error("the NAT has forgotten A in spite of keepalives")
	}
	if !h.b.Ping(h.public, 1) {
		t.Error("B does not reach A after a silence")
	}
	h.sound()
}

// Another port of the NAT's is told; after an update traffic goes on.
func TestPeerMoves(t *testing.T) {
	t.Parallel()
	h := newHouse(t, ends4)
	h.program(keepalives)
	h.talk("before")
	m := newMonitor(t, h.b)

	h.translate(30000)
	if h.a.Ping(h.outside, 1) {
		t.Error("control: B answers to a port that is no longer A's")
	}
	m.wait(fmt.Sprintf("Mapping change %s:20000 -> %s:30000", h.public, h.public))
	if h.b.Ping(h.public, 1) {
		t.Error("control: B reaches A at a port that is no longer A's")
	}
	h.b.Batch(h.sas(h.b, "update"))
	h.talk("after the update")
	h.sound()
}
