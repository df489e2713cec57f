package conformance

import (
	"fmt"
	"time"

	"espalier/ipsec"
	"espalier/xfrm"
)

func thresholds(packets, tenths uint32) func(*xfrm.State) {
	return func(s *xfrm.State) { s.ReplayThresh, s.TimerThresh = &packets, &tenths }
}

// twoSeconds is a timer threshold. Kernels take it in jiffies, of which Debian's have 250 a second.
func (e *env) twoSeconds() uint32 {
	if e.Device {
		return 20
	}
	return 500
}

var progressCases = []Case{
	{Name: "the replay state of an SA", ESP: true, Want: "oseq 2, 2 packets of 200 bytes, thresholds 5 and 70", Do: func(e *env) string {
		e.install(e.policy())
		e.add(e.state(0x1000, thresholds(5, 70)))
		e.send(2)
		e.settle(0x1000, 2)
		ae, err := e.Client.AEvent(e.ctx, e.id(0x1000), xfrm.AEReplayThresh|xfrm.AETimerThresh)
		if err != nil || ae.Replay == nil || ae.Current == nil || ae.ReplayThresh == nil || ae.TimerThresh == nil {
			return fmt.Sprintf("%+v, %s", ae, verdict(err))
		}
		return fmt.Sprintf("oseq %d, %d packets of %d bytes, thresholds %d and %d", ae.Replay.OSeq, ae.Current.Packets, ae.Current.Bytes, *ae.ReplayThresh, *ae.TimerThresh)
	}},
	{Name: "thresholds that were not given", ESP: true, Want: "2 packets, 10 tenths of a second", Do: func(e *env) string {
		e.add(e.state(0x1000))
		ae, err := e.Client.AEvent(e.ctx, e.id(0x1000), xfrm.AEReplayThresh|xfrm.AETimerThresh)
		e.must(err)
		return fmt.Sprintf("%d packets, %d tenths of a second", *ae.ReplayThresh, *ae.TimerThresh)
	}},
	{Name: "thresholds that are not asked for", ESP: true, Want: "not told", Do: func(e *env) string {
		e.add(e.state(0x1000))
		ae, err := e.Client.AEvent(e.ctx, e.id(0x1000), 0)
		e.must(err)
		if ae.ReplayThresh != nil || ae.TimerThresh != nil {
			return "told"
		}
		return "not told"
	}},
	{Name: "setting the replay state", ESP: true, Want: "ok NEWAE; oseq 100, 50 packets; the next is 101", Do: func(e *env) string {
		e.install(e.policy())
		e.add(e.state(0x1000, thresholds(1000, 600)))
		l := e.listen(xfrm.GroupAEvents)
		err := e.Client.SetAEvent(e.ctx, &xfrm.AEvent{ID: e.id(0x1000), Replay: &xfrm.ReplayState{OSeq: 100}, Current: &xfrm.LifetimeCurrent{Packets: 50, Bytes: 5000}})
		event := l.of(1)
		s, getErr := e.Client.GetState(e.ctx, e.id(0x1000))
		e.must(getErr)
		words := fmt.Sprintf("%s %s; oseq %d, %d packets", verdict(err), event, s.Replay.OSeq, s.Current.Packets)
		e.send(1)
		e.settle(0x1000, 51)
		s, getErr = e.Client.GetState(e.ctx, e.id(0x1000))
		e.must(getErr)
		return fmt.Sprintf("%s; the next is %d", words, s.Replay.OSeq)
	}},
	{Name: "setting the anti-replay window", ESP: true, Want: "narrow seq 40 bitmap 5; wide seq 40 bitmap 80 80", Do: func(e *env) string {
		in := func(s *xfrm.State) { s.Src, s.Dst = s.Dst, s.Src }
		e.add(e.state(0x1000, in), e.state(0x1001, in, func(s *xfrm.State) { s.ReplayWindow = 64 }))
		id := func(spi ipsec.SPI) xfrm.StateID { return e.state(spi, in).ID() }
		e.must(e.Client.SetAEvent(e.ctx, &xfrm.AEvent{ID: id(0x1000), Replay: &xfrm.ReplayState{Seq: 40, Bitmap: []uint32{5}}}))
		e.must(e.Client.SetAEvent(e.ctx, &xfrm.AEvent{ID: id(0x1001), ESN: true, ReplayWindow: 64, Replay: &xfrm.ReplayState{Seq: 40, Bitmap: []uint32{0x80, 0x80}}}))
		narrow, err := e.Client.GetState(e.ctx, id(0x1000))
		e.must(err)
		wide, err := e.Client.GetState(e.ctx, id(0x1001))
		e.must(err)
		return fmt.Sprintf("narrow seq %d bitmap %x; wide seq %d bitmap %x %x", narrow.Replay.Seq, narrow.Replay.Bitmap[0], wide.Replay.Seq, wide.Replay.Bitmap[0], wide.Replay.Bitmap[1])
	}},
	{Name: "a window of another size", ESP: true, Want: "EINVAL", Do: func(e *env) string {
		e.add(e.state(0x1000, func(s *xfrm.State) { s.ReplayWindow = 64 }))
		return verdict(e.Client.SetAEvent(e.ctx, &xfrm.AEvent{ID: e.id(0x1000), ESN: true, ReplayWindow: 128, Replay: &xfrm.ReplayState{Bitmap: make([]uint32, 4)}}))
	}},
	{Name: "setting sequence numbers back", ESP: true, Want: "ok: oseq 1", Do: func(e *env) string {
		e.install(e.policy())
		e.add(e.state(0x1000))
		e.send(3)
		e.settle(0x1000, 3)
		err := e.Client.SetAEvent(e.ctx, &xfrm.AEvent{ID: e.id(0x1000), Replay: &xfrm.ReplayState{OSeq: 1}})
		s, getErr := e.Client.GetState(e.ctx, e.id(0x1000))
		e.must(getErr)
		return fmt.Sprintf("%s: oseq %d", verdict(err), s.Replay.OSeq)
	}},
	{Name: "setting nothing, of no SA, of a larval SA", ESP: true, Want: "EINVAL, ESRCH, EINVAL", Do: func(e *env) string {
		e.add(e.state(0x1000))
		_, err := e.larva(0x2000, 0x2000)
		e.must(err)
		every := uint32(5)
		set := func(spi ipsec.SPI, every *uint32) error {
			return e.Client.SetAEvent(e.ctx, &xfrm.AEvent{ID: e.id(spi), ReplayThresh: every})
		}
		return verdicts(set(0x1000, nil), set(0x3000, &every), set(0x2000, &every))
	}},
	{Name: "progress by numbers", ESP: true, Want: "2 packets: -, the 3rd: NEWAE with oseq 3", Do: func(e *env) string {
		e.install(e.policy())
		e.add(e.state(0x1000, thresholds(3, 6000)))
		l := e.listen(xfrm.GroupAEvents)
		e.send(2)
		e.settle(0x1000, 2)
		two := l.of(0)
		e.send(1)
		event := l.next()
		why := "?"
		if event.AE.Flags == xfrm.AEByReplay {
			why = fmt.Sprintf("%s with oseq %d", event.Kind, event.AE.Replay.OSeq)
		}
		return fmt.Sprintf("2 packets: %s, the 3rd: %s", two, why)
	}},
	{Name: "progress by time", ESP: true, Want: "by numbers, by time, after a pause by time", Do: func(e *env) string {
		e.install(e.policy())
		e.add(e.state(0x1000, thresholds(2, e.twoSeconds())))
		l := e.listen(xfrm.GroupAEvents)
		word := func() string {
			event := l.next()
			return map[xfrm.AEFlag]string{xfrm.AEByReplay: "by numbers", xfrm.AEByTimer: "by time", xfrm.AEByUpdate: "by update"}[event.AE.Flags]
		}
		e.send(2)
		first := word()
		e.send(1)
		second := word()
		time.Sleep(3 * time.Second)
		e.send(1)
		return first + ", " + second + ", after a pause " + word()
	}},
}
