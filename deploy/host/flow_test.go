package host

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"espalier/deploy/steps"
	"espalier/internal/inet"
	"espalier/tunnel"
	"espalier/xfrm"
)

// bypassing is a first apply of a tunnel for all traffic but some protocols.
func bypassing(t *testing.T, w *world, protocols ...uint8) *planned {
	change := w.plan(steps.Apply, 2, 0)
	for i := range change.begins {
		p := &change.begins[i].Pairs[0]
		for _, dir := range []xfrm.PolicyDir{xfrm.PolicyOut, xfrm.PolicyIn} {
			for _, protocol := range protocols {
				xp := &xfrm.Policy{Dir: dir, Priority: 2, Limits: xfrm.NoLimits}
				from, to := p.Local, p.Remote
				if dir == xfrm.PolicyIn {
					from, to = to, from
				}
				xp.Sel.Family, xp.Sel.Protocol = 2, protocol
				xp.Sel.Src, xp.Sel.Dst = netip.PrefixFrom(from, 32), netip.PrefixFrom(to, 32)
				b, err := xfrm.EncodePolicy(xp)
				if err != nil {
					t.Fatal(err)
				}
				p.Policies = append(p.Policies, b)
			}
		}
	}
	return change
}

// Probes and heartbeats are what the pair's own policy decides on: what goes in clear, or by another tunnel, proves
// nothing.
func TestProbesGoByTheirPolicy(t *testing.T) {
	for _, protocols := range [][]uint8{{inet.ProtoICMP}, {inet.ProtoICMP, inet.ProtoUDP}} {
		w := newWorld(t, 2)
		w.chatter = false
		sent := 0
		for _, n := range w.hosts {
			send := n.host.cfg.Send
			n.host.cfg.Send = func(ctx context.Context, f Flow) error {
				if sent++; f.Protocol == inet.ProtoICMP {
					t.Errorf("%v bypassed: %+v", protocols, f)
				}
				return send(ctx, f)
			}
		}
		if got := w.carryOut(bypassing(t, w, protocols...), until(steps.Finish)); got != "died" || sent == 0 || w.clear > 0 {
			t.Errorf("%v bypassed: %s, %d sent, %d packets in clear", protocols, got, sent, w.clear)
		}
		sent = 0
		if w.advance(2 * time.Second); sent == 0 || w.clear > 0 {
			t.Errorf("%v bypassed: %d heartbeats, %d packets in clear", protocols, sent, w.clear)
		}
		w.settle()
		for _, n := range w.hosts {
			if got := n.journal().Change.Stage; got != steps.Finished {
				t.Errorf("%v bypassed: %s", protocols, got)
			}
		}
	}
}

// Where other policies decide on all that could be tried, that is said, and nothing is sent in their name.
func TestProbesHaveNoWay(t *testing.T) {
	w := newWorld(t, 2)
	w.chatter = false
	change := bypassing(t, w, inet.ProtoICMP, inet.ProtoUDP, inet.ProtoTCP)
	w.carryOut(change, until(steps.Probe))
	q := steps.ProbeQuestion{Change: change.id, Within: probeFor}
	var unsendable []steps.Seen
	for _, n := range w.hosts {
		a, err := n.host.Probe(t.Context(), q)
		if err != nil || len(a.Missing) != 1 || len(a.Unsendable) != 1 || a.Unsendable[0].Why != tunnel.ErrElsewhere.Error() {
			t.Fatalf("%+v, %v", a, err)
		}
		unsendable = append(unsendable, a.Unsendable...)
	}
	q.Excused = unsendable
	for _, n := range w.hosts {
		if a, err := n.host.Probe(t.Context(), q); err != nil || len(a.Missing) > 0 {
			t.Errorf("%+v, %v", a, err)
		}
		if _, err := n.host.Confirm(t.Context(), steps.Question{Change: change.id}); err != nil {
			t.Error(err)
		}
	}
	if w.advance(2 * time.Second); w.clear > 0 {
		t.Errorf("%d packets in clear", w.clear)
	}
	w.hosts[0].refuse = func(op, _ string) error {
		if op == "list policies" {
			return errors.New("it does not list them")
		}
		return nil
	}
	w.advance(2 * time.Second) // without heartbeats, and without harm
	if w.clear > 0 {
		t.Errorf("%d packets in clear", w.clear)
	}
}
