package dataplane

import (
	"context"
	"sync/atomic"

	"espalier/ipsec"
)

// Reason is why a packet was not passed on. There is one for each place that drops.
type Reason uint8

const (
	// Outbound, in packet order.
	OutMalformed Reason = iota
	OutJumbogram
	OutDiscard
	OutFragmentSelector
	OutReassembly
	OutNoSA
	OutExpired
	OutSequence
	OutExtensions
	OutTooBig
	OutNoRoute
	OutFiltered
	OutSendError

	// Inbound, in packet order.
	InOverrun
	InTruncated
	InNotESP
	InNoSA
	InLarval
	InDirection
	InExpired
	InEncapsulation
	InReplay
	InWindow
	InIntegrity
	InPadding
	InLength
	InNextHeader
	InMalformed
	InECN
	InSelector
	InFragmentSelector
	InNoPolicy
	InPolicyDiscard
	InPolicyMismatch
	InTUN

	// What routers say of packets that were too big.
	InTooBigUnknown
	InTooBigRefused

	reasons // how many there are
)

// reasonTable is the one place where a reason gets its name, the counter that Linux would
// raise (/proc/net/xfrm_stat; it counts several reasons together) and its meaning.
var reasonTable = [reasons]struct{ name, counter, meaning string }{
	OutMalformed:        {"out-malformed", "XfrmOutError", "the kernel handed over a packet that does not parse"},
	OutJumbogram:        {"out-jumbogram", "XfrmOutError", "IPv6 jumbogram (RFC 2675)"},
	OutDiscard:          {"out-discard", "XfrmOutPolBlock", "an out policy discards it"},
	OutFragmentSelector: {"out-fragment-selector", "XfrmOutPolError", "fragment under an out policy that selects ports"},
	OutReassembly:       {"out-reassembly", "XfrmOutError", "fragments overlap, exceed 65535 bytes or never became whole"},
	OutNoSA:             {"out-no-sa", "XfrmOutNoStates", "no SA fits the out policy (request id, mode, addresses, selector)"},
	OutExpired:          {"out-expired", "XfrmOutStateExpired", "the SA has reached a hard limit of bytes or packets"},
	OutSequence:         {"out-sequence-exhausted", "XfrmOutStateSeqError", "the SA has used all its sequence numbers: install a new one"},
	OutExtensions:       {"out-extensions", "XfrmOutError", "IPv6 extension headers that UDP encapsulation cannot carry in their order"},
	OutTooBig:           {"out-too-big", "XfrmOutError", "longer than the path MTU and not to be fragmented"},
	OutNoRoute:          {"out-no-route", "XfrmOutError", "no route to the peer"},
	OutFiltered:         {"out-filtered", "XfrmOutError", "a packet filter refused it"},
	OutSendError:        {"out-send-error", "XfrmOutError", "the socket refused it"},

	InOverrun:          {"in-overrun", "XfrmInError", "ESP arrived faster than it was read, or longer than the device's MTU"},
	InTruncated:        {"in-truncated", "XfrmInHdrError", "shorter than an ESP header and ICV"},
	InNotESP:           {"in-not-esp", "", "UDP packet on the encapsulation port that is not ESP (IKE)"},
	InNoSA:             {"in-no-sa", "XfrmInNoStates", "unknown SPI"},
	InLarval:           {"in-larval", "XfrmAcquireError", "the SPI is allocated, but its SA has not been installed yet"},
	InDirection:        {"in-direction", "XfrmInStateDirError", "the SA is for sending only"},
	InExpired:          {"in-expired", "XfrmInStateExpired", "the SA has reached a hard limit of bytes or packets"},
	InEncapsulation:    {"in-encapsulation", "XfrmInStateMismatch", "arrived in UDP for an SA without encapsulation, or bare for one with it"},
	InReplay:           {"in-replay", "XfrmInStateSeqError", "sequence number seen before"},
	InWindow:           {"in-window", "XfrmInStateSeqError", "sequence number older than the replay window"},
	InIntegrity:        {"in-integrity", "XfrmInStateProtoError", "ICV does not verify: wrong key or changed on the way"},
	InPadding:          {"in-padding", "XfrmInStateProtoError", "padding is not 1, 2, 3 … or longer than the payload"},
	InLength:           {"in-length", "XfrmInHdrError", "inner packet's length does not fit"},
	InNextHeader:       {"in-next-header", "XfrmInStateModeError", "next header that the SA's mode does not allow"},
	InMalformed:        {"in-malformed", "XfrmInHdrError", "the inner packet does not parse"},
	InECN:              {"in-ecn", "XfrmInHdrError", "congestion marked on a flow that is not ECN-capable (RFC 6040)"},
	InSelector:         {"in-selector", "XfrmInStateMismatch", "inner packet is outside the SA's selector"},
	InFragmentSelector: {"in-fragment-selector", "XfrmInStateMismatch", "inner fragment under a selector with ports"},
	InNoPolicy:         {"in-no-policy", "XfrmInNoPols", "no in or fwd policy for a tunnelled packet"},
	InPolicyDiscard:    {"in-policy-discard", "XfrmInPolBlock", "an in or fwd policy discards it"},
	InPolicyMismatch:   {"in-policy-mismatch", "XfrmInTmplMismatch", "the SA is not the one the policy asks for (request id, mode, addresses)"},
	InTUN:              {"in-tun", "XfrmInError", "the TUN device did not take it"},

	InTooBigUnknown: {"in-too-big-unknown", "", "ICMP too-big that quotes no packet of an SA"},
	InTooBigRefused: {"in-too-big-refused", "", "ICMP too-big that quotes a packet not sent lately, or tells an MTU that no path has"},
}

func (r Reason) String() string { return reasonTable[r].name }

// drops counts by reason. The zero value is ready; it is safe for concurrent use.
type drops [reasons]atomic.Uint64

func (d *drops) count(r Reason)         { d[r].Add(1) }
func (d *drops) countN(r Reason, n int) { d[r].Add(uint64(n)) }

// Drops implements ipsec.Accounting.
func (d *Device) Drops(context.Context) ([]ipsec.DropCount, error) {
	counts := DropReasons()[:reasons]
	for r := range counts {
		counts[r].Packets = d.drops[r].Load()
	}
	counts[InOverrun].Packets += d.tap.overrun()
	counts[InTruncated].Packets += d.unreadable()
	stopped, err := d.guard.Counters()
	if err != nil {
		return nil, err
	}
	guarded := guardReasons
	guarded[0].Packets, guarded[1].Packets = stopped.Out, stopped.In
	return append(counts, guarded[:]...), nil
}

// guardReasons are those of the guard, which is not of the process.
var guardReasons = [2]ipsec.DropCount{
	{Reason: "guard-out", Counter: "XfrmOutPolBlock", Meaning: "cleartext of a protected selector that went past the routes"},
	{Reason: "guard-in", Counter: "XfrmInTmplMismatch", Meaning: "cleartext of a protected selector from the wire"},
}

// DropReasons are all reasons that a device has, in packet order, with no packets.
func DropReasons() []ipsec.DropCount {
	all := make([]ipsec.DropCount, 0, len(reasonTable)+len(guardReasons))
	for _, row := range reasonTable {
		all = append(all, ipsec.DropCount{Reason: row.name, Counter: row.counter, Meaning: row.meaning})
	}
	return append(all, guardReasons[:]...)
}

// unreadable counts what the sockets received and threw away, such as packets that end with
// the outer header.
func (d *Device) unreadable() uint64 {
	n := d.udp.malformed()
	for _, r := range d.raw {
		n += r.Malformed()
	}
	return n
}
