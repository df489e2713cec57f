package guest

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/test/lab"
	"espalier/xfrm"
)

// linkSection is where the host notes what becomes of SAs.
const linkSection = "Link down"

// A cable that is pulled takes no SA away.
func TestNICCarrier(t *testing.T) {
	l := newNICLab(t, "p4p1")
	p := lab.Pair{}
	l.program(t, p)
	if !l.arrives(t, p, untilThere) {
		t.Error("nothing passes")
	}
	setParameter(t, "link", "0,1")
	for _, h := range l.Hosts() {
		if l.carrier(t, h) {
			t.Errorf("host %s has a carrier", h.Name)
		}
	}
	l.wantOffloaded(t, p.SAs())
	if l.arrives(t, p, untilLost) {
		t.Error("passed without a cable")
	}
	setParameter(t, "link", "1")
	// What is sent is lost until the kernel has noticed.
	for start := time.Now(); !l.arrives(t, p, 100*time.Millisecond); {
		if time.Since(start) > untilThere {
			t.Fatal("nothing passes after the cable was put back")
		}
	}
	l.wantOffloaded(t, p.SAs())
	if !t.Failed() {
		Tell(linkSection, "offloaded SA, the cable is pulled", "stays; what is sent is lost; passes again when the cable is back")
	}
}

func (l *nicLab) carrier(t *testing.T, h *lab.Host) (on bool) {
	t.Helper()
	inside(t, h, func() error {
		link, err := netlink.LinkByName(l.Device)
		if err == nil {
			on = link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
		}
		return err
	})
	return on
}

// A NIC that is set down loses its SAs without a word. Policies stay, and so nothing leaves in
// clear.
func TestNICLinkDown(t *testing.T) {
	l := newNICLab(t, "p4p1")
	offloaded, inSoftware := lab.Pair{}, lab.Pair{SPI: 0x2000, Software: true}
	l.program(t, offloaded)
	l.apply(t, l.A, l.States(l.A, inSoftware))
	if !l.arrives(t, offloaded, untilThere) {
		t.Error("nothing passes")
	}
	events := l.listen(t)
	inside(t, l.A, func() error {
		link, err := netlink.LinkByName(l.Device)
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	})
	l.wantGone(t, l.A, offloaded, inSoftware)
	l.wantSilence(t, events)
	// The other end's device is not down, it only has no carrier.
	for _, sa := range offloaded.SAs() {
		if l.state(t, l.B, sa).Offload == nil {
			t.Errorf("host B: %#x is in software", sa.SPI)
		}
	}

	setUp(t, l.A, addresses[0]...)
	l.introduce(t)
	cable := watchCable(t)
	if l.arrives(t, offloaded, untilLost) {
		t.Error("passed without SAs")
	}
	if counts, _ := cable.stop(t); counts.ESP != 0 || counts.Cleartext != 0 {
		t.Errorf("without SAs there was on the cable %+v", counts)
	}
	// The capture would have shown it.
	l.apply(t, l.A, "ip xfrm policy flush")
	cable = watchCable(t)
	l.arrives(t, offloaded, untilLost)
	if counts, packets := cable.stop(t); counts.Cleartext != 1 || !showsIn(packets, plaintext) {
		t.Errorf("without policies there was on the cable %+v, want 1 packet in clear", counts)
	}

	l.flush(t)
	again := lab.Pair{SPI: 0x3000}
	l.program(t, again)
	l.wantOffloaded(t, again.SAs())
	if !l.arrives(t, again, untilThere) {
		t.Error("nothing passes with new SAs")
	}
	if !t.Failed() {
		Tell(linkSection, "offloaded SA, the link is set down", "gone, without an event; policies stay, nothing leaves in clear; with new SAs traffic passes")
		Tell(linkSection, "SA in software, beside it", "stays")
	}
}

// A NIC whose driver is taken out takes its SAs along.
func TestNICRemoved(t *testing.T) {
	l := newNICLab(t, "p4p1")
	offloaded, inSoftware := lab.Pair{}, lab.Pair{SPI: 0x2000, Software: true}
	l.program(t, offloaded)
	l.apply(t, l.A, l.States(l.A, inSoftware))
	events := l.listen(t)
	unload(t, "labnic")
	defer func() {
		if err := load("/modules/labnic.ko"); err != nil {
			t.Errorf("load the NIC's driver again: %v", err)
		}
	}()
	l.wantGone(t, l.A, offloaded, inSoftware)
	l.wantSilence(t, events)
	if !t.Failed() {
		Tell(linkSection, "offloaded SA, the device is removed", "gone, without an event; policies and SAs in software stay")
	}
}

// listen subscribes to what becomes of host A's SAs from now on.
func (l *nicLab) listen(t *testing.T) (next func() (xfrm.Event, error, bool)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), untilThere)
	t.Cleanup(cancel)
	next, stop := iter.Pull2(l.kernel[l.A].Listen(ctx, xfrm.GroupSA))
	t.Cleanup(stop)
	return next
}

// wantSilence adds an SA: its event has to be the first since the subscription.
func (l *nicLab) wantSilence(t *testing.T, next func() (xfrm.Event, error, bool)) {
	t.Helper()
	const spi = 0x4000
	s := parse(t, l.A, "state add "+ends+"spi 0x4000 mode transport "+aead+"128").State
	if err := l.kernel[l.A].AddState(context.Background(), s); err != nil {
		t.Fatal(err)
	}
	e, err, _ := next()
	if err != nil {
		t.Fatal(err)
	}
	if e.Kind != xfrm.MsgNewSA || e.State.SPI != spi {
		t.Errorf("the first event is %s of %+v %+v; want that of the SA added last", e.Kind, e.State, e.StateID)
	}
}

// wantGone looks for SAs and policies of a host: those of a pair in software are to be there, and
// the policies of the offloaded pair whose SAs are not.
func (l *nicLab) wantGone(t *testing.T, h *lab.Host, offloaded, inSoftware lab.Pair) {
	t.Helper()
	ctx := context.Background()
	for _, sa := range offloaded.SAs() {
		_, err := l.kernel[h].GetState(ctx, sa.ID())
		if !errors.Is(err, ipsec.ErrNotExist) {
			t.Errorf("offloaded SA %#x: %v, want none", sa.SPI, err)
		}
	}
	for _, sa := range inSoftware.SAs() {
		l.state(t, h, sa) // fails if it is not there
	}
	policies, err := l.kernel[h].SPDInfo(ctx)
	if err != nil || policies.In != 1 || policies.Out != 1 || policies.Fwd != 1 {
		t.Errorf("policies: %+v, %v; want one of each direction", policies, err)
	}
}
