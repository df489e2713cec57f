package xfrm

import (
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

const (
	// maxByteWindow is the widest window that the one-word bitmap of struct
	// xfrm_replay_state holds. Wider ones need struct xfrm_replay_state_esn.
	maxByteWindow = 32
	// maxWindow is XFRMA_REPLAY_ESN_MAX, in packets; maxBitmap the same in words.
	maxWindow = 4096
	maxBitmap = maxWindow / 32
)

// EncodeState returns the payload of NEWSA and UPDSA: struct xfrm_usersa_info and its
// attributes, in the order in which iproute2 sends them. It holds the key: the caller
// wipes it. An AEAD whose Key is empty and whose KeyBits is not is sent as that many zero
// bits, as engines do that keep keys to themselves.
//
// Errors wrap ipsec.ErrInvalid.
func EncodeState(s *State) ([]byte, error) {
	b := make([]byte, sizeUsersaInfo)
	family, err := putUsersaInfo(b, s)
	if err != nil {
		return nil, err
	}
	attrs, err := stateAttrs(s, family)
	if err != nil {
		return nil, err
	}
	b = append(b, attrs...)
	clear(attrs) // the key is in there
	return b, nil
}

// putUsersaInfo writes a struct xfrm_usersa_info and returns the SA's address family.
func putUsersaInfo(b []byte, s *State) (uint16, error) {
	family, err := addrFamily(s.Dst, s.Src)
	if err != nil {
		return 0, err
	}
	if !s.Dst.IsValid() {
		return 0, invalid("no destination address")
	}
	if err := putSelector(b[0:], &s.Sel); err != nil {
		return 0, err
	}
	if s.ReplayWindow > maxWindow {
		return 0, invalid("replay window %d: at most %d packets", s.ReplayWindow, maxWindow)
	}
	putID(b[56:], s.Dst, s.SPI, s.Proto)
	putAddr(b[80:], s.Src)
	putLimits(b[96:], &s.Limits)
	putCurrent(b[160:], &s.Current)
	host.PutUint32(b[192:], s.Stats.ReplayWindow)
	host.PutUint32(b[196:], s.Stats.Replay)
	host.PutUint32(b[200:], s.Stats.IntegrityFailed)
	host.PutUint32(b[204:], s.Seq)
	host.PutUint32(b[208:], s.Reqid)
	host.PutUint16(b[212:], family)
	b[214] = uint8(s.Mode)
	if !s.wideReplay() {
		b[215] = uint8(s.ReplayWindow)
	}
	b[216] = uint8(s.Flags)
	return family, nil
}

// wideReplay reports whether the replay state needs struct xfrm_replay_state_esn. The
// legacy window byte is 0 then (the kernel refuses both).
func (s *State) wideReplay() bool {
	if s.Flags&FlagESN != 0 || s.ReplayWindow > maxByteWindow {
		return true
	}
	r := s.Replay
	return r != nil && (r.SeqHi != 0 || r.OSeqHi != 0 || len(r.Bitmap) > 1)
}

// stateAttrs are the attributes behind a struct xfrm_usersa_info. They hold keys.
func stateAttrs(s *State, family uint16) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	if s.Encap != nil {
		b, err := encapBytes(s.Encap, family)
		if err != nil {
			return nil, err
		}
		ae.Bytes(attrEncap, b)
	}
	wipe, err := putAlgorithms(ae, s)
	defer wipe()
	if err != nil {
		return nil, err
	}
	if s.CoAddr.IsValid() {
		if f, err := addrFamily(s.CoAddr); err != nil || f != family {
			return nil, invalid("care-of address %s is not of the SA's family", s.CoAddr)
		}
		ae.Bytes(attrCoAddr, addrBytes(s.CoAddr))
	}
	if err := putSecCtx(ae, s.SecCtx); err != nil {
		return nil, err
	}
	if s.Offload != nil {
		ae.Bytes(attrOffload, offloadBytes(s.Offload))
	}
	if err := putReplay(ae, s); err != nil {
		return nil, err
	}
	putNonzero(ae, attrExtraFlags, s.ExtraFlags)
	if s.Mark != nil {
		ae.Bytes(attrMark, markBytes(s.Mark))
	}
	putNonzero(ae, attrIfID, s.IfID)
	putNonzero(ae, attrTFCPad, s.TFCPad)
	if m := s.OutputMark; m != nil {
		ae.Uint32(attrSetMark, m.Value)
		if m.Mask != 1<<32-1 { // what no mask means
			ae.Uint32(attrSetMarkMask, m.Mask)
		}
	}
	if err := putDir(ae, s.Dir); err != nil {
		return nil, err
	}
	putNonzero(ae, attrMappingThresh, s.MappingThresh)
	putNonzero(ae, attrNATKeepalive, s.NATKeepalive)
	putOptional(ae, attrReplayThresh, s.ReplayThresh)
	putOptional(ae, attrTimerThresh, s.TimerThresh)
	putOptional(ae, attrPCPU, s.PCPU)
	putIPTFS(ae, s.IPTFS)
	if s.LastUsed != 0 {
		ae.Uint64(attrLastUsed, s.LastUsed)
	}
	return ae.Encode()
}

// putAlgorithms adds the algorithms. wipe overwrites the keys once they are encoded.
func putAlgorithms(ae *netlink.AttributeEncoder, s *State) (wipe func(), err error) {
	var secrets [][]byte
	put := func(typ uint16, what, name string, key ipsec.Key, bits uint32, number ...uint32) {
		if err != nil {
			return
		}
		var b []byte
		if b, err = algorithmBytes(what, name, key, bits, number...); err == nil {
			secrets = append(secrets, b)
			ae.Bytes(typ, b)
		}
	}
	if a := s.Crypt; a != nil {
		put(attrAlgCrypt, "enc", a.Name, a.Key, a.KeyBits)
	}
	if a := s.Auth; a != nil {
		put(attrAlgAuth, "auth", a.Name, a.Key, a.KeyBits)
	}
	if a := s.AuthTrunc; a != nil {
		put(attrAlgAuthTrunc, "auth-trunc", a.Name, a.Key, a.KeyBits, a.TruncBits)
	}
	if a := s.AEAD; a != nil {
		put(attrAEAD, "AEAD", a.Name, a.Key, a.KeyBits, a.ICVBits)
	}
	if a := s.Comp; a != nil {
		put(attrAlgComp, "comp", a.Name, a.Key, a.KeyBits)
	}
	return func() {
		for _, b := range secrets {
			clear(b)
		}
	}, err
}

// putReplay adds the replay state in the struct that has room for it.
func putReplay(ae *netlink.AttributeEncoder, s *State) error {
	switch {
	case s.wideReplay():
		b, err := replayESNBytes(s)
		if err != nil {
			return err
		}
		ae.Bytes(attrReplayESN, b)
	case s.Replay != nil:
		ae.Bytes(attrReplayVal, replayBytes(s.Replay))
	}
	return nil
}

func putDir(ae *netlink.AttributeEncoder, d StateDir) error {
	switch d {
	case 0:
	case StateDirIn, StateDirOut:
		ae.Uint8(attrSADir, uint8(d))
	default:
		return invalid("direction %d", d)
	}
	return nil
}

func putNonzero(ae *netlink.AttributeEncoder, typ uint16, v uint32) {
	if v != 0 {
		ae.Uint32(typ, v)
	}
}

func putOptional(ae *netlink.AttributeEncoder, typ uint16, v *uint32) {
	if v != nil {
		ae.Uint32(typ, *v)
	}
}

// encapBytes is a struct xfrm_encap_tmpl. An original address of 0.0.0.0 is none in IPv6, too:
// that is what people write there, and ip takes it.
func encapBytes(e *EncapTmpl, family uint16) ([]byte, error) {
	if f, err := addrFamily(e.OA); err != nil {
		return nil, fmt.Errorf("encap: %w", err)
	} else if f != unix.AF_UNSPEC && f != family && !e.OA.IsUnspecified() {
		return nil, invalid("encap: original address %s is not of the SA's family", e.OA)
	}
	b := make([]byte, sizeEncap)
	host.PutUint16(b[0:], uint16(e.Type))
	putPort(b[2:], e.SrcPort)
	putPort(b[4:], e.DstPort)
	putAddr(b[8:], e.OA)
	return b, nil
}

// replayBytes is a struct xfrm_replay_state.
func replayBytes(r *ReplayState) []byte {
	b := make([]byte, sizeReplay)
	host.PutUint32(b[0:], r.OSeq)
	host.PutUint32(b[4:], r.Seq)
	if len(r.Bitmap) > 0 {
		host.PutUint32(b[8:], r.Bitmap[0])
	}
	return b
}

// replayESNBytes is a struct xfrm_replay_state_esn, its bitmap as long as the window needs;
// a bitmap of zeros is only announced, which engines take for the same.
func replayESNBytes(s *State) ([]byte, error) {
	var r ReplayState
	if s.Replay != nil {
		r = *s.Replay
	}
	words := max(len(r.Bitmap), int(s.ReplayWindow+31)/32)
	if words > maxBitmap {
		return nil, invalid("replay bitmap of %d words: at most %d", words, maxBitmap)
	}
	b := make([]byte, sizeReplayESN+4*words)
	for i, v := range [...]uint32{uint32(words), r.OSeq, r.Seq, r.OSeqHi, r.SeqHi, s.ReplayWindow} {
		host.PutUint32(b[4*i:], v)
	}
	if allZeroWords(r.Bitmap) {
		return b[:sizeReplayESN], nil
	}
	for i, v := range r.Bitmap {
		host.PutUint32(b[sizeReplayESN+4*i:], v)
	}
	return b, nil
}

// EncodeStateID returns the payload of GETSA and DELSA: struct xfrm_usersa_id,
// XFRMA_SRCADDR (all zero where no source is given, as iproute2 does) and XFRMA_MARK.
// Errors wrap ipsec.ErrInvalid.
func EncodeStateID(id *StateID) ([]byte, error) {
	family, err := addrFamily(id.Dst, id.Src)
	if err != nil {
		return nil, err
	}
	if !id.Dst.IsValid() {
		return nil, invalid("no destination address")
	}
	b := make([]byte, sizeUsersaID)
	putUsersaID(b, id, family)
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(attrSrcAddr, addrBytes(id.Src))
	if id.Mark != nil {
		ae.Bytes(attrMark, markBytes(id.Mark))
	}
	return withAttrs(b, ae)
}

// putUsersaID writes a struct xfrm_usersa_id.
func putUsersaID(b []byte, id *StateID, family uint16) {
	putAddr(b[0:], id.Dst)
	putSPI(b[16:], id.SPI)
	host.PutUint16(b[20:], family)
	b[22] = id.Proto
}

// EncodeFlushStates returns the payload of FLUSHSA. proto is an IP protocol, or 0 for all.
func EncodeFlushStates(proto uint8) []byte { return []byte{proto, 0, 0, 0} }
