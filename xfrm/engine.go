package xfrm

import (
	"math"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// RequestedSA translates what a NEWSA or UPDSA asks for: as [State.SA] does, with the acquire it
// answers and when to tell of its progress. Errors are those of SA.
func (s *State) RequestedSA() (ipsec.SA, error) {
	sa, err := s.SA()
	if err != nil {
		return ipsec.SA{}, err
	}
	s.addLife(&sa)
	return sa, nil
}

// EngineSA translates what an engine reads back. A state without any algorithm is a larval SA.
// Errors are those of SA.
func (s *State) EngineSA() (ipsec.SA, error) {
	if s.Proto != unix.IPPROTO_ESP || !s.IsLarval() {
		return s.RequestedSA()
	}
	mode, err := modeToIPsec(s.Mode)
	if err != nil {
		return ipsec.SA{}, err
	}
	sa := ipsec.SA{
		Src: s.Src, Dst: s.Dst, SPI: s.SPI, Mode: mode, RequestID: s.Reqid, Larval: true,
		Selector: s.Sel.Selector, Counters: s.counters(),
	}
	switch s.Dir {
	case StateDirIn:
		sa.Direction = ipsec.Inbound
	case StateDirOut:
		sa.Direction = ipsec.Outbound
	}
	s.addLife(&sa)
	return sa, s.convertLimits(&sa)
}

// addLife fills in what State.SA leaves out.
func (s *State) addLife(sa *ipsec.SA) {
	sa.AcquireID = s.Seq
	sa.Counters.Used, sa.Counters.LastUsed = unixTime(s.Current.UseTime), unixTime(s.LastUsed)
	if !s.wideReplay() && len(sa.Counters.Bitmap) > 0 && s.ReplayWindow > 0 {
		sa.Counters.Bitmap = []uint32{ringBitmap(sa.Counters.Bitmap[0], uint32(sa.Counters.Received), s.ReplayWindow)}
	}
	if s.ReplayThresh == nil && s.TimerThresh == nil {
		return
	}
	sa.Notice = new(ipsec.Notice)
	if s.ReplayThresh != nil {
		sa.Notice.Every = *s.ReplayThresh
	}
	if s.TimerThresh != nil {
		sa.Notice.After = time.Duration(*s.TimerThresh) * timerUnit
	}
}

// timerUnit is that of XFRMA_ETIMER_THRESH.
const timerUnit = time.Second / 10

// StateFromEngine translates an SA as [StateFromSA] does, with what RequestedSA and EngineSA give.
func StateFromEngine(sa *ipsec.SA) (*State, error) {
	s, err := stateWithAEAD(sa)
	if err != nil {
		return nil, err
	}
	s.Seq = sa.AcquireID
	s.Current.UseTime, s.LastUsed = unixSeconds(sa.Counters.Used), unixSeconds(sa.Counters.LastUsed)
	if r := s.Replay; r != nil && !s.wideReplay() && len(r.Bitmap) > 0 && sa.Window > 0 {
		r.Bitmap = []uint32{lineBitmap(r.Bitmap[0], r.Seq, sa.Window)}
	}
	if n := sa.Notice; n != nil {
		tenths := n.After / timerUnit
		if n.After < 0 || tenths > math.MaxUint32 {
			return nil, invalid("notice after %s", n.After)
		}
		every, after := n.Every, uint32(tenths)
		s.ReplayThresh, s.TimerThresh = &every, &after
	}
	return s, nil
}

// stateWithAEAD is StateFromSA, also for larval SAs, which have no algorithm.
func stateWithAEAD(sa *ipsec.SA) (*State, error) {
	if !sa.Larval {
		return StateFromSA(sa)
	}
	bare := *sa
	bare.ICVBits = 128
	s, err := StateFromSA(&bare)
	if err != nil {
		return nil, err
	}
	s.AEAD, s.Replay, s.Flags = nil, &ReplayState{Bitmap: make([]uint32, 1)}, 0
	return s, nil
}

// ringBitmap turns the bitmap of struct xfrm_replay_state, in which bit n is the number n below
// the highest, into that of package ipsec, which is that of struct xfrm_replay_state_esn: the
// number n has bit (n-1) mod window.
func ringBitmap(line, highest, window uint32) (ring uint32) {
	for i := range min(highest, window) {
		ring |= line >> i & 1 << ((highest - 1 - i) % window)
	}
	return ring
}

// lineBitmap is the inverse of ringBitmap.
func lineBitmap(ring, highest, window uint32) (line uint32) {
	for i := range min(highest, window) {
		line |= ring >> ((highest - 1 - i) % window) & 1 << i
	}
	return line
}

// EnginePolicy translates as [Policy.IPsec] does, with the limits.
func (p *Policy) EnginePolicy() (ipsec.Policy, error) {
	unlimited := *p
	unlimited.Limits = NoLimits
	out, err := unlimited.IPsec()
	if err != nil {
		return ipsec.Policy{}, err
	}
	out.Limits, err = limitsToIPsec(&p.Limits)
	return out, err
}

// PolicyFromEngine is the inverse of EnginePolicy.
func PolicyFromEngine(p *ipsec.Policy) (*Policy, error) {
	out, err := PolicyFromIPsec(p)
	if err != nil {
		return nil, err
	}
	out.Limits, err = limitsFromIPsec(&p.Limits)
	return out, err
}
