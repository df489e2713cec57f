package xfrm

import (
	"fmt"

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
func EncodeState(s *State) ([]byte, error) { return AppendState(room(sizeUsersaInfo), s) }

// AppendState appends what EncodeState returns to b, a multiple of four bytes; if it has to move
// to a larger array it wipes b. After an error there is nothing more in what it returns than in b.
func AppendState(b []byte, s *State) ([]byte, error) {
	p := payload(b)
	family, err := putUsersaInfo(p.fixed(sizeUsersaInfo), s)
	if err == nil {
		err = putStateAttrs(&p, s, family)
	}
	if err != nil {
		return p.undo(len(b)), err
	}
	return p, nil
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

// putStateAttrs adds the attributes behind a struct xfrm_usersa_info. They hold keys.
func putStateAttrs(p *payload, s *State, family uint16) error {
	if err := putEncap(p, s.Encap, family); err != nil {
		return err
	}
	if err := putAlgorithms(p, s); err != nil {
		return err
	}
	if s.CoAddr.IsValid() {
		if f, err := addrFamily(s.CoAddr); err != nil || f != family {
			return invalid("care-of address %s is not of the SA's family", s.CoAddr)
		}
		putAddr(p.attr(attrCoAddr, sizeAddr), s.CoAddr)
	}
	if err := putSecCtx(p, s.SecCtx); err != nil {
		return err
	}
	putOffload(p, s.Offload)
	if err := putReplay(p, s); err != nil {
		return err
	}
	p.nonzero(attrExtraFlags, s.ExtraFlags)
	putMarkIfID(p, s.Mark, s.IfID)
	p.nonzero(attrTFCPad, s.TFCPad)
	if m := s.OutputMark; m != nil {
		p.uint32(attrSetMark, m.Value)
		if m.Mask != 1<<32-1 { // what no mask means
			p.uint32(attrSetMarkMask, m.Mask)
		}
	}
	if err := putDir(p, s.Dir); err != nil {
		return err
	}
	p.nonzero(attrMappingThresh, s.MappingThresh)
	p.nonzero(attrNATKeepalive, s.NATKeepalive)
	p.optional(attrReplayThresh, s.ReplayThresh)
	p.optional(attrTimerThresh, s.TimerThresh)
	p.optional(attrPCPU, s.PCPU)
	putIPTFS(p, s.IPTFS)
	if s.LastUsed != 0 {
		p.uint64(attrLastUsed, s.LastUsed)
	}
	return nil
}

// putAlgorithms adds the algorithms with their keys.
func putAlgorithms(p *payload, s *State) (err error) {
	put := func(typ uint16, what, name string, key ipsec.Key, bits uint32, number ...uint32) {
		if err == nil {
			err = putAlgorithm(p, typ, what, name, key, bits, number...)
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
	return err
}

// putReplay adds the replay state in the struct that has room for it.
func putReplay(p *payload, s *State) error {
	switch {
	case s.wideReplay():
		return putReplayESN(p, s)
	case s.Replay != nil:
		r := s.Replay
		b := p.attr(attrReplayVal, sizeReplay)
		host.PutUint32(b[0:], r.OSeq)
		host.PutUint32(b[4:], r.Seq)
		if len(r.Bitmap) > 0 {
			host.PutUint32(b[8:], r.Bitmap[0])
		}
	}
	return nil
}

func putDir(p *payload, d StateDir) error {
	switch d {
	case 0:
	case StateDirIn, StateDirOut:
		p.uint8(attrSADir, uint8(d))
	default:
		return invalid("direction %d", d)
	}
	return nil
}

// putEncap adds a struct xfrm_encap_tmpl, if there is one. An original address of 0.0.0.0 is none
// in IPv6, too: that is what people write there, and ip takes it.
func putEncap(p *payload, e *EncapTmpl, family uint16) error {
	if e == nil {
		return nil
	}
	if f, err := addrFamily(e.OA); err != nil {
		return fmt.Errorf("encap: %w", err)
	} else if f != unix.AF_UNSPEC && f != family && !e.OA.IsUnspecified() {
		return invalid("encap: original address %s is not of the SA's family", e.OA)
	}
	b := p.attr(attrEncap, sizeEncap)
	host.PutUint16(b[0:], uint16(e.Type))
	putPort(b[2:], e.SrcPort)
	putPort(b[4:], e.DstPort)
	putAddr(b[8:], e.OA)
	return nil
}

// putReplayESN adds a struct xfrm_replay_state_esn, its bitmap as long as the window needs; a
// bitmap of zeros is only announced, which engines take for the same.
func putReplayESN(p *payload, s *State) error {
	var r ReplayState
	if s.Replay != nil {
		r = *s.Replay
	}
	words := max(len(r.Bitmap), int(s.ReplayWindow+31)/32)
	if words > maxBitmap {
		return invalid("replay bitmap of %d words: at most %d", words, maxBitmap)
	}
	if allZeroWords(r.Bitmap) {
		r.Bitmap = nil
	}
	size := sizeReplayESN
	if r.Bitmap != nil {
		size += 4 * words
	}
	b := p.attr(attrReplayESN, size)
	for i, v := range [...]uint32{uint32(words), r.OSeq, r.Seq, r.OSeqHi, r.SeqHi, s.ReplayWindow} {
		host.PutUint32(b[4*i:], v)
	}
	for i, v := range r.Bitmap {
		host.PutUint32(b[sizeReplayESN+4*i:], v)
	}
	return nil
}

// EncodeStateID returns the payload of GETSA and DELSA: struct xfrm_usersa_id,
// XFRMA_SRCADDR (all zero where no source is given, as iproute2 does) and XFRMA_MARK.
// Errors wrap ipsec.ErrInvalid.
func EncodeStateID(id *StateID) ([]byte, error) { return AppendStateID(room(sizeUsersaID), id) }

// AppendStateID appends what EncodeStateID returns, as AppendState does.
func AppendStateID(b []byte, id *StateID) ([]byte, error) {
	family, err := addrFamily(id.Dst, id.Src)
	if err != nil {
		return b, err
	}
	if !id.Dst.IsValid() {
		return b, invalid("no destination address")
	}
	p := payload(b)
	putUsersaID(p.fixed(sizeUsersaID), id, family)
	putAddr(p.attr(attrSrcAddr, sizeAddr), id.Src)
	putMarkIfID(&p, id.Mark, 0)
	return p, nil
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
