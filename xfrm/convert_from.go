package xfrm

import (
	"math"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// withheldKeyBits stands for the length of a key that is not known: AES-256 and salt. An
// engine checks the length even where it ignores the key.
const withheldKeyBits = 288

// StateFromSA translates an SA. Counters are included, so that the state can be shown as
// well as installed; for an installation that starts at sequence number 1 they are zero.
// The state shares the SA's key. An SA without one, as engines that keep keys to themselves
// give it back, becomes a state whose key is withheld: good for an update, which never
// looks at the key, and not to be added. Errors wrap ipsec.ErrInvalid.
func StateFromSA(sa *ipsec.SA) (*State, error) {
	if sa.ICVBits <= 0 || sa.ICVBits > math.MaxInt32 {
		return nil, invalid("ICV of %d bits", sa.ICVBits)
	}
	mode, err := modeFromIPsec(sa.Mode)
	if err != nil {
		return nil, err
	}
	limits, err := limitsFromIPsec(&sa.Limits)
	if err != nil {
		return nil, err
	}
	s := &State{
		Src: sa.Src, Dst: sa.Dst, Proto: unix.IPPROTO_ESP, SPI: sa.SPI,
		Mode:         mode,
		Reqid:        sa.RequestID,
		Sel:          Selector{Selector: sa.Selector},
		Limits:       limits,
		ReplayWindow: sa.Window,
		PCPU:         sa.CPU,
		AEAD:         &AEAD{Name: AEADName, Key: sa.Key, KeyBits: uint32(sa.Key.Len()) * 8, ICVBits: uint32(sa.ICVBits)},
	}
	if sa.Key.Len() == 0 {
		s.AEAD.KeyBits = withheldKeyBits
	}
	if s.Sel.Family, err = selectorFamily(&s.Sel); err != nil {
		return nil, err
	}
	if sa.ESN {
		s.Flags |= FlagESN
	}
	if mode == ModeTunnel && s.Sel.Family == unix.AF_UNSPEC {
		s.Flags |= FlagAFUnspec // else Linux narrows the selector to the SA's own family
	}
	if e := sa.Encap; e != nil {
		s.Encap = &EncapTmpl{Type: EncapESPInUDP, SrcPort: e.SrcPort, DstPort: e.DstPort, OA: e.Original}
	}
	if s.NATKeepalive, err = wholeSeconds("NAT keepalive", sa.NATKeepalive); err != nil {
		return nil, err
	}
	if s.MappingThresh, err = wholeSeconds("mapping age", sa.MappingAge); err != nil {
		return nil, err
	}
	if err := s.setDirection(sa); err != nil {
		return nil, err
	}
	return s, s.setCounters(sa)
}

// wholeSeconds is an interval as XFRMA_NAT_KEEPALIVE_INTERVAL and XFRMA_MTIMER_THRESH have it.
func wholeSeconds(what string, d time.Duration) (uint32, error) {
	if d < 0 || d%time.Second != 0 || d/time.Second > math.MaxUint32 {
		return 0, invalid("%s of %s: whole seconds only", what, d)
	}
	return uint32(d / time.Second), nil
}

func (s *State) setDirection(sa *ipsec.SA) error {
	switch sa.Direction {
	case ipsec.AnyDirection:
	case ipsec.Inbound:
		s.Dir = StateDirIn
	case ipsec.Outbound:
		s.Dir = StateDirOut
	default:
		return invalid("an SA cannot be of direction %s", sa.Direction)
	}
	o := sa.Offload
	if o.Mode == ipsec.NoOffload {
		return nil
	}
	if o.Interface <= 0 || o.Interface > math.MaxInt32 {
		return invalid("offload to interface index %d", o.Interface)
	}
	s.Offload = &Offload{Ifindex: int32(o.Interface)}
	switch o.Mode {
	case ipsec.CryptoOffload:
	case ipsec.PacketOffload:
		s.Offload.Flags |= OffloadPacket
	default:
		return invalid("offload mode %d", uint8(o.Mode))
	}
	switch o.Direction {
	case ipsec.Inbound:
		s.Offload.Flags |= OffloadInbound
	case ipsec.Outbound:
	default:
		return invalid("offload of direction %s: in or out", o.Direction)
	}
	return nil
}

func (s *State) setCounters(sa *ipsec.SA) error {
	c := &sa.Counters
	if !sa.ESN && (c.Sent > math.MaxUint32 || c.Received > math.MaxUint32) {
		return invalid("sequence number beyond 32 bits without ESN")
	}
	if c.Sent != 0 || c.Received != 0 || len(c.Bitmap) != 0 || s.wideReplay() {
		s.Replay = &ReplayState{
			OSeq: uint32(c.Sent), OSeqHi: uint32(c.Sent >> 32),
			Seq: uint32(c.Received), SeqHi: uint32(c.Received >> 32),
			Bitmap: append([]uint32(nil), c.Bitmap...),
		}
	}
	used := unixSeconds(c.Used)
	s.Current = LifetimeCurrent{Bytes: c.Bytes, Packets: c.Packets, AddTime: unixSeconds(c.Added), UseTime: used}
	s.LastUsed = used
	s.Stats = StateStats{
		ReplayWindow:    clamp32(c.WindowDrops),
		Replay:          clamp32(c.ReplayDrops),
		IntegrityFailed: clamp32(c.IntegrityDrops),
	}
	return nil
}

func clamp32(v uint64) uint32 { return uint32(min(v, math.MaxUint32)) }
