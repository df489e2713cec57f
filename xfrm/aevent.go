package xfrm

// AEvent is struct xfrm_aevent_id and its attributes: replay state and lifetime of an SA, for
// those who keep a second one ready (NEWAE). With GETAE it asks for them.
type AEvent struct {
	ID    StateID // Src is the SA's source
	Flags AEFlag  // why it is sent, what is in it, or what is asked for
	Reqid uint32
	IfID  uint32
	PCPU  *uint32
	Dir   StateDir

	Replay       *ReplayState // nil: not told
	ESN          bool         // it goes as XFRMA_REPLAY_ESN_VAL
	ReplayWindow uint32       // of that, packets
	Current      *LifetimeCurrent
	// ReplayThresh is after how many packets, TimerThresh after how many tenths of a second
	// an event is sent. nil: not told.
	ReplayThresh, TimerThresh *uint32
}

// AEFlag is XFRM_AE_*.
type AEFlag uint32

const (
	AEReplayThresh AEFlag = 1 << iota // wants XFRMA_REPLAY_THRESH
	AEReplay                          // holds XFRMA_REPLAY_VAL or XFRMA_REPLAY_ESN_VAL
	AELifetime                        // holds XFRMA_LTIME_VAL
	AETimerThresh                     // wants XFRMA_ETIMER_THRESH
	AEByReplay                        // sent because of the replay threshold
	AEByTimer                         // sent because of the timer
	AEByUpdate                        // sent because somebody set it
)

// EncodeAEvent returns the payload of NEWAE and GETAE. NEWAE as a request also needs
// NLM_F_REPLACE. Errors wrap ipsec.ErrInvalid.
func EncodeAEvent(a *AEvent) ([]byte, error) {
	family, err := addrFamily(a.ID.Dst, a.ID.Src)
	if err != nil {
		return nil, err
	}
	if !a.ID.Dst.IsValid() {
		return nil, invalid("no destination address")
	}
	p := newPayload(sizeAEventID)
	putUsersaID(p, &a.ID, family)
	putAddr(p[24:], a.ID.Src)
	host.PutUint32(p[40:], uint32(a.Flags))
	host.PutUint32(p[44:], a.Reqid)
	if err := putReplay(&p, a.replayOf()); err != nil {
		return nil, err
	}
	if a.Current != nil {
		putCurrent(p.attr(attrLifetime, sizeCurrent), a.Current)
	}
	p.optional(attrReplayThresh, a.ReplayThresh)
	p.optional(attrTimerThresh, a.TimerThresh)
	putMarkIfID(&p, a.ID.Mark, a.IfID)
	p.optional(attrPCPU, a.PCPU)
	if err := putDir(&p, a.Dir); err != nil {
		return nil, err
	}
	return p, nil
}

// replayOf is the replay state in the shape that a State has it.
func (a *AEvent) replayOf() *State {
	s := &State{ReplayWindow: a.ReplayWindow, Replay: a.Replay}
	if a.ESN {
		s.Flags = FlagESN
	}
	return s
}

// DecodeAEvent reads the payload of NEWAE and GETAE. Errors wrap ipsec.ErrInvalid.
func DecodeAEvent(b []byte) (*AEvent, error) {
	if err := needHeader("xfrm_aevent_id", b, sizeAEventID); err != nil {
		return nil, err
	}
	id, family, err := getUsersaID(b)
	if err != nil {
		return nil, err
	}
	id.Src = getAddr(b[24:40], family)
	var s State
	seen, err := getStateAttrs(&s, family, b[sizeAEventID:])
	if err != nil {
		return nil, err
	}
	s.WipeKeys() // nothing that belongs here has a key
	id.Mark = s.Mark
	a := &AEvent{
		ID: id, Flags: AEFlag(host.Uint32(b[40:])), Reqid: host.Uint32(b[44:]),
		IfID: s.IfID, PCPU: s.PCPU, Dir: s.Dir,
		Replay: s.Replay, ESN: seen.replayESN, ReplayWindow: s.ReplayWindow,
		ReplayThresh: s.ReplayThresh, TimerThresh: s.TimerThresh,
	}
	if a.Flags&AELifetime != 0 || s.Current != (LifetimeCurrent{}) {
		a.Current = &s.Current
	}
	return a, nil
}
