package guest

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"espalier/test/lab"
	"espalier/verdict"
	"espalier/verdict/verify"
	"espalier/xfrm"
)

const verifySection = VerdictSection + "by espalier verify"

// What espalier verify comes to: with the peer's word, with a tap on the cable, and without either.
// No NIC passes that does not encrypt, whatever it counts.
func TestVerifyNIC(t *testing.T) {
	const (
		proven, failed, unknown = verdict.Proven, verdict.Failed, verdict.Unproven
		hardware, software, no  = verdict.Hardware, verdict.Software, verdict.Unknown
	)
	type outcome struct {
		verdict.Result
		verdict.Verdict
	}
	l := newNICLab(t, "p4p1")
	for _, tt := range []struct {
		name      string
		fault     string // of A's end, of B's
		pair      lab.Pair
		peer      lab.Pair // that of B: in software, or as A's
		change    func(t *testing.T)
		truth     truth
		byPeer    outcome
		byTap     outcome
		noControl bool
	}{
		{name: "honest NICs", truth: theNIC, byPeer: outcome{proven, hardware}, byTap: outcome{proven, hardware}},
		{name: "honest NICs, IPv6, tunnel, ESN", pair: lab.Pair{V6: true, Tunnel: true, ESN: true}, truth: theNIC, byPeer: outcome{proven, hardware}, byTap: outcome{proven, hardware}},
		{name: "honest NICs, and no control packet", noControl: true, truth: theNIC, byPeer: outcome{unknown, no}, byTap: outcome{proven, hardware}},
		{name: "an honest NIC, to software", peer: lab.Pair{Software: true}, truth: theNIC, byPeer: outcome{proven, hardware}, byTap: outcome{proven, hardware}},
		{name: "a NIC that does not take the SA", fault: "eopnotsupp,none", truth: theKernel, byPeer: outcome{proven, software}, byTap: outcome{proven, software}},
		{name: "a NIC whose esp-hw-offload was switched off", change: func(t *testing.T) { l.espOff(t, l.A) }, truth: theKernel, byPeer: outcome{proven, software}, byTap: outcome{proven, software}},
		{name: "an honest NIC that tells no counters", change: func(t *testing.T) { setParameter(t, "counters", "0") }, truth: theNIC, byPeer: outcome{proven, no}, byTap: outcome{proven, no}},
		{name: "lying NICs", fault: "lying", truth: nobody, byPeer: outcome{failed, no}, byTap: outcome{failed, no}},
		{name: "a lying NIC, to an honest one", fault: "lying,none", truth: nobody, byPeer: outcome{failed, no}, byTap: outcome{failed, no}},
		{name: "a lying NIC, to software", fault: "lying,none", peer: lab.Pair{Software: true}, truth: nobody, byPeer: outcome{failed, no}, byTap: outcome{failed, no}},
		{name: "NICs that forge their counters", fault: "forging", truth: nobody, byPeer: outcome{failed, no}, byTap: outcome{failed, no}},
		{name: "NICs that forge, IPv6, tunnel", fault: "forging", pair: lab.Pair{V6: true, Tunnel: true}, truth: nobody, byPeer: outcome{failed, no}, byTap: outcome{failed, no}},
		{name: "a NIC that forges, to an honest one", fault: "forging,none", truth: nobody, byPeer: outcome{failed, no}, byTap: outcome{failed, no}},
		{name: "a NIC that forges, to software", fault: "forging,none", peer: lab.Pair{Software: true}, truth: nobody, byPeer: outcome{failed, no}, byTap: outcome{failed, no}},
		{name: "a NIC whose ICVs are wrong", fault: "corrupt,none", truth: theNIC, byPeer: outcome{failed, no}, byTap: outcome{failed, no}},
		{name: "a NIC that drops", fault: "drop,none", truth: lostByNIC, byPeer: outcome{unknown, no}, byTap: outcome{unknown, no}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l.flush(t)
			if tt.fault != "" {
				setParameter(t, "fault", tt.fault)
			}
			tt.pair.SPI = 0x1000
			peer := tt.pair
			peer.Software = tt.peer.Software
			l.apply(t, l.A, l.Script(l.A, tt.pair))
			l.apply(t, l.B, l.Script(l.B, peer))
			if tt.change != nil {
				tt.change(t)
			}
			cable := watchCable(t)
			open(t, [2]*lab.Host{l.A, l.B}, []stream{{v6: tt.pair.V6}})() // for the truth: probes have words of their own
			s := l.session(t, !tt.noControl)
			if tt.fault == "" {
				if r := l.run(t, s); r.Result != unknown {
					t.Errorf("without a witness: %+v", r.Proof)
				}
			}
			s.Peer = func(ctx context.Context, q verify.Query) (verify.Receipt, error) {
				return verify.Ask(ctx, l.kernel[l.B], false, q)
			}
			byPeer := l.run(t, s)
			s.Peer, s.Tap = nil, lab.Tap(t, "wire0", func(f func() error) error { return f() })
			byTap := l.run(t, s)
			l.comeToRest(t)
			_, packets := cable.stop(t)
			if is := l.truthOf(t, 0, tt.pair.SAs()[0], true, packets); is != tt.truth {
				t.Errorf("in truth %s, want %s", is, tt.truth)
			}
			if got := (outcome{byPeer.Result, byPeer.Proof.Verdict}); got != tt.byPeer {
				t.Errorf("the peer was asked: %v, want %v: %q, %+v", got, tt.byPeer, byPeer.Why, byPeer.Probed.Peer)
			}
			if got := (outcome{byTap.Result, byTap.Proof.Verdict}); got != tt.byTap {
				t.Errorf("on the cable: %v, want %v: %q, %+v", got, tt.byTap, byTap.Why, byTap.Probed.Tap)
			}
			if !t.Failed() {
				Tell(verifySection, tt.name, fmt.Sprintf("%s → by the peer %s, by a tap %s", tt.truth, words(byPeer), words(byTap)))
			}
		})
	}
}

// words of a report for the table.
func words(r verify.Report) string {
	if r.Result == verdict.Proven {
		return fmt.Sprintf("%s, %s", r.Result, r.Proof.Verdict)
	}
	return string(r.Result)
}

// session is a verification of what A sends, with nobody to ask yet.
func (l *nicLab) session(t *testing.T, control bool) *verify.Session {
	t.Helper()
	kernel, ctx := l.kernel[l.A], context.Background()
	var states []*xfrm.State
	for s, err := range kernel.States(ctx, xfrm.StateFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, s)
	}
	var policies []*xfrm.Policy
	for p, err := range kernel.Policies(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		policies = append(policies, p)
	}
	flow, err := verify.Choose(states, policies, []netip.Addr{lab.A4, lab.A6}, verify.Wish{})
	if err != nil {
		t.Fatal(err)
	}
	return &verify.Session{
		Engine: kernel, Flow: flow, Probes: 10, Control: control, Patience: 300 * time.Millisecond,
		Watch: verify.Watcher(observer(t, l.A, kernel, false, false), flow),
	}
}

// run runs it in A's network namespace.
func (l *nicLab) run(t *testing.T, s *verify.Session) (r verify.Report) {
	t.Helper()
	inside(t, l.A, func() (err error) {
		r, err = s.Run(context.Background())
		return err
	})
	return r
}
