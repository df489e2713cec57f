package pair

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/test/lab"
)

// TestBusySAIsTapped follows bulk traffic from the raw socket to the tap: not a packet is dropped or
// counted as replayed, fragments go on, and what the guard drops behind the tap goes with the SA.
func TestBusySAIsTapped(t *testing.T) {
	lab.Tools(t, "nft")
	l := newPair(t)
	for i, p := range []lab.Pair{{}, {V6: true}, {Tunnel: true}, {V6: true, Tunnel: true}} {
		p.SPI = uint32(0x1000 * (i + 1))
		wipe(l)
		l.Program(p)
		a, b := p.Ends()
		l.MustExchange(t, a, b, 4<<20)
		for _, h := range l.Hosts() {
			awaitTapped(t, l, h, p.V6, 1)
			if dropped := drops(h); len(dropped) > 0 {
				t.Errorf("%+v: host %s dropped %v", p, h.Name, dropped)
			}
			if state := h.Xfrm("-s", "state", "list").Stdout; strings.Count(state, "replay-window 0 replay 0 failed 0") != 2 {
				t.Errorf("%+v: host %s:\n%s", p, h.Name, state)
			}
		}
		l.MustExchange(t, a, b, 1<<20)
		if !l.A.Ping(b, 3, "-s", "4000") || !l.B.Ping(a, 3, "-s", "20000") {
			t.Errorf("%+v: no long echo: drops A %v, B %v", p, l.A.Drops(), l.B.Drops())
		}
	}
	wipe(l)
	for _, h := range l.Hosts() {
		awaitTapped(t, l, h, false, 0)
		awaitTapped(t, l, h, true, 0)
	}
	stop(t, l)
}

// TestRekeyedSAIsTapped: SAs in the place of tapped ones are tapped before they have carried anything, and
// others are not. What comes twice from the first packet on is a replay.
func TestRekeyedSAIsTapped(t *testing.T) {
	lab.Tools(t, "nft")
	l := newBusy(t)
	for _, h := range l.Hosts() {
		awaitTapped(t, l, h, false, 1)
	}
	arrived, cable := l.Wire(l.B), l.Wire(l.A)
	for _, h := range []*lab.Host{l.B, l.A} {
		h.Batch(l.States(h, lab.Pair{SPI: 0x5000, Reqid: 0x1000}))
	}
	if !l.A.Ping(lab.B4, 1) {
		t.Error("no echo")
	}
	pkt, err := arrived.Next(5 * time.Second)
	if err != nil || pkt[9] != unix.IPPROTO_ESP || binary.BigEndian.Uint32(pkt[20:])&^0xfff != 0x5000 {
		t.Fatalf("%v: want ESP by the new SA, not % x", err, pkt)
	}
	for range 3 {
		if err := cable.Send(pkt); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range l.Hosts() {
		awaitTapped(t, l, h, false, 2)
		h.Batch(l.States(h, lab.Pair{SPI: 0x6000, Reqid: 0x9000}))
		awaitTapped(t, l, h, false, 2)
	}
	l.MustExchange(t, lab.A4, lab.B4, 1<<20)
	for h, want := range map[*lab.Host]map[string]uint64{l.A: {}, l.B: {"in-replay": 3}} {
		if dropped := drops(h); !maps.Equal(dropped, want) {
			t.Errorf("host %s dropped %v, want %v", h.Name, dropped, want)
		}
	}
	stop(t, l)
}

// newBusy is a pair whose SAs have carried enough to be tapped.
func newBusy(t *testing.T) *lab.Lab {
	t.Helper()
	l := newPair(t)
	l.Program(lab.Pair{})
	l.MustExchange(t, lab.A4, lab.B4, 2<<20)
	return l
}

// TestTapAndFlush removes the guard's rules in the middle: packets then come twice, and all is well.
func TestTapAndFlush(t *testing.T) {
	lab.Tools(t, "nft")
	l := newBusy(t)
	for _, h := range l.Hosts() {
		awaitTapped(t, l, h, false, 1)
		h.Must("nft", "flush", "ruleset")
	}
	l.MustExchange(t, lab.A4, lab.B4, 2<<20)
	for _, h := range l.Hosts() {
		awaitTapped(t, l, h, false, 1)
	}
	stop(t, l)
}

// TestTapAndMTU raises the MTU beyond what the tap's memory was made for.
func TestTapAndMTU(t *testing.T) {
	lab.Tools(t, "nft")
	l := newBusy(t)
	for _, h := range l.Hosts() {
		awaitTapped(t, l, h, false, 1)
		h.Must("ip", "link", "set", l.Device, "mtu", "9000")
	}
	time.Sleep(200 * time.Millisecond)
	l.MustExchange(t, lab.A4, lab.B4, 4<<20)
	if !l.A.Ping(lab.B4, 3, "-s", "8000") {
		t.Error("no echo of 8000 bytes")
	}
	for _, h := range l.Hosts() {
		if n := h.Drops()["in-overrun"]; n > 0 {
			t.Errorf("host %s: %d packets did not fit", h.Name, n)
		}
	}
	stop(t, l)
}

// TestKilledTap: what the guard dropped behind the tap of a device that was killed, another one receives.
func TestKilledTap(t *testing.T) {
	lab.Tools(t, "nft")
	l := newBusy(t)
	awaitTapped(t, l, l.B, false, 1)
	l.B.Kill()
	awaitTapped(t, l, l.B, false, 1)
	l.B.StartDevice()
	awaitTapped(t, l, l.B, false, 0)
	wipe(l)
	l.Program(lab.Pair{SPI: 0x5000})
	l.MustExchange(t, lab.A4, lab.B4, 1<<20)
	stop(t, l)
}

// awaitTapped waits until the guard of a host drops so many SAs' packets behind the tap.
func awaitTapped(t *testing.T, l *lab.Lab, h *lab.Host, v6 bool, n int) {
	t.Helper()
	local, set := lab.A4, "in_ip_tapped"
	if v6 {
		local, set = lab.A6, "in_ip6_tapped"
	}
	if h == l.B {
		local = map[netip.Addr]netip.Addr{lab.A4: lab.B4, lab.A6: lab.B6}[local]
	}
	var rules string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		rules = h.Must("nft", "list", "table", "netdev", "espalier_"+l.Device)
		_, elements, _ := strings.Cut(rules, "set "+set)
		elements, _, _ = strings.Cut(elements, "chain")
		if strings.Count(elements, local.String()+" . ") == n {
			return
		}
	}
	t.Fatalf("host %s: want %d SAs in %s:\n%s", h.Name, n, set, rules)
}

// drops are the reasons for which a host has dropped something.
func drops(h *lab.Host) map[string]uint64 {
	all := h.Drops()
	maps.DeleteFunc(all, func(_ string, n uint64) bool { return n == 0 })
	return all
}

// TestPeerReplaced gives B another link-layer address in the middle.
func TestPeerReplaced(t *testing.T) {
	l := newPair(t)
	for i, p := range []lab.Pair{{}, {V6: true}} {
		p.SPI = uint32(0x1000 * (i + 1))
		wipe(l)
		l.Program(p)
		a, b := p.Ends()
		l.MustExchange(t, a, b, 2<<20)
		l.B.Must("ip", "link", "set", l.Device, "address", map[bool]string{false: "02:00:00:00:00:77", true: "02:00:00:00:00:78"}[p.V6])
		l.B.Ping(a, 1) // lost if it comes before the device has heard of the change, and B has asked for A anew
		if !l.B.Ping(a, 3) {
			t.Errorf("%+v: B with another address does not reach A", p)
		}
		l.MustExchange(t, a, b, 2<<20)
	}
	stop(t, l)
}
