package verdict

import (
	"strings"
	"testing"

	"espalier/ipsec"
)

func TestProbedJudge(t *testing.T) {
	const n = 10
	hardware := Judgement{Verdict: Hardware, Why: "10 of 10 packets in the NIC's counters"}
	software := Judgement{Verdict: Software, Why: "read back without an offload device"}
	nobody := Judgement{Verdict: Unknown, Why: "it does not count"}
	still := Judgement{Verdict: Unknown, Reason: StoodStill, Why: "the NIC's counters stand still"}
	cpu := &PeerWord{Accepted: n}
	nic := func(c Control) *PeerWord {
		return &PeerWord{Accepted: n, Offload: ipsec.CryptoOffload, Control: c}
	}
	sealed := &TapWord{ESP: n}
	for _, c := range []struct {
		name    string
		p       Probed
		result  Result
		verdict Verdict
		says    string
	}{
		{"nobody was asked", Probed{Here: hardware}, Unproven, Unknown, "neither the peer nor a tap"},

		{"the peer's CPU verified", Probed{Here: hardware, Peer: cpu}, Proven, Hardware, "its CPU"},
		{"and more than the probes", Probed{Here: hardware, Peer: &PeerWord{Accepted: 1000}}, Proven, Hardware, "took 1000"},
		{"in software here", Probed{Here: software, Peer: cpu}, Proven, Software, "read back"},
		{"a userspace peer, emulating", Probed{Here: hardware, Peer: &PeerWord{Accepted: n, Offload: ipsec.CryptoOffload, Userspace: true}}, Proven, Hardware, "userspace"},
		{"the peer's NIC, not tried", Probed{Here: hardware, Peer: nic(NoControl)}, Unproven, Unknown, "not seen to refuse"},
		{"the peer's NIC, hidden", Probed{Here: hardware, Peer: nic(ControlUnclear)}, Unproven, Unknown, "not seen to refuse"},
		{"the peer's NIC refuses", Probed{Here: hardware, Peer: nic(ControlRefused)}, Proven, Hardware, "refused a packet"},
		{"the peer's NIC takes anything", Probed{Here: hardware, Peer: nic(ControlTaken)}, Failed, Unknown, "nobody had encrypted"},

		{"forged counters, honest peer", Probed{Here: hardware, Peer: &PeerWord{Forged: n}}, Failed, Unknown, "refused 10"},
		{"one in ten is broken", Probed{Here: hardware, Peer: &PeerWord{Accepted: n - 1, Forged: 1}}, Failed, Unknown, "refused 1"},
		{"a stranger sends rubbish", Probed{Here: hardware, Peer: &PeerWord{Accepted: n, Forged: 3}}, Unproven, Unknown, "somebody else"},
		{"nothing arrives", Probed{Here: hardware, Peer: &PeerWord{}}, Unproven, Unknown, "took 0"},
		{"some are lost", Probed{Here: hardware, Peer: &PeerWord{Accepted: n - 1}}, Unproven, Unknown, "took 9"},
		{"replayed", Probed{Here: hardware, Peer: &PeerWord{Replayed: n}}, Unproven, Unknown, "seen before"},

		{"counters still, yet encrypted", Probed{Here: still, Peer: cpu}, Proven, Software, "counted none"},
		{"counters still, and not encrypted", Probed{Here: still, Peer: &PeerWord{Forged: n}}, Failed, Unknown, "refused 10"},
		{"no counters, yet encrypted", Probed{Here: nobody, Peer: cpu}, Proven, Unknown, "its CPU"},

		{"sealed on the wire", Probed{Here: hardware, Tap: sealed}, Proven, Hardware, "no probe can be read"},
		{"opened with the key", Probed{Here: hardware, Tap: &TapWord{ESP: n, Opened: n}}, Proven, Hardware, "verify under its key"},
		{"readable on the wire", Probed{Here: hardware, Tap: &TapWord{ESP: n, Readable: n}}, Failed, Unknown, "can be read"},
		{"not the key's", Probed{Here: hardware, Tap: &TapWord{ESP: n, Opened: n - 1, Broken: 1}}, Failed, Unknown, "does not verify"},
		{"a nonce twice", Probed{Here: hardware, Tap: &TapWord{ESP: n, Reused: 1}}, Failed, Unknown, "nonce"},
		{"tap elsewhere", Probed{Here: hardware, Tap: &TapWord{}}, Unproven, Unknown, "no packet of the SA"},
		{"cut short", Probed{Here: hardware, Tap: &TapWord{ESP: n, Cut: n}}, Unproven, Unknown, "-s 0"},
		{"too few on the wire", Probed{Here: hardware, Tap: &TapWord{ESP: n - 1}}, Unproven, Unknown, "saw 9"},

		{"the tap outweighs the peer", Probed{Here: hardware, Tap: &TapWord{ESP: n, Readable: n}, Peer: nic(ControlRefused)}, Failed, Unknown, "can be read"},
		{"the peer outweighs the tap", Probed{Here: hardware, Tap: sealed, Peer: &PeerWord{Forged: n}}, Failed, Unknown, "refused 10"},
		{"the tap helps the peer out", Probed{Here: hardware, Tap: sealed, Peer: nic(NoControl)}, Proven, Hardware, "no probe can be read"},
		{"the peer helps the tap out", Probed{Here: hardware, Tap: &TapWord{}, Peer: cpu}, Proven, Hardware, "its CPU"},
	} {
		c.p.Sent, c.p.Counted = n, n
		got := c.p.Judge()
		if got.Result != c.result || got.Verdict != c.verdict || !strings.Contains(strings.Join(got.Why, "\n"), c.says) {
			t.Errorf("%s: %+v, want %s, %s and something about %q", c.name, got, c.result, c.verdict, c.says)
		}
		if got.Result == Unproven && len(got.Why) == 0 {
			t.Errorf("%s: no word about what is missing", c.name)
		}
		// Probes that another SA carried prove nothing about this one, unless they are seen in clear.
		c.p.Counted = n - 1
		if got := c.p.Judge(); got.Result == Proven || c.result == Failed && got.Result != Failed {
			t.Errorf("%s, sent by another SA: %+v", c.name, got)
		}
	}
}
