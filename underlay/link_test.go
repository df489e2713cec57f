package underlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/internal/fd"
	"espalier/internal/inet"
)

// linked is a LinkSender whose ways are counted, in packets.
type linked struct {
	*LinkSender
	raws, links int
}

func newLinked(t testing.TB, p *pair) *linked {
	t.Helper()
	raw := newSender(t, p.a, Config{})
	var l linked
	in(t, p.a, func() (err error) {
		l.LinkSender, err = NewLinkSender(Config{Mark: testMark}, raw, NewNextHops())
		return
	})
	t.Cleanup(func() { l.Close() })
	count := func(n *int) func(*fd.File, []mmsghdr) (int, syscall.Errno) {
		return func(f *fd.File, msgs []mmsghdr) (int, syscall.Errno) { *n += len(msgs); return sendMessages(f, msgs) }
	}
	raw.transmit.kernel, l.transmit.kernel = count(&l.raws), count(&l.links)
	return &l
}

// hop is the way from a to b.
func hop(t testing.TB, p *pair, via netip.Addr) *NextHop {
	t.Helper()
	h := &NextHop{Via: via, Device: wireIndex(t, p.a), MTU: 1500}
	in(t, p.b, func() error {
		l, err := netlink.LinkByName("wire0")
		if err == nil {
			h.Address = [6]byte(l.Attrs().HardwareAddr)
		}
		return err
	})
	h.check.Store(time.Now().Add(time.Hour).UnixNano())
	return h
}

// mustSend sends packets and tells how many went which way.
func (l *linked) mustSend(t testing.TB, pkts ...[]byte) (raws, links int) {
	t.Helper()
	l.raws, l.links = 0, 0
	if n, err := l.Send(pkts); n != len(pkts) || err != nil {
		t.Fatalf("%d of %d packets sent: %v", n, len(pkts), err)
	}
	return l.raws, l.links
}

func TestLinkSenderCarriesThePacket(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		tap, l := listenTap(t, p.b, Config{}), newLinked(t, p)
		l.hops.Learn(p.dst(v6), hop(t, p, p.dst(v6)), l.hops.Changes())
		var pkts [][]byte
		for i := range 150 {
			pkts = append(pkts, espPacket(p, v6, nil, 8+9*i, i))
		}
		if raws, links := l.mustSend(t, pkts...); raws != 0 || links != len(pkts) {
			t.Errorf("%d packets by the IP layer, %d past it", raws, links)
		}
		for i, d := range tapped(t, tap, len(pkts)) {
			if got := append(d.Header, d.Payload...); !bytes.Equal(got, pkts[i]) {
				t.Fatalf("packet %d:\n% x, want\n% x", i, got, pkts[i])
			}
		}
	})
}

// Order is kept where packets of one flow go both ways in turn.
func TestLinkSenderKeepsTheOrder(t *testing.T) {
	p := newPair(t)
	tap, l := listenTap(t, p.b, Config{}), newLinked(t, p)
	for round := range 40 {
		switch round % 3 {
		case 0:
			l.hops.Forget(netip.Addr{})
		case 1:
			l.hops.Learn(p.dst(false), hop(t, p, p.dst(false)), l.hops.Changes())
		case 2:
			l.hops.find(p.dst(false)).check.Store(0)
		}
		var pkts [][]byte
		for i := range 20 {
			pkts = append(pkts, espPacket(p, false, nil, 100, 20*round+i))
		}
		raws, links := l.mustSend(t, pkts...)
		if want := round%3 == 1; (links == 20) != want || (raws == 20) == want {
			t.Fatalf("round %d: %d packets by the IP layer, %d past it", round, raws, links)
		}
	}
	for i, d := range tapped(t, tap, 800) {
		if !bytes.Equal(d.Payload, payload(i, 100)) {
			t.Fatalf("packet %d: % x", i, d.Payload[:8])
		}
	}
}

func TestLinkSenderLeavesTheRest(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		l := newLinked(t, p)
		esp := espPacket(p, v6, nil, 100, 1)
		if raws, _ := l.mustSend(t, esp); raws != 1 {
			t.Error("a next hop that nobody knows")
		}
		if got := <-l.hops.Missing(); got != p.dst(v6) {
			t.Errorf("asked for %v", got)
		}
		l.hops.Learn(p.dst(v6), &NextHop{Via: p.dst(v6)}, l.hops.Changes())
		if raws, _ := l.mustSend(t, esp); raws != 1 || len(l.hops.missing) != 0 {
			t.Error("a neighbour that does not answer")
		}
		l.hops.Forget(p.src(v6))
		if !l.hops.Known(p.dst(v6)) {
			t.Error("another neighbour was forgotten")
		}
		l.hops.Forget(p.dst(v6))
		before := l.hops.Changes()
		l.hops.Forget(netip.Addr{})
		if l.hops.Learn(p.dst(v6), hop(t, p, p.dst(v6)), before); l.hops.Known(p.dst(v6)) {
			t.Error("learned what had changed meanwhile")
		}
		l.hops.Learn(p.dst(v6), hop(t, p, p.dst(v6)), l.hops.Changes())
		if _, links := l.mustSend(t, esp, esp); links != 2 {
			t.Error("packets to a neighbour went by the IP layer")
		}
		udp := bytes.Clone(esp)
		udp[map[bool]int{false: 9, true: 6}[v6]] = inet.ProtoUDP
		others := [][]byte{udp, espPacket(p, v6, noOperations, 100, 1)}
		if !v6 {
			noID := bytes.Clone(esp)
			clear(noID[4:8])
			noLength := bytes.Clone(esp)
			clear(noLength[2:4])
			others = append(others, noID, noLength)
		}
		for i, pkt := range others {
			if raws, links := l.mustSend(t, esp, pkt, esp); raws != 1 || links != 2 {
				t.Errorf("other packet %d: %d by the IP layer, %d past it", i, raws, links)
			}
		}
	})
}

func TestLinkSenderReportsFailures(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		l := newLinked(t, p)
		l.hops.Learn(p.dst(v6), hop(t, p, p.dst(v6)), l.hops.Changes())
		esp, long := espPacket(p, v6, nil, 100, 1), espPacket(p, v6, nil, 1600, 1)
		n, err := l.Send([][]byte{esp, esp, long, {1, 2}, esp})
		var partly *SendError
		if n != 3 || !errors.As(err, &partly) || len(partly.Failed) != 2 || partly.Failed[0].Index != 2 || partly.Failed[0].Err != unix.EMSGSIZE ||
			partly.Failed[1].Index != 3 || partly.Failed[1].Err != unix.EINVAL {
			t.Fatal(n, err, partly)
		}
		// What the IP layer refuses is not sent past it.
		works := l.raw.transmit.kernel
		l.raw.transmit.kernel = func(*fd.File, []mmsghdr) (int, syscall.Errno) { return 0, unix.EPERM }
		l.hops.find(p.dst(v6)).check.Store(0)
		for range 3 {
			if n, err := l.Send([][]byte{esp}); n != 0 || !errors.Is(err, unix.EPERM) {
				t.Fatal(n, err)
			}
		}
		l.raw.transmit.kernel = works
		l.mustSend(t, esp)
		if raws, links := l.mustSend(t, esp); raws != 0 || links != 1 {
			t.Error("not sent past the IP layer when that takes it again")
		}
		// A device that is down has no neighbours.
		in(t, p.a, func() error {
			d, err := netlink.LinkByName("wire0")
			if err != nil {
				return err
			}
			return netlink.LinkSetDown(d)
		})
		n, err = l.Send([][]byte{esp, esp})
		if n != 0 || !errors.Is(err, unix.ENETDOWN) || l.hops.Known(p.dst(v6)) {
			t.Error(n, err)
		}
		l.Close()
		if _, err := l.Send([][]byte{esp}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Send after Close: %v", err)
		}
	})
}

// A link-local address is one of many devices.
func TestLinkSenderLeavesLinkLocal(t *testing.T) {
	pkt := make([]byte, 60)
	pkt[0], pkt[6] = 0x60, inet.ProtoESP
	binary.BigEndian.PutUint16(pkt[4:], 20)
	for to, want := range map[string]bool{"fe80::1": false, "ff02::1": false, "fd08::1": true} {
		a := netip.MustParseAddr(to).As16()
		copy(pkt[24:], a[:])
		if _, got := plain(pkt); got != want {
			t.Errorf("%s: %v", to, got)
		}
	}
}

// Packets carry the mark, by which rules tell them.
func TestLinkSenderMarks(t *testing.T) {
	p := newPair(t)
	l := newLinked(t, p)
	if err := l.packet.Control(func(number int) error {
		mark, err := unix.GetsockoptInt(number, unix.SOL_SOCKET, unix.SO_MARK)
		if mark != testMark {
			t.Errorf("mark %#x", mark)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestLinkSenderAllocatesNothing(t *testing.T) {
	p := newPair(t)
	l := newLinked(t, p)
	l.hops.Learn(p.dst(false), hop(t, p, p.dst(false)), l.hops.Changes())
	pkts := [][]byte{espPacket(p, false, nil, 100, 1), espPacket(p, false, nil, 100, 2)}
	if n := testing.AllocsPerRun(50, func() { l.Send(pkts) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
