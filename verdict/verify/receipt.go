package verify

import (
	"context"
	"net/netip"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/verdict"
	"espalier/xfrm"
)

// Query names an SA of a peer's.
type Query struct {
	Dst netip.Addr `json:"dst"`
	SPI ipsec.SPI  `json:"spi"`
}

// Receipt is what a receiver's SA counts, since it was added.
type Receipt struct {
	Host      string            `json:"host,omitempty"`
	SAD       string            `json:"sad,omitempty"` // kernel or unix:PATH
	Packets   uint64            `json:"packets"`
	Forged    uint64            `json:"forged"`   // ICV did not verify
	Replayed  uint64            `json:"replayed"` // seen before, or older than the window
	Highest   uint64            `json:"highest"`  // sequence number received; 0 without a window
	Window    uint32            `json:"window"`
	Offload   ipsec.OffloadMode `json:"offload"` // 0 no, 1 crypto, 2 packet
	Userspace bool              `json:"userspace,omitempty"`
}

// Engine is a SAD that is only read.
type Engine interface {
	GetState(context.Context, xfrm.StateID) (*xfrm.State, error)
}

// Ask reads a receipt. userspace says that the engine is a device, not the kernel.
func Ask(ctx context.Context, engine Engine, userspace bool, q Query) (Receipt, error) {
	s, err := engine.GetState(ctx, xfrm.StateID{Dst: q.Dst, Proto: unix.IPPROTO_ESP, SPI: q.SPI})
	if err != nil {
		return Receipt{}, err
	}
	s.WipeKeys()
	r := Receipt{
		Packets: s.Current.Packets, Forged: uint64(s.Stats.IntegrityFailed),
		Replayed: uint64(s.Stats.Replay) + uint64(s.Stats.ReplayWindow),
		Window:   s.ReplayWindow, Userspace: userspace,
	}
	if s.Replay != nil {
		r.Highest = uint64(s.Replay.SeqHi)<<32 | uint64(s.Replay.Seq)
	}
	if s.Offload != nil {
		r.Offload = ipsec.CryptoOffload
		if s.Offload.Flags&xfrm.OffloadPacket != 0 {
			r.Offload = ipsec.PacketOffload
		}
	}
	return r, nil
}

// since is the word of a peer that gave a receipt before and r after the probes.
func (r Receipt) since(before Receipt) *verdict.PeerWord {
	return &verdict.PeerWord{
		Accepted: r.Packets - before.Packets, Forged: r.Forged - before.Forged, Replayed: r.Replayed - before.Replayed,
		Offload: r.Offload, Userspace: r.Userspace,
	}
}

// control is what became of a control packet with the number seq, between two receipts, while own
// packets were sent by the SA, the last with the number last.
func (r Receipt) control(before Receipt, seq, own, last uint64) verdict.Control {
	w := r.since(before)
	switch {
	case w.Forged > 0:
		return verdict.ControlRefused
	case r.Window > 0 && (last >= seq || w.Replayed > 0):
		return verdict.ControlUnclear
	case r.Window > 0 && r.Highest >= seq || r.Window == 0 && w.Accepted > own:
		return verdict.ControlTaken
	}
	// A NIC may drop it without a word to the kernel.
	return verdict.ControlRefused
}
