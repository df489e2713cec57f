package xfrm

// DecodeState reads the payload of NEWSA and UPDSA. A key that is all zero counts as
// withheld: AEAD.Key is empty then, and AEAD.KeyBits says how long it is. Keys in b are wiped. Errors
// wrap ipsec.ErrInvalid; no key is left in memory by them.
func DecodeState(b []byte) (*State, error) {
	s, family, err := getUsersaInfo(b)
	if err != nil {
		return nil, err
	}
	seen, err := getStateAttrs(s, family, b[sizeUsersaInfo:])
	if err == nil && s.Flags&FlagESN != 0 && !seen.replayESN {
		s.WipeKeys()
		err = invalid("ESN needs XFRMA_REPLAY_ESN_VAL")
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// getUsersaInfo reads a struct xfrm_usersa_info.
func getUsersaInfo(b []byte) (*State, uint16, error) {
	if err := needHeader("xfrm_usersa_info", b, sizeUsersaInfo); err != nil {
		return nil, 0, err
	}
	family := host.Uint16(b[212:])
	if err := checkFamily(family); err != nil {
		return nil, 0, err
	}
	sel, err := getSelector(b[0:sizeSelector], family)
	if err != nil {
		return nil, 0, err
	}
	return &State{
		Sel:     sel,
		Dst:     getAddr(b[56:72], family),
		SPI:     getSPI(b[72:]),
		Proto:   b[76],
		Src:     getAddr(b[80:96], family),
		Limits:  getLimits(b[96:]),
		Current: getCurrent(b[160:]),
		Stats: StateStats{
			ReplayWindow:    host.Uint32(b[192:]),
			Replay:          host.Uint32(b[196:]),
			IntegrityFailed: host.Uint32(b[200:]),
		},
		Seq:   host.Uint32(b[204:]),
		Reqid: host.Uint32(b[208:]),
		Mode:  Mode(b[214]),
		// What is beyond one word of bitmap the kernel cuts off too.
		ReplayWindow: min(uint32(b[215]), maxByteWindow),
		Flags:        StateFlag(b[216]),
	}, family, nil
}

// stateSeen tells which attributes came that leave no trace of their own in a State.
type stateSeen struct {
	replayESN bool
}

// getStateAttrs reads the attributes that follow a struct xfrm_usersa_info into s. After an
// error the key is wiped.
func getStateAttrs(s *State, family uint16, b []byte) (seen stateSeen, err error) {
	var setMark, setMarkMask *uint32
	err = eachAttr(b, func(typ uint16, data []byte) (err error) {
		switch typ {
		case attrEncap:
			s.Encap, err = getEncap(data, family)
		case attrAEAD, attrAlgCrypt, attrAlgAuth, attrAlgAuthTrunc, attrAlgComp:
			err = getStateAlgorithm(s, typ, data)
		case attrCoAddr:
			if err = need("XFRMA_COADDR", data, 16); err == nil {
				s.CoAddr = getAddr(data[:16], family)
			}
		case attrSecCtx:
			s.SecCtx, err = getSecCtx(data)
		case attrOffload:
			s.Offload, err = getOffload(data)
		case attrReplayESN:
			seen.replayESN = true
			err = getReplayESN(s, data)
		case attrReplayVal:
			if !seen.replayESN {
				s.Replay, err = getReplay(data)
			}
		case attrExtraFlags:
			err = getUint32("XFRMA_SA_EXTRA_FLAGS", data, &s.ExtraFlags)
		case attrMark:
			s.Mark, err = getMark(data)
		case attrIfID:
			err = getUint32("XFRMA_IF_ID", data, &s.IfID)
		case attrTFCPad:
			err = getUint32("XFRMA_TFCPAD", data, &s.TFCPad)
		case attrSetMark:
			setMark = new(uint32)
			err = getUint32("XFRMA_SET_MARK", data, setMark)
		case attrSetMarkMask:
			setMarkMask = new(uint32)
			err = getUint32("XFRMA_SET_MARK_MASK", data, setMarkMask)
		case attrSADir:
			err = getDir(s, data)
		case attrLastUsed:
			if err = need("XFRMA_LASTUSED", data, 8); err == nil {
				s.LastUsed = host.Uint64(data)
			}
		case attrReplayThresh:
			s.ReplayThresh, err = getOptionalUint32("XFRMA_REPLAY_THRESH", data)
		case attrTimerThresh:
			s.TimerThresh, err = getOptionalUint32("XFRMA_ETIMER_THRESH", data)
		case attrMappingThresh:
			err = getUint32("XFRMA_MTIMER_THRESH", data, &s.MappingThresh)
		case attrNATKeepalive:
			err = getUint32("XFRMA_NAT_KEEPALIVE_INTERVAL", data, &s.NATKeepalive)
		case attrPCPU:
			s.PCPU, err = getOptionalUint32("XFRMA_SA_PCPU", data)
		case attrLifetime:
			err = getLifetime(data, &s.Current)
		case attrSA, attrSrcAddr, attrPad: // say again what is known
		default:
			if typ >= attrIPTFSDropTime && typ <= attrIPTFSPacketSize {
				return getIPTFS(s, typ, data)
			}
			s.Other = append(s.Other, typ)
			clear(data) // it may be a key
		}
		return err
	})
	if err != nil {
		s.WipeKeys()
		return seen, err
	}
	if setMark != nil {
		s.OutputMark = &Mark{Value: *setMark, Mask: 1<<32 - 1}
		if setMarkMask != nil {
			s.OutputMark.Mask = *setMarkMask
		}
	}
	if r := s.Replay; r != nil && len(r.Bitmap) == 0 && !s.wideReplay() {
		r.Bitmap = make([]uint32, 1) // as struct xfrm_replay_state would have it
	}
	return seen, nil
}

// getEncap reads a struct xfrm_encap_tmpl.
func getEncap(data []byte, family uint16) (*EncapTmpl, error) {
	if err := need("XFRMA_ENCAP", data, sizeEncap); err != nil {
		return nil, err
	}
	return &EncapTmpl{
		Type:    EncapType(host.Uint16(data)),
		SrcPort: getPort(data[2:]),
		DstPort: getPort(data[4:]),
		OA:      getAddr(data[8:24], family),
	}, nil
}

// getReplay reads a struct xfrm_replay_state.
func getReplay(data []byte) (*ReplayState, error) {
	if err := need("XFRMA_REPLAY_VAL", data, sizeReplay); err != nil {
		return nil, err
	}
	return &ReplayState{
		OSeq:   host.Uint32(data[0:]),
		Seq:    host.Uint32(data[4:]),
		Bitmap: []uint32{host.Uint32(data[8:])},
	}, nil
}

// getReplayESN reads a struct xfrm_replay_state_esn. As in the kernel the bitmap may be
// left out, and is zero then.
func getReplayESN(s *State, data []byte) error {
	const name = "XFRMA_REPLAY_ESN_VAL"
	if err := need(name, data, sizeReplayESN); err != nil {
		return err
	}
	words, window := host.Uint32(data[0:]), host.Uint32(data[20:])
	if words > maxBitmap {
		return invalid("%s: bitmap of %d words: at most %d", name, words, maxBitmap)
	}
	if window > words*32 {
		return invalid("%s: a window of %d packets in %d words of bitmap", name, window, words)
	}
	bitmap := data[sizeReplayESN:]
	if len(bitmap) != 0 {
		if err := need(name, bitmap, int(words)*4); err != nil {
			return err
		}
	}
	r := &ReplayState{
		OSeq: host.Uint32(data[4:]), Seq: host.Uint32(data[8:]),
		OSeqHi: host.Uint32(data[12:]), SeqHi: host.Uint32(data[16:]),
	}
	if words > 0 {
		r.Bitmap = make([]uint32, words)
	}
	for i := range len(bitmap) / 4 {
		if i < len(r.Bitmap) {
			r.Bitmap[i] = host.Uint32(bitmap[4*i:])
		}
	}
	s.ReplayWindow, s.Replay = window, r
	return nil
}

// getDir reads an XFRMA_SA_DIR.
func getDir(s *State, data []byte) error {
	if err := need("XFRMA_SA_DIR", data, 1); err != nil {
		return err
	}
	s.Dir = StateDir(data[0])
	if s.Dir != StateDirIn && s.Dir != StateDirOut {
		return invalid("XFRMA_SA_DIR: direction %d", s.Dir)
	}
	return nil
}

// DecodeStateID reads the payload of GETSA (of one state) and DELSA. An XFRMA_SRCADDR that
// is the family's unspecified address counts as none. Errors wrap ipsec.ErrInvalid.
func DecodeStateID(b []byte) (StateID, error) {
	id, family, err := getUsersaID(b)
	if err != nil {
		return StateID{}, err
	}
	err = eachAttr(b[sizeUsersaID:], func(typ uint16, data []byte) (err error) {
		switch typ {
		case attrSrcAddr:
			if err := need("XFRMA_SRCADDR", data, 16); err != nil {
				return err
			}
			if src := getAddr(data[:16], family); !src.IsUnspecified() {
				id.Src = src
			}
		case attrMark:
			id.Mark, err = getMark(data)
		}
		return err
	})
	if err != nil {
		return StateID{}, err
	}
	return id, nil
}

// getUsersaID reads a struct xfrm_usersa_id.
func getUsersaID(b []byte) (StateID, uint16, error) {
	if err := needHeader("xfrm_usersa_id", b, sizeUsersaID); err != nil {
		return StateID{}, 0, err
	}
	family := host.Uint16(b[20:])
	if err := checkFamily(family); err != nil {
		return StateID{}, 0, err
	}
	return StateID{Dst: getAddr(b[0:16], family), SPI: getSPI(b[16:]), Proto: b[22]}, family, nil
}

// DecodeFlushStates reads the payload of FLUSHSA: a protocol, 0 for all.
func DecodeFlushStates(b []byte) (proto uint8, err error) {
	if err := needHeader("xfrm_usersa_flush", b, 1); err != nil {
		return 0, err
	}
	return b[0], nil
}
