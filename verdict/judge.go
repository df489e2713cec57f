package verdict

import (
	"fmt"

	"espalier/ipsec"
)

// Judge judges each SA, in the order of Evidence.SAs.
func Judge(e Evidence) []Judgement {
	judgements := make([]Judgement, len(e.SAs))
	of := map[ledgerID]*ledger{}
	var inOrder []*ledger
	for i := range e.SAs {
		sa := &e.SAs[i]
		j, done := alone(&e, sa)
		if done {
			judgements[i] = j
			continue
		}
		id := e.idOf(sa.Offload.Interface, sa.Offload.Direction)
		if of[id] == nil {
			of[id] = newLedger(&e, id, e.device(sa.Offload.Interface))
			inOrder = append(inOrder, of[id])
		}
		of[id].enter(sa, i)
	}
	for _, l := range inOrder {
		l.judge(judgements)
	}
	return judgements
}

// alone judges an SA by what is known of it alone, as far as that suffices.
func alone(e *Evidence, sa *SA) (Judgement, bool) {
	moved := sa.Moved()
	switch {
	case sa.backwards():
		return Judgement{Verdict: Unknown, Reason: Backwards, Why: "a counter of it went backwards"}, true
	case moved == 0 && sa.After.Forged > sa.Before.Forged:
		return Judgement{Verdict: Unknown, Reason: Integrity, Why: "each of " + packets(sa.After.Forged-sa.Before.Forged) +
			" failed the integrity check: another key than the peer's, or changed on the way"}, true
	case moved == 0 && (sa.Offload.Mode != ipsec.PacketOffload || e.Engine == Userspace):
		return idle(), true
	case moved == 0:
		return Judgement{}, false // its NIC may have sent and not told
	case sa.Offload.Mode == ipsec.NoOffload && e.Engine == Userspace:
		return Judgement{Verdict: Software, Reason: NoOffload, Why: packets(moved) + " by the userspace device; not offloaded"}, true
	case sa.Offload.Mode == ipsec.NoOffload:
		return Judgement{Verdict: Software, Reason: NoOffload, Why: packets(moved) + "; the kernel reads it back without an offload device"}, true
	case e.Engine == Userspace:
		return Judgement{Verdict: Emulated, Reason: UserspaceDevice,
			Why: fmt.Sprintf("%s; %s offload to a userspace device, which encrypts on the CPU", packets(moved), sa.Offload.Mode)}, true
	}
	return Judgement{}, false
}

func idle() Judgement {
	return Judgement{Verdict: Idle, Reason: NoPacket, Why: "no packet in the interval"}
}

// Moved is how many packets of the SA passed through ESP in the interval: outbound those that got
// a sequence number, since the packets counted are ones that a NIC may cut up; inbound those that
// were decrypted, whatever became of them then. A NIC that does all of ESP numbers packets itself,
// and the SA has but the NIC's own count.
func (sa *SA) Moved() uint64 {
	b, a := &sa.Before, &sa.After
	numbers, count := a.Sequence-b.Sequence, a.Packets-b.Packets
	refused := a.Replayed - b.Replayed + a.Late - b.Late
	switch direction := sa.direction(); {
	case sa.Changed && count+refused == 0:
		return 0 // it may have been added with numbers in it
	case direction == ipsec.Outbound && sa.Offload.Mode == ipsec.PacketOffload && numbers == 0:
		return count
	case direction == ipsec.Outbound:
		return numbers
	case direction == ipsec.Inbound:
		return count + refused
	}
	return max(numbers, count+refused)
}

// worked is how many packets somebody had to encrypt or decrypt: those that are replayed are mostly
// refused before they are decrypted by the CPU, but not by a NIC.
func (sa *SA) worked() uint64 {
	if sa.direction() == ipsec.Inbound {
		return sa.After.Packets - sa.Before.Packets
	}
	return sa.Moved()
}

// direction is that of the offload, if there is one: a state of Linux need not have another.
func (sa *SA) direction() ipsec.Direction {
	if sa.Offload.Mode != ipsec.NoOffload {
		return sa.Offload.Direction
	}
	return sa.Direction
}

func (sa *SA) backwards() bool {
	b, a := &sa.Before, &sa.After
	return a.Sequence < b.Sequence || a.Packets < b.Packets || a.Bytes < b.Bytes ||
		a.Replayed < b.Replayed || a.Late < b.Late || a.Forged < b.Forged
}

// packets is a count for a person.
func packets(n uint64) string {
	if n == 1 {
		return "1 packet"
	}
	return digits(n) + " packets"
}

// digits groups the digits of a number.
func digits(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
