package xfrm

import (
	"math"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// SA translates into the vocabulary of package ipsec, with the kernel's checks of what
// goes together. What ipsec cannot express is refused: errors wrap ipsec.ErrUnsupported,
// or ipsec.ErrInvalid for what no engine would take. The SA shares the state's key.
//
// A transport SA whose selector is as wide as its address family becomes the zero Selector.
func (s *State) SA() (ipsec.SA, error) {
	sa := ipsec.SA{
		Src: s.Src, Dst: s.Dst, SPI: s.SPI,
		RequestID: s.Reqid,
		ESN:       s.Flags&FlagESN != 0,
		Window:    s.ReplayWindow,
		CPU:       s.PCPU,
		Counters:  s.counters(),
	}
	for _, step := range []func(*ipsec.SA) error{
		s.checkExpressible, s.convertMode, s.convertAEAD, s.convertSelector, s.convertEncap, s.convertDirection, s.convertNAT, s.convertLimits,
	} {
		if err := step(&sa); err != nil {
			return ipsec.SA{}, err
		}
	}
	return sa, nil
}

// checkExpressible refuses what ipsec.SA has no words for.
func (s *State) checkExpressible(*ipsec.SA) error {
	if s.Proto != unix.IPPROTO_ESP {
		return unsupported("IP protocol %d: only ESP (50)", s.Proto)
	}
	for _, a := range []struct {
		given bool
		name  string
	}{
		{s.Crypt != nil, "encryption algorithm (XFRMA_ALG_CRYPT)"},
		{s.Auth != nil, "authentication algorithm (XFRMA_ALG_AUTH)"},
		{s.AuthTrunc != nil, "authentication algorithm (XFRMA_ALG_AUTH_TRUNC)"},
		{s.Comp != nil, "compression (XFRMA_ALG_COMP)"},
	} {
		if a.given {
			return unsupported("%s: only %s", a.name, AEADName)
		}
	}
	const known = FlagESN | FlagAFUnspec
	switch {
	case s.Flags&^known != 0:
		return unsupported("state flags %#x: only esn and af-unspec", uint8(s.Flags&^known))
	case s.ExtraFlags != 0:
		return unsupported("extra flags %#x", s.ExtraFlags)
	case s.Mark != nil && *s.Mark != Mark{}:
		return unsupported("mark")
	case s.OutputMark != nil && *s.OutputMark != Mark{}:
		return unsupported("output-mark")
	case s.IfID != 0:
		return unsupported("if_id")
	case s.TFCPad != 0:
		return unsupported("tfcpad")
	case s.SecCtx != nil:
		return unsupported("security context (XFRMA_SEC_CTX)")
	case s.CoAddr.IsValid():
		return unsupported("care-of address (XFRMA_COADDR)")
	case s.IPTFS != nil:
		return unsupported("IP-TFS (XFRMA_IPTFS_*)")
	case s.Sel.User != 0:
		return unsupported("selector for a user id")
	}
	return nil
}

func (s *State) convertMode(sa *ipsec.SA) (err error) {
	sa.Mode, err = modeToIPsec(s.Mode)
	return err
}

func modeToIPsec(m Mode) (ipsec.Mode, error) {
	switch m {
	case ModeTransport:
		return ipsec.Transport, nil
	case ModeTunnel:
		return ipsec.Tunnel, nil
	}
	return 0, unsupported("mode %d: only transport and tunnel", uint8(m))
}

func modeFromIPsec(m ipsec.Mode) (Mode, error) {
	switch m {
	case ipsec.Transport:
		return ModeTransport, nil
	case ipsec.Tunnel:
		return ModeTunnel, nil
	}
	return 0, invalid("mode %d", uint8(m))
}

// convertAEAD checks the algorithm (RFC 4106 §8). A withheld key stays empty.
func (s *State) convertAEAD(sa *ipsec.SA) error {
	a := s.AEAD
	if a == nil {
		return unsupported("no AEAD algorithm: only %s", AEADName)
	}
	if a.Name != AEADName {
		return unsupported("AEAD algorithm %q: only %s", a.Name, AEADName)
	}
	bits := a.KeyBits
	if n := a.Key.Len(); n > 0 {
		bits = uint32(n) * 8
	}
	switch bits {
	case 160, 224, 288:
	default:
		return invalid("key of %d bits: 160, 224 or 288 with the salt", bits)
	}
	switch a.ICVBits {
	case 64, 96, 128:
	default:
		return invalid("ICV of %d bits: 64, 96 or 128", a.ICVBits)
	}
	sa.Key, sa.ICVBits = a.Key, int(a.ICVBits)
	return nil
}

// convertSelector fills in what a selector without a family means: the SA's own family,
// unless the state says af-unspec.
func (s *State) convertSelector(sa *ipsec.SA) error {
	sa.Selector = s.Sel.Selector
	switch {
	case s.Mode == ModeTransport:
		if prefixBits(sa.Selector.Src) == 0 && prefixBits(sa.Selector.Dst) == 0 {
			sa.Selector.Src, sa.Selector.Dst = netip.Prefix{}, netip.Prefix{}
		}
	case s.Sel.Family == unix.AF_UNSPEC && s.Flags&FlagAFUnspec == 0 && !s.Sel.Src.IsValid() && !s.Sel.Dst.IsValid():
		all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if s.Dst.Is4() {
			all = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		sa.Selector.Src, sa.Selector.Dst = all, all
	}
	return nil
}

// prefixBits is the length of a prefix, 0 for one that is not set.
func prefixBits(p netip.Prefix) int { return max(p.Bits(), 0) }

// convertEncap takes an original address of 0.0.0.0 or :: for none.
func (s *State) convertEncap(sa *ipsec.SA) error {
	if s.Encap == nil {
		return nil
	}
	if s.Encap.Type != EncapESPInUDP {
		return unsupported("encapsulation type %d: only espinudp", s.Encap.Type)
	}
	sa.Encap = &ipsec.Encap{SrcPort: s.Encap.SrcPort, DstPort: s.Encap.DstPort}
	if oa := s.Encap.OA; oa.IsValid() && !oa.IsUnspecified() {
		sa.Encap.Original = oa
	}
	return nil
}

// convertDirection checks what each direction forbids, as the kernel does for XFRMA_SA_DIR.
func (s *State) convertDirection(sa *ipsec.SA) error {
	var r ReplayState
	if s.Replay != nil {
		r = *s.Replay
	}
	switch s.Dir {
	case 0:
	case StateDirIn:
		sa.Direction = ipsec.Inbound
		if r.OSeq != 0 || r.OSeqHi != 0 {
			return invalid("an inbound SA has no outbound sequence number")
		}
	case StateDirOut:
		sa.Direction = ipsec.Outbound
		if s.ReplayWindow != 0 {
			return invalid("replay window should be 0 for an outbound SA")
		}
		if r.Seq != 0 || r.SeqHi != 0 {
			return invalid("an outbound SA has no inbound sequence number")
		}
	default:
		return invalid("direction %d", s.Dir)
	}
	if s.PCPU != nil && s.Dir == 0 {
		return invalid("SA_PCPU only supported with SA_DIR")
	}
	if sa.ESN && s.ReplayWindow == 0 && s.Dir != StateDirOut {
		return invalid("ESN needs a replay window unless the SA is outbound")
	}
	return s.convertOffload(sa)
}

// convertNAT checks what NAT traversal beside the encapsulation itself goes with: net/xfrm's
// __xfrm_init_state for keepalives, verify_newsa_info for mappings.
func (s *State) convertNAT(sa *ipsec.SA) error {
	switch {
	case s.NATKeepalive != 0 && s.Dir != StateDirOut:
		return invalid("NAT keepalive is only supported for outbound SAs: say dir out")
	case s.NATKeepalive != 0 && s.Encap == nil:
		return invalid("NAT keepalive is only supported for UDP encapsulation")
	case s.MappingThresh != 0 && s.Encap == nil:
		return invalid("MTIMER_THRESH attribute can only be set on ENCAP states")
	case s.MappingThresh != 0 && s.Dir == StateDirOut:
		return invalid("MTIMER_THRESH attribute should not be set on output SA")
	}
	sa.NATKeepalive = time.Duration(s.NATKeepalive) * time.Second
	sa.MappingAge = time.Duration(s.MappingThresh) * time.Second
	return nil
}

func (s *State) convertOffload(sa *ipsec.SA) error {
	o := s.Offload
	if o == nil {
		return nil
	}
	const known = OffloadIPv6 | OffloadInbound | OffloadPacket
	if o.Flags&^known != 0 {
		return invalid("offload flags %#x", uint8(o.Flags&^known))
	}
	sa.Offload = ipsec.Offload{Mode: ipsec.CryptoOffload, Interface: int(o.Ifindex), Direction: ipsec.Outbound}
	if o.Flags&OffloadPacket != 0 {
		sa.Offload.Mode = ipsec.PacketOffload
	}
	if o.Flags&OffloadInbound != 0 {
		sa.Offload.Direction = ipsec.Inbound
	}
	if sa.Direction != ipsec.AnyDirection && sa.Direction != sa.Offload.Direction {
		return invalid("SA and offload differ in direction")
	}
	return nil
}

func (s *State) convertLimits(sa *ipsec.SA) (err error) {
	sa.Limits, err = limitsToIPsec(&s.Limits)
	return err
}

// limitsToIPsec turns "infinite" into 0. A limit of 0 bytes or packets is one that is
// reached already, and refused.
func limitsToIPsec(l *LifetimeConfig) (ipsec.Limits, error) {
	var out ipsec.Limits
	for _, c := range []struct {
		from uint64
		to   *uint64
	}{
		{l.SoftBytes, &out.SoftBytes}, {l.HardBytes, &out.HardBytes},
		{l.SoftPackets, &out.SoftPackets}, {l.HardPackets, &out.HardPackets},
	} {
		switch c.from {
		case 0:
			return out, invalid("a limit of 0 bytes or packets is reached from the start")
		case Infinity:
		default:
			*c.to = c.from
		}
	}
	for _, c := range []struct {
		from uint64
		to   *time.Duration
	}{
		{l.SoftAdd, &out.SoftTime}, {l.HardAdd, &out.HardTime}, {l.SoftUse, &out.SoftIdle}, {l.HardUse, &out.HardIdle},
	} {
		if c.from > math.MaxInt64/uint64(time.Second) {
			return out, unsupported("limit of %d seconds", c.from)
		}
		*c.to = time.Duration(c.from) * time.Second
	}
	return out, nil
}

// limitsFromIPsec is the inverse of limitsToIPsec.
func limitsFromIPsec(l *ipsec.Limits) (LifetimeConfig, error) {
	out := NoLimits
	for _, c := range []struct {
		from uint64
		to   *uint64
	}{
		{l.SoftBytes, &out.SoftBytes}, {l.HardBytes, &out.HardBytes},
		{l.SoftPackets, &out.SoftPackets}, {l.HardPackets, &out.HardPackets},
	} {
		if c.from != 0 {
			*c.to = c.from
		}
	}
	for _, c := range []struct {
		from time.Duration
		to   *uint64
	}{
		{l.SoftTime, &out.SoftAdd}, {l.HardTime, &out.HardAdd}, {l.SoftIdle, &out.SoftUse}, {l.HardIdle, &out.HardUse},
	} {
		if c.from < 0 || c.from%time.Second != 0 {
			return out, invalid("limit of %s: whole seconds only", c.from)
		}
		*c.to = uint64(c.from / time.Second)
	}
	return out, nil
}

// counters are what is read back of an SA.
func (s *State) counters() ipsec.Counters {
	c := ipsec.Counters{
		Bytes: s.Current.Bytes, Packets: s.Current.Packets,
		Added: unixTime(s.Current.AddTime), Used: unixTime(max(s.LastUsed, s.Current.UseTime)),
		ReplayDrops:    uint64(s.Stats.Replay),
		WindowDrops:    uint64(s.Stats.ReplayWindow),
		IntegrityDrops: uint64(s.Stats.IntegrityFailed),
	}
	if r := s.Replay; r != nil {
		c.Sent = uint64(r.OSeqHi)<<32 | uint64(r.OSeq)
		c.Received = uint64(r.SeqHi)<<32 | uint64(r.Seq)
		if !allZeroWords(r.Bitmap) {
			c.Bitmap = append([]uint32(nil), r.Bitmap...)
		}
	}
	return c
}

func allZeroWords(w []uint32) bool {
	for _, v := range w {
		if v != 0 {
			return false
		}
	}
	return true
}

// unixTime is the time of a counter in seconds; 0 is none.
func unixTime(sec uint64) time.Time {
	if sec == 0 || sec > math.MaxInt64 {
		return time.Time{}
	}
	return time.Unix(int64(sec), 0)
}

// unixSeconds is the inverse of unixTime.
func unixSeconds(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(max(t.Unix(), 0))
}
