package server

import (
	"context"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"

	"espalier/ipsec"
	"espalier/xfrm"
)

// timerUnit is that of XFRMA_ETIMER_THRESH.
const timerUnit = time.Second / 10

// setCheckpoint carries out NEWAE. The database tells of it.
func (s *Server) setCheckpoint(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	ae, err := xfrm.DecodeAEvent(m.Data)
	if err != nil {
		return nil, err
	}
	if ae.Replay == nil && ae.Current == nil && ae.ReplayThresh == nil && ae.TimerThresh == nil {
		return nil, fmt.Errorf("missing required attribute for AE: %w", ipsec.ErrInvalid)
	}
	if m.Header.Flags&netlink.Replace == 0 {
		return nil, fmt.Errorf("NLM_F_REPLACE flag is required: %w", ipsec.ErrInvalid)
	}
	db, ok := s.db.(ipsec.Checkpointer)
	if !ok {
		return nil, fmt.Errorf("this engine cannot set an SA's counters: %w", ipsec.ErrUnsupported)
	}
	sa, err := s.findSA(ctx, &ae.ID)
	if err != nil {
		return nil, err
	}
	c, err := checkpoint(ae, &sa)
	if err != nil {
		return nil, err
	}
	return nil, db.SetCheckpoint(ctx, sa.ID(), c)
}

// checkpoint reads the numbers in the shape that the SA has them.
func checkpoint(ae *xfrm.AEvent, sa *ipsec.SA) (ipsec.Checkpoint, error) {
	c := ipsec.Checkpoint{Every: ae.ReplayThresh}
	if ae.TimerThresh != nil {
		after := time.Duration(*ae.TimerThresh) * timerUnit
		c.After = &after
	}
	if ae.Replay == nil && ae.Current == nil {
		return c, nil
	}
	state, err := stateWithoutKey(sa)
	if err != nil {
		return c, err
	}
	if ae.ESN != wide(sa) && ae.Replay != nil {
		return c, fmt.Errorf("replay state of another size than the SA's: %w", ipsec.ErrInvalid)
	}
	if ae.ESN && ae.ReplayWindow != state.ReplayWindow {
		return c, fmt.Errorf("replay window %d, but the SA has %d: %w", ae.ReplayWindow, state.ReplayWindow, ipsec.ErrInvalid)
	}
	state.Replay = ae.Replay
	if ae.Current != nil {
		state.Current = *ae.Current
	}
	set, err := state.EngineSA()
	if err != nil {
		return c, err
	}
	n := &set.Counters
	if ae.Replay != nil {
		c.Numbers = &ipsec.Numbers{Sent: n.Sent, Received: n.Received, Bitmap: n.Bitmap}
		if c.Numbers.Bitmap == nil {
			c.Numbers.Bitmap = make([]uint32, (sa.Window+31)/32) // nothing received, which none would not say
		}
	}
	if ae.Current != nil {
		c.Usage = &ipsec.Usage{Bytes: n.Bytes, Packets: n.Packets, Added: n.Added, Used: n.Used}
	}
	return c, nil
}

// wide reports whether the SA's replay state goes as struct xfrm_replay_state_esn.
func wide(sa *ipsec.SA) bool { return sa.ESN || sa.Window > 32 }

// getProgress answers GETAE.
func (s *Server) getProgress(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	ask, err := xfrm.DecodeAEvent(m.Data)
	if err != nil {
		return nil, err
	}
	sa, err := s.findSA(ctx, &ask.ID)
	if err != nil {
		return nil, err
	}
	data, err := encodeProgress(&sa, ask.Flags)
	if err != nil {
		return nil, err
	}
	return []netlink.Message{reply(m, netlink.HeaderType(xfrm.MsgNewAE), 0, data)}, nil
}

// encodeProgress is the payload of NEWAE. As in the kernel it holds replay state and lifetime
// whatever the flags say, and the thresholds if they ask for them.
func encodeProgress(sa *ipsec.SA, flags xfrm.AEFlag) ([]byte, error) {
	state, err := stateWithoutKey(sa)
	if err != nil {
		return nil, err
	}
	ae := &xfrm.AEvent{
		ID: state.ID(), Flags: flags, Reqid: state.Reqid, Dir: state.Dir,
		Replay: state.Replay, ESN: wide(sa), ReplayWindow: state.ReplayWindow, Current: &state.Current,
	}
	if sa.Notice == nil {
		return xfrm.EncodeAEvent(ae)
	}
	if flags&xfrm.AEReplayThresh != 0 {
		ae.ReplayThresh = &sa.Notice.Every
	}
	if flags&xfrm.AETimerThresh != 0 {
		after := uint32(sa.Notice.After / timerUnit)
		ae.TimerThresh = &after
	}
	return xfrm.EncodeAEvent(ae)
}

// watchProgress has the database look out for what group AEVENTS wants to hear, as long as there
// is somebody in it.
func (s *Server) watchProgress() {
	db, ok := s.db.(ipsec.Observable)
	if !ok {
		return
	}
	s.watching.Lock()
	defer s.watching.Unlock()
	if on := s.heard(xfrm.GroupAEvents); on != s.watch {
		s.watch = on
		db.WatchProgress(on)
	}
}
