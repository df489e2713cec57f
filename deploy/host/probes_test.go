package host

import (
	"context"
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
	f := Flow{Src: at, Dst: at, Protocol: inet.ProtoUDP, SrcPort: udp.LocalAddr().(*net.UDPAddr).AddrPort().Port(), DstPort: 9}
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

// What goes by an xfrm interface is probed by it. Where there is none nothing is sent, and the peer is told.
func TestProbesByInterface(t *testing.T) {
	w := newWorld(t, 2)
	w.chatter = false
	change := w.plan(steps.Apply, 1, 0)
	sent := [2][]Flow{}
	for i, n := range w.hosts {
		p := &change.begins[i].Pairs[0]
		for k, payload := range p.Policies {
			xp, err := xfrm.DecodePolicy(payload)
			if err != nil {
				t.Fatal(err)
			}
			xp.IfID = 7
			if p.Policies[k], err = xfrm.EncodePolicy(xp); err != nil {
				t.Fatal(err)
			}
		}
		send := n.host.cfg.Send
		n.host.cfg.Send = func(ctx context.Context, f Flow) error {
			sent[i] = append(sent[i], f)
			return send(ctx, f)
		}
		n.host.cfg.Interface = func(ifID uint32) string {
			return map[bool]string{true: "ipsec7"}[i == 0 && ifID == 7]
		}
	}
	w.carryOut(change, until(steps.Probe))
	q := steps.ProbeQuestion{Change: change.id, Within: probeFor}
	if _, err := w.hosts[0].host.Probe(t.Context(), q); err != nil || len(sent[0]) == 0 || sent[0][0].Device != "ipsec7" {
		t.Errorf("%+v, %v", sent[0], err)
	}
	a, err := w.hosts[1].host.Probe(t.Context(), q)
	if err != nil || len(sent[1]) > 0 || len(a.Unsendable) != 1 || !strings.Contains(a.Unsendable[0].Why, "no xfrm interface with if_id 7") {
		t.Errorf("%+v, %+v, %v", a, sent[1], err)
	}
}

// Where there are several SAs many flows are sent, inside the selector; those of a fixed flow are left alone.
func TestSpread(t *testing.T) {
	for _, c := range []struct {
		protocol uint8
		port     uint16
		sas      int
		varies   bool
	}{{0, 0, 2, true}, {0, 0, 1, false}, {inet.ProtoUDP, 0, 2, true}, {inet.ProtoUDP, 53, 2, false}, {inet.ProtoICMP, 0, 2, false}} {
		w := newWorld(t, 2)
		sel := xfrm.Selector{Family: 2}
		sel.Protocol = c.protocol
		if c.port > 0 {
			sel.SrcPort.Value, sel.SrcPort.Mask = c.port, 0xffff
		}
		l := &lane{spreadBy: Flow{Src: w.hosts[0].addr, Dst: w.hosts[1].addr, Protocol: inet.ProtoUDP, DstPort: 9}}
		l.spreadOver(sel.Selector, c.sas)
		n := 0
		l.sendSpread(t.Context(), func(_ context.Context, f Flow) error {
			if n++; f.Protocol != inet.ProtoUDP || f.SrcPort != 0 || f.DstPort == 0 {
				t.Errorf("%+v", f)
			}
			return nil
		})
		if c.varies != (n > 2*c.sas) || !c.varies && n > 0 {
			t.Errorf("%+v: %d flows", c, n)
		}
	}
}
