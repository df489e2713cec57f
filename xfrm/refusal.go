package xfrm

import (
	"fmt"
	"slices"
)

// Refusal is a reason, known beforehand, for which an SA will not be taken as it stands.
type Refusal struct {
	Reason string
	Fix    string // what to do about it
}

func (r Refusal) String() string { return r.Reason + "; " + r.Fix }

// Release is the version of a Linux kernel in its first two numbers. The zero Release is one that
// is not known.
type Release struct{ Major, Minor int }

// ParseRelease reads what `uname -r` says.
func ParseRelease(text string) (r Release, err error) {
	if _, err := fmt.Sscanf(text, "%d.%d", &r.Major, &r.Minor); err != nil {
		return Release{}, fmt.Errorf("kernel release %q: %w", text, err)
	}
	return r, nil
}

func (r Release) before(other Release) bool {
	return r.Major < other.Major || r.Major == other.Major && r.Minor < other.Minor
}

// kernelRule is one reason of the kernel's.
type kernelRule struct {
	Refusal
	when         func(*State) bool
	since, until Release // kernels that know the rule; zero: all, and to this day
}

// applies reports whether a kernel knows the rule. Of one that is not known only what holds for
// all is said.
func (r *kernelRule) applies(kernel Release) bool {
	if kernel == (Release{}) {
		return r.since == Release{} && r.until == Release{}
	}
	return !kernel.before(r.since) && (r.until == Release{} || kernel.before(r.until))
}

// The releases that changed what is refused.
var (
	mappingAgeCame    = Release{5, 17}
	packetOffloadCame = Release{6, 2}
	directionCame     = Release{6, 10} // XFRMA_SA_DIR, before that ignored
)

// Bits of State.ExtraFlags (XFRM_SA_XFLAG_*).
const (
	ExtraDontEncapDSCP = 1
	ExtraOSeqMayWrap   = 2
)

// kernelRules are in the order of the kernel's own checks (net/xfrm/xfrm_user.c, xfrm_device.c,
// xfrm_replay.c and net/ipv4/esp4.c). What Parse lets no one say is not among them.
var kernelRules = []kernelRule{
	{
		Refusal: Refusal{"tfcpad in another mode than tunnel", "use mode tunnel, or leave tfcpad out"},
		when:    func(s *State) bool { return s.TFCPad != 0 && s.Mode != ModeTunnel },
	},
	{
		Refusal: Refusal{"flags decap-dscp, icmp or wildrecv with dir out", "they are the receiver's: leave them out"},
		when: func(s *State) bool {
			return s.Dir == StateDirOut && s.Flags&(FlagDecapDSCP|FlagICMP|FlagWildRecv) != 0
		},
		since: directionCame,
	},
	{
		Refusal: Refusal{"replay-window with dir out", "anti-replay is the receiver's: leave it out"},
		when:    func(s *State) bool { return s.Dir == StateDirOut && s.ReplayWindow != 0 },
		since:   directionCame,
	},
	{
		Refusal: Refusal{"replay-seq with dir out", "it is the receiver's: leave it out, or give replay-oseq"},
		when: func(s *State) bool {
			return s.Dir == StateDirOut && s.Replay != nil && (s.Replay.Seq != 0 || s.Replay.SeqHi != 0)
		},
		since: directionCame,
	},
	{
		Refusal: Refusal{"flag nopmtudisc with dir in", "it is the sender's: leave it out"},
		when:    func(s *State) bool { return s.Dir == StateDirIn && s.Flags&FlagNoPMTUDisc != 0 },
		since:   directionCame,
	},
	{
		Refusal: Refusal{"extra flags dont-encap-dscp or oseq-may-wrap with dir in", "they are the sender's: leave them out"},
		when: func(s *State) bool {
			return s.Dir == StateDirIn && s.ExtraFlags&(ExtraDontEncapDSCP|ExtraOSeqMayWrap) != 0
		},
		since: directionCame,
	},
	{
		Refusal: Refusal{"replay-oseq with dir in", "it is the sender's: leave it out, or give replay-seq"},
		when: func(s *State) bool {
			return s.Dir == StateDirIn && s.Replay != nil && (s.Replay.OSeq != 0 || s.Replay.OSeqHi != 0)
		},
		since: directionCame,
	},
	{
		Refusal: Refusal{"an AES-GCM key of another length than 20, 28 or 36 bytes", "give an AES key and 4 bytes of salt (RFC 4106 section 8.1)"},
		when: func(s *State) bool {
			return isGCM(s) && s.AEAD.Key.Len() > 0 && !slices.Contains([]int{20, 28, 36}, s.AEAD.Key.Len())
		},
	},
	{
		Refusal: Refusal{"an AES-GCM ICV of other than 64, 96 or 128 bits", "use 128"},
		when:    func(s *State) bool { return isGCM(s) && !slices.Contains([]uint32{64, 96, 128}, s.AEAD.ICVBits) },
	},
	{
		Refusal: Refusal{"flag esn without a replay-window, also for sending before Linux 6.10", "add replay-window 64"},
		when:    func(s *State) bool { return s.Flags&FlagESN != 0 && s.ReplayWindow == 0 },
		until:   directionCame,
	},
	{
		Refusal: Refusal{"offload in the other direction than dir", "give both the same"},
		when: func(s *State) bool {
			return s.Offload != nil && s.Dir != 0 && (s.Dir == StateDirIn) != (s.Offload.Flags&OffloadInbound != 0)
		},
		since: directionCame,
	},
	{
		Refusal: Refusal{"nat-keepalive without dir out and encap espinudp", "it is the sender's, for UDP: give both, or leave it out"},
		when: func(s *State) bool {
			return s.NATKeepalive != 0 && (s.Dir != StateDirOut || s.Encap == nil || s.Encap.Type != EncapESPInUDP)
		},
		since: directionCame,
	},
	{
		Refusal: Refusal{"mapping-maxage without encap", "it is for UDP: leave it out"},
		when:    func(s *State) bool { return s.MappingThresh != 0 && s.Encap == nil },
		since:   mappingAgeCame,
	},
	{
		Refusal: Refusal{"mapping-maxage with dir out", "it is the receiver's: leave it out"},
		when:    func(s *State) bool { return s.MappingThresh != 0 && s.Encap != nil && s.Dir == StateDirOut },
		since:   directionCame,
	},
	{
		Refusal: Refusal{"packet offload, which came with Linux 6.2", "use offload crypto, or a newer kernel"},
		when:    func(s *State) bool { return s.Offload != nil && s.Offload.Flags&OffloadPacket != 0 },
		until:   packetOffloadCame,
	},
	{
		Refusal: Refusal{"tfcpad with offload", "leave one of them out"},
		when:    func(s *State) bool { return s.Offload != nil && s.TFCPad != 0 },
	},
	{
		Refusal: Refusal{"UDP encapsulation with offload, before Linux 6.2", "leave one of them out"},
		when:    func(s *State) bool { return s.Offload != nil && s.Encap != nil },
		until:   packetOffloadCame,
	},
}

func isGCM(s *State) bool { return s.AEAD != nil && s.AEAD.Name == AEADName }

// Refusals are the reasons for which a kernel of this release will refuse a state, whatever its
// devices. None does not mean that it will be taken.
func Refusals(s *State, kernel Release) (found []Refusal) {
	for i := range kernelRules {
		if r := &kernelRules[i]; r.applies(kernel) && r.when(s) {
			found = append(found, r.Refusal)
		}
	}
	return found
}
