package dataplane

import (
	"encoding/binary"

	"espalier/internal/inet"
)

// flows remembers what was decided on flows that packets were of lately: for one goroutine, which
// need not look them up again as long as nothing has changed that the decision rests on.
//
// Of the SPD and of this host's addresses nothing may have changed at all. Of an SA whoever asks has
// to make sure: that of an outbound flow has no blemishes, and that of an inbound one is the packet's.
// An SA for one queue that comes counts as a change of the SPD, for its queue may have sent by one for all.
type flows struct {
	decided [1024]decision // first, to begin with a cache line
	passing decision
	d       *Device
}

// decision is what was decided on a flow, in one cache line: which policy and which SA its packets go
// by. Without an SA it is none.
type decision struct {
	flow   flowKey
	moment uint64 // how many changes there had been, see of
	policy *policy
	sa     *association
}

// flowKey is all that selectors look at in a packet.
type flowKey struct {
	addresses [4]uint64 // as they stand in the packet; of IPv4 both are in the first
	rest      uint64    // ports, protocol and version
}

// of gives the decision on the flow of a packet with this header. If there is none as yet, it is for
// the caller to fill in. Of fragments and of packets whose ports cannot be read none is remembered:
// what decides on them is not in the key.
func (f *flows) of(pkt []byte, h *inet.Header) *decision {
	if h.IsFragment() || noPorts(h) {
		f.passing = decision{}
		return &f.passing
	}
	// Read before anything is looked up: a decision that a change overtakes is never found again,
	// for the counts only grow.
	moment := f.d.spd.changes.Load() + f.d.locals.changes.Load()
	var k flowKey
	k.read(pkt, h)
	d := &f.decided[k.hash()%uint64(len(f.decided))]
	if d.moment != moment || !d.flow.is(&k) {
		*d = decision{flow: k, moment: moment}
	}
	return d
}

func (k *flowKey) read(pkt []byte, h *inet.Header) {
	k.rest = uint64(h.SrcPort)<<32 | uint64(h.DstPort)<<16 | uint64(h.Protocol)<<8 | uint64(h.Version)
	if h.Version == 4 {
		k.addresses[0] = binary.NativeEndian.Uint64(pkt[12:])
		return
	}
	for i := range k.addresses {
		k.addresses[i] = binary.NativeEndian.Uint64(pkt[8+8*i:])
	}
}

// is compares word by word, as keys are written: see packet.set.
func (k *flowKey) is(other *flowKey) bool {
	a, b := &k.addresses, &other.addresses
	return k.rest == other.rest && a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
}

// hash spreads flows over the table. Who makes them meet on purpose has them looked up, as before.
func (k *flowKey) hash() uint64 {
	const odd = 0x9e3779b97f4a7c15
	h := product(k.addresses[0]^k.rest, odd)
	if k.addresses[3] != 0 {
		h = product(h^k.addresses[1]^k.addresses[2], k.addresses[3]^odd)
	}
	return h
}
