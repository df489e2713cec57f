package verdict

import (
	"fmt"

	"espalier/ipsec"
)

// Result of sending probe traffic through an SA.
type Result string

const (
	Proven   Result = "PROVEN"  // the probes left as ESP that nobody without the key could have made, or can read
	Failed   Result = "FAILED"  // they did not, or the receiver takes whatever comes
	Unproven Result = "UNKNOWN" // nobody outside of this host could tell
)

// Probed is probe traffic that was sent through an outbound SA, and the word of everybody who saw
// some of it.
type Probed struct {
	Sent    uint64    // probes handed to the network stack
	Counted uint64    // packets, of whatever kind, that the SA has sent meanwhile
	Here    Judgement // what this host's own evidence says
	Peer    *PeerWord // nil: the peer was not asked
	Tap     *TapWord  // nil: there was no tap
}

// PeerWord is what the receiver's SA counted while the probes came.
type PeerWord struct {
	Accepted  uint64            // packets it took
	Forged    uint64            // packets whose ICV did not verify
	Replayed  uint64            // packets seen before or older than the window
	Offload   ipsec.OffloadMode // who checks ICVs there: NoOffload is the peer's CPU
	Userspace bool              // a userspace device of the peer's does, whatever its Offload
	Control   Control
}

// Control is what the receiver made of a packet that was ESP in form only, with nothing encrypted
// and no ICV: what a NIC sends that does not do its work, and understands.
type Control string

const (
	NoControl      Control = ""        // none was sent
	ControlRefused Control = "refused" // so the receiver does check ICVs
	ControlTaken   Control = "taken"   // so it does not
	ControlUnclear Control = "unclear" // other traffic hides what became of it
)

// TapWord is what was seen on the wire, outside of both hosts.
type TapWord struct {
	ESP      uint64 // packets of the SA with sequence numbers of the probes' time, each number once
	Cut      uint64 // of these, packets of which the capture has only the beginning
	Opened   uint64 // of these, packets whose ICV verifies under the SA's key
	Broken   uint64 // of these, packets whose ICV does not. Both are 0 if the key could not be had
	Readable uint64 // packets of any kind in which a probe can be read
	Reused   uint64 // packets with a nonce that a different packet had before
}

// Proof is what the probes came to.
type Proof struct {
	Result  Result
	Verdict Verdict  // who encrypted; Unknown unless it is proven that somebody did
	Why     []string // what that rests on, for a person
}

// Judge hears the tap and the peer. One that saw the probes unprotected outweighs all others, and
// this host's own word proves nothing: it says who encrypted once somebody else has said that
// somebody did.
func (p *Probed) Judge() Proof {
	proof := Proof{Result: Unproven, Verdict: Unknown}
	for _, opinion := range []func() (Result, string){p.tap, p.peer} {
		result, why := opinion()
		if why != "" {
			proof.Why = append(proof.Why, why)
		}
		if result == Failed || result == Proven && proof.Result == Unproven {
			proof.Result = result
		}
	}
	switch {
	case p.Peer == nil && p.Tap == nil:
		proof.Why = append(proof.Why, "neither the peer nor a tap on the wire was asked: this host alone cannot prove what leaves it")
	case proof.Result == Proven && p.Counted < p.Sent:
		// What was seen outside may have been other packets.
		proof.Result = Unproven
		proof.Why = append(proof.Why, fmt.Sprintf("the SA carried %d of %d probes: the rest went another way", p.Counted, p.Sent))
	}
	if proof.Result == Proven {
		proof.Verdict = p.Here.Verdict
		switch {
		case p.Here.Reason == StoodStill || p.Here.Reason == LinkStill:
			proof.Verdict = Software
			proof.Why = append(proof.Why, "the probes were encrypted, and the NIC counted none: so the kernel encrypted them")
		case p.Here.Why != "":
			proof.Why = append(proof.Why, "here: "+p.Here.Why)
		}
	}
	return proof
}

// tap is what a tap's word proves by itself; no word without a tap.
func (p *Probed) tap() (Result, string) {
	t := p.Tap
	switch {
	case t == nil:
		return Unproven, ""
	case t.Readable > 0:
		return Failed, fmt.Sprintf("on the wire %d packets can be read: they are not encrypted", t.Readable)
	case t.Reused > 0:
		return Failed, fmt.Sprintf("on the wire %d packets have the nonce of another one: two such packets give away what is in both", t.Reused)
	case t.Broken > 0:
		return Failed, fmt.Sprintf("on the wire the ICV of %d packets does not verify under the SA's key", t.Broken)
	case t.ESP == 0:
		return Unproven, "the tap saw no packet of the SA: nothing left, or the tap is not on its way"
	case t.Cut > 0:
		return Unproven, fmt.Sprintf("of %d packets the tap has only the beginning: capture whole packets (tcpdump -s 0)", t.Cut)
	case t.ESP < p.Sent:
		return Unproven, fmt.Sprintf("the tap saw %d packets of the SA for %d probes", t.ESP, p.Sent)
	case t.Opened >= p.Sent:
		return Proven, fmt.Sprintf("on the wire %d packets of the SA; all verify under its key", t.ESP)
	}
	return Proven, fmt.Sprintf("on the wire %d packets of the SA, in which no probe can be read", t.ESP)
}

// peer is what the peer's word proves by itself. An ICV that its CPU has verified was made with the
// key. A NIC's word is worth something only if it was seen to refuse.
func (p *Probed) peer() (Result, string) {
	w := p.Peer
	switch {
	case w == nil:
		return Unproven, ""
	case w.Forged > 0 && w.Accepted < p.Sent:
		return Failed, fmt.Sprintf("the peer refused %d packets because their ICV does not verify, and took %d for %d probes", w.Forged, w.Accepted, p.Sent)
	case w.Forged > 0:
		return Unproven, fmt.Sprintf("the peer took %d packets for %d probes, and refused %d because their ICV does not verify: somebody else may send under this SPI", w.Accepted, p.Sent, w.Forged)
	case w.Accepted < p.Sent && w.Replayed > 0:
		return Unproven, fmt.Sprintf("the peer took %d packets for %d probes, and refused %d as seen before", w.Accepted, p.Sent, w.Replayed)
	case w.Accepted < p.Sent:
		return Unproven, fmt.Sprintf("the peer took %d packets for %d probes: the rest was lost on the way, or dropped by its NIC", w.Accepted, p.Sent)
	}
	took := fmt.Sprintf("the peer took %d packets for %d probes and refused none", w.Accepted, p.Sent)
	switch {
	case w.Userspace:
		return Proven, took + "; its userspace device has verified their ICVs"
	case w.Offload == ipsec.NoOffload:
		return Proven, took + "; its CPU has verified their ICVs"
	case w.Control == ControlRefused:
		return Proven, took + "; its NIC has verified their ICVs, and refused a packet without one"
	case w.Control == ControlTaken:
		return Failed, took + "; but its NIC also took a packet that nobody had encrypted"
	}
	return Unproven, took + "; but a NIC decrypts there too, and it was not seen to refuse a packet that nobody had encrypted"
}
