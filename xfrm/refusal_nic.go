package xfrm

import (
	"slices"

	"golang.org/x/sys/unix"
)

// nicRule is one reason of a driver's.
type nicRule struct {
	Refusal
	when func(*State) bool
}

// connectXRules are in the order in which the driver mlx5_core looks (drivers/net/ethernet/
// mellanox/mlx5/core/en_accel/ipsec.c). What only the card itself knows is not among them, such as
// whether it can do ESN, nor what Parse lets no one say.
var connectXRules = []nicRule{
	{Refusal{"authentication apart from encryption", "use aead '" + AEADName + "' KEY 128"},
		func(s *State) bool { return s.Auth != nil || s.AuthTrunc != nil }},
	{Refusal{"other encryption than AES-GCM with an ICV of 128 bits", "use aead '" + AEADName + "' KEY 128"},
		func(s *State) bool { return !isGCM(s) || s.AEAD.ICVBits != 128 }},
	{Refusal{"another protocol than ESP", "use proto esp"},
		func(s *State) bool { return s.Proto != unix.IPPROTO_ESP }},
	{Refusal{"UDP encapsulation in crypto mode", "leave encap out, or offload packet in transport mode"},
		func(s *State) bool { return s.Encap != nil && !packetOffload(s) }},
	{Refusal{"UDP encapsulation in another mode than transport", "use mode transport"},
		func(s *State) bool { return s.Encap != nil && s.Mode != ModeTransport }},
	{Refusal{"a key of AES-192", "use AES-128 or AES-256: 20 or 36 bytes with the salt"},
		func(s *State) bool { return !slices.Contains([]int{0, 20, 36}, s.AEAD.Key.Len()) }},
	{Refusal{"tfcpad", "leave it out"},
		func(s *State) bool { return s.TFCPad != 0 }},
	{Refusal{"a selector of another protocol than tcp, udp or any", "leave proto out of sel"},
		func(s *State) bool {
			return !slices.Contains([]uint8{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP}, s.Sel.Protocol)
		}},
	{Refusal{"another mode than transport or tunnel", "use one of them"},
		func(s *State) bool { return s.Mode != ModeTransport && s.Mode != ModeTunnel }},
	{Refusal{"packet offload with another replay window than 32, 64, 128 or 256", "use replay-window 64"},
		func(s *State) bool {
			return packetOffload(s) && s.Offload.Flags&OffloadInbound != 0 && !slices.Contains([]uint32{32, 64, 128, 256}, s.ReplayWindow)
		}},
	{Refusal{"packet offload without a reqid", "give the SA the reqid of its policy"},
		func(s *State) bool { return packetOffload(s) && s.Reqid == 0 }},
	{Refusal{"packet offload with a soft limit that is not below the hard one", "lower limit byte-soft or packet-soft"},
		func(s *State) bool {
			l := s.Limits
			return packetOffload(s) && (l.HardBytes != Infinity && l.SoftBytes >= l.HardBytes && l.SoftBytes != Infinity ||
				l.HardPackets != Infinity && l.SoftPackets >= l.HardPackets && l.SoftPackets != Infinity)
		}},
	{Refusal{"packet offload with a limit of 0", "leave the limit out"},
		func(s *State) bool {
			l := s.Limits
			return packetOffload(s) && (l.SoftBytes == 0 || l.HardBytes == 0 || l.SoftPackets == 0 || l.HardPackets == 0)
		}},
}

func packetOffload(s *State) bool { return s.Offload != nil && s.Offload.Flags&OffloadPacket != 0 }

// ConnectXRefusal is the first reason for which the driver of ConnectX and BlueField cards
// (mlx5_core) refuses to offload a state, in its order, nil if none is known.
func ConnectXRefusal(s *State) *Refusal {
	for i := range connectXRules {
		if r := &connectXRules[i]; r.when(s) {
			return &r.Refusal
		}
	}
	return nil
}
