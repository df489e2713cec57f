package host

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/deploy/steps"
	"espalier/internal/inet"
	"espalier/tunnel"
	"espalier/xfrm"
)

// twoSelectors is a first apply, up to the probes, of a tunnel for TCP and UDP whose selectors share SAs.
func twoSelectors(t *testing.T) (*world, *planned) {
	w := newWorld(t, 2)
	w.chatter = false
	change := w.plan(steps.Apply, 2, 0)
	for i := range change.begins {
		p := &change.begins[i].Pairs[0]
		var split [][]byte
		for _, payload := range p.Policies {
			xp, err := xfrm.DecodePolicy(payload)
			if err != nil {
				t.Fatal(err)
			}
			if len(xp.Tmpls) == 0 {
				continue
			}
			for _, protocol := range []uint8{inet.ProtoTCP, inet.ProtoUDP} {
				xp.Sel.Protocol = protocol
				b, err := xfrm.EncodePolicy(xp)
				if err != nil {
					t.Fatal(err)
				}
				split = append(split, b)
			}
		}
		p.Policies = split
	}
	w.carryOut(change, until(steps.Probe))
	return w, change
}

// Each selector is proven by itself, also where they share SAs.
func TestProbesInsideEachSelector(t *testing.T) {
	w, change := twoSelectors(t)
	q := steps.ProbeQuestion{Change: change.id, Within: probeFor}
	a, err := w.hosts[0].host.Probe(t.Context(), q)
	if err != nil || len(a.Seen) != 2 || len(a.Missing) > 0 {
		t.Errorf("all comes: %+v, %v", a, err)
	}
	w, change = twoSelectors(t)
	w.hosts[0].deaf = inet.ProtoUDP
	a, err = w.hosts[0].host.Probe(t.Context(), q)
	if err != nil || len(a.Seen) != 1 || len(a.Missing) != 1 || !strings.Contains(a.Missing[0].Selector, "proto 17") || !strings.Contains(a.Missing[0].Why, "other selectors") {
		t.Errorf("UDP does not come: %+v, %v", a, err)
	}
	if _, err := w.hosts[0].host.Confirm(t.Context(), steps.Question{Change: change.id}); err == nil {
		t.Error("it was confirmed")
	}
}

// Where a program has the port, the host says that it cannot send, and its peer is excused from waiting.
func TestProbesThatCannotBeSent(t *testing.T) {
	w, change := twoSelectors(t)
	w.hosts[1].taken = inet.ProtoUDP
	q := steps.ProbeQuestion{Change: change.id, Within: probeFor}
	here, err := w.hosts[0].host.Probe(t.Context(), q)
	if err != nil || len(here.Missing) != 1 || len(here.Unsendable) > 0 {
		t.Fatalf("%+v, %v", here, err)
	}
	there, err := w.hosts[1].host.Probe(t.Context(), q)
	if err != nil || len(there.Missing) > 0 || len(there.Unsendable) != 1 || there.Unsendable[0].Selector != here.Missing[0].Selector {
		t.Fatalf("%+v, %v", there, err)
	}
	other := there.Unsendable[0]
	other.Remote = netip.MustParseAddr("192.0.2.99")
	q.Excused = []steps.Seen{other}
	if here, err = w.hosts[0].host.Probe(t.Context(), q); err != nil || len(here.Missing) != 1 {
		t.Errorf("excused is what is for another host: %+v, %v", here, err)
	}
	q.Excused = there.Unsendable
	here, err = w.hosts[0].host.Probe(t.Context(), q)
	if err != nil || len(here.Missing) > 0 || len(here.Seen) != 2 || !strings.Contains(here.Seen[0].Why+here.Seen[1].Why, "is taken") {
		t.Errorf("%+v, %v", here, err)
	}
	if _, err := w.hosts[0].host.Confirm(t.Context(), steps.Question{Change: change.id}); err != nil {
		t.Error(err)
	}
}

// A server of UDP has its port for itself; one of TCP answers the peer's probes.
func TestPortTaken(t *testing.T) {
	at := netip.MustParseAddr("127.0.0.1")
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	f := Flow{Src: at, Dst: at, Protocol: inet.ProtoUDP, SrcPort: udp.LocalAddr().(*net.UDPAddr).AddrPort().Port(), DstPort: discard}
	if err := sendProbe(t.Context(), f); !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "is taken") {
		t.Error(err)
	}
	f.Protocol, f.SrcPort = inet.ProtoTCP, tcp.Addr().(*net.TCPAddr).AddrPort().Port()
	if err := sendProbe(t.Context(), f); err != nil {
		t.Error(err)
	}
}

// Of several SAs those are told that nothing has come by.
func TestIdleSAs(t *testing.T) {
	w := newWorld(t, 2)
	l := &lane{carried: map[tunnel.SAID]bool{}}
	for i := range 3 {
		l.inbound = append(l.inbound, said(w, 0, 1, i+1))
	}
	if got := l.idle(); !strings.Contains(got, "3 of 3") {
		t.Error(got)
	}
	l.carried[l.inbound[1]] = true
	if got := l.idle(); !strings.Contains(got, "2 of 3") {
		t.Error(got)
	}
	l.inbound = l.inbound[1:2]
	if got := l.idle(); got != "" {
		t.Error(got)
	}
}
