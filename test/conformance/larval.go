package conformance

import (
	"fmt"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

var larvalCases = []Case{
	{Name: "allocating SPIs", Want: "16 SPIs from 2000 to 20ff, each hard 30 s, window 0, no algorithm, seq 0, selector /32 /32", Do: func(e *env) string {
		seen := make(map[xfrm.StateID]bool)
		words := ""
		for range 16 {
			s, err := e.larva(0x2000, 0x20ff)
			e.must(err)
			if s.SPI < 0x2000 || s.SPI > 0x20ff || seen[e.id(s.SPI)] {
				return fmt.Sprintf("SPI %s", s.SPI)
			}
			seen[e.id(s.SPI)] = true
			algorithm := "no algorithm"
			if s.AEAD != nil || s.Crypt != nil {
				algorithm = "an algorithm"
			}
			words = fmt.Sprintf("hard %d s, window %d, %s, seq %d, selector /%d /%d", s.Limits.HardAdd, s.ReplayWindow, algorithm, s.Seq, s.Sel.Src.Bits(), s.Sel.Dst.Bits())
		}
		return fmt.Sprintf("%d SPIs from 2000 to 20ff, each %s", len(seen), words)
	}},
	{Name: "allocating an SPI that is taken", Want: "ok, ENOENT, and a larval SA without an SPI stays behind", Do: func(e *env) string {
		_, first := e.larva(0x2000, 0x2000)
		_, second := e.larva(0x2000, 0x2000)
		rest := "nothing"
		for _, s := range e.states(xfrm.StateFilter{}) {
			if s.SPI == 0 {
				rest = "a larval SA without an SPI"
			}
		}
		return fmt.Sprintf("%s, and %s stays behind", verdicts(first, second), rest)
	}},
	{Name: "allocating from an empty range", Want: "EINVAL", Do: func(e *env) string {
		_, err := e.larva(0x2001, 0x2000)
		return verdict(err)
	}},
	{Name: "allocating for AH", Want: "ok", Do: func(e *env) string {
		_, err := e.larva(0x2000, 0x20ff, func(s *xfrm.State) { s.Proto = unix.IPPROTO_AH })
		return verdict(err)
	}},
	{Name: "a larval SA can be got, listed and deleted", Want: "2000, 2000, ok, ESRCH", Do: func(e *env) string {
		_, err := e.larva(0x2000, 0x2000)
		e.must(err)
		s, err := e.Client.GetState(e.ctx, e.id(0x2000))
		e.must(err)
		list := spis(e.states(xfrm.StateFilter{}))
		deleted := e.Client.DeleteState(e.ctx, e.id(0x2000))
		_, gone := e.Client.GetState(e.ctx, e.id(0x2000))
		return fmt.Sprintf("%x, %s, %s", uint32(s.SPI), list, verdicts(deleted, gone))
	}},
	{Name: "adding an SA with a larval one's SPI", ESP: true, Want: "EEXIST", Do: func(e *env) string {
		_, err := e.larva(0x2000, 0x2000)
		e.must(err)
		return verdict(e.Client.AddState(e.ctx, e.state(0x2000)))
	}},
	{Name: "completing a larval SA by an update", ESP: true, Want: "ok: one SA with a key", Do: func(e *env) string {
		_, err := e.larva(0x2000, 0x2000)
		e.must(err)
		err = e.Client.UpdateState(e.ctx, e.state(0x2000))
		all := e.states(xfrm.StateFilter{})
		if len(all) != 1 || all[0].AEAD == nil {
			return verdict(err) + ": " + spis(all)
		}
		return verdict(err) + ": one SA with a key"
	}},
	{Name: "completing a larval SA of another direction", ESP: true, Want: "ESRCH", Do: func(e *env) string {
		_, err := e.larva(0x2000, 0x2000, func(s *xfrm.State) { s.Dir = xfrm.StateDirIn })
		e.must(err)
		return verdict(e.Client.UpdateState(e.ctx, e.state(0x2000, func(s *xfrm.State) { s.Dir, s.ReplayWindow = xfrm.StateDirOut, 0 })))
	}},
	{Name: "a larval SA expires by itself", Want: "EXPIRE(hard): spi 2000, then ESRCH", Do: func(e *env) string {
		e.must(e.SetLarvalTime(1))
		l := e.listen(xfrm.GroupExpire)
		_, err := e.larva(0x2000, 0x2000)
		e.must(err)
		event := l.next()
		_, err = e.Client.GetState(e.ctx, e.id(0x2000))
		return fmt.Sprintf("%s: spi %x, then %s", wordsOf(&event), uint32(event.StateID.SPI), verdict(err))
	}},
	{Name: "a packet asks for an SA", Want: "ACQUIRE: UDP to port 7777, template of reqid 7, seq, a larval SA without SPI; again -", Do: func(e *env) string {
		e.install(e.policy())
		l := e.listen(xfrm.GroupAcquire)
		e.send(1)
		event := l.next()
		words := fmt.Sprintf("%s: UDP to port %d, template of reqid %d", event.Kind, event.Sel.DstPort.Value, event.Policy.Tmpls[0].Reqid)
		if event.Sel.Protocol != unix.IPPROTO_UDP || event.Sel.Src.Addr() != e.Local || event.Sel.Dst.Addr() != e.Peer || event.StateID.Dst != e.Peer || event.StateID.Src != e.Local {
			words += fmt.Sprintf(" %+v", event.Sel)
		}
		if event.Seq != 0 {
			words += ", seq"
		}
		all := e.states(xfrm.StateFilter{})
		if len(all) == 1 && all[0].SPI == 0 && all[0].AEAD == nil && all[0].Seq == event.Seq && all[0].Reqid == 7 {
			words += ", a larval SA without SPI"
		}
		e.send(2)
		return words + "; again " + l.of(0)
	}},
	{Name: "a packet for which nobody listens", Want: "0 larval SAs", Do: func(e *env) string {
		e.install(e.policy())
		e.send(1)
		l := e.listen(xfrm.GroupSA)
		l.of(0) // until it must have happened
		return fmt.Sprintf("%d larval SAs", len(e.states(xfrm.StateFilter{})))
	}},
	{Name: "an acquire that nobody answers", Want: "ACQUIRE, EXPIRE(hard), ACQUIRE", Do: func(e *env) string {
		e.must(e.SetLarvalTime(1))
		e.install(e.policy())
		l := e.listen(xfrm.GroupAcquire, xfrm.GroupExpire)
		e.send(1)
		first, second := l.next(), l.next()
		e.send(1)
		third := l.next()
		return fmt.Sprintf("%s, %s, %s", wordsOf(&first), wordsOf(&second), wordsOf(&third))
	}},
	{Name: "an SPI for an acquire", Want: "ok: the larval SA of the acquire", Do: func(e *env) string {
		e.install(e.policy())
		l := e.listen(xfrm.GroupAcquire)
		e.send(1)
		seq := l.next().Seq
		s, err := e.larva(0x2000, 0x20ff, func(s *xfrm.State) { s.Seq = seq })
		if err != nil {
			return verdict(err)
		}
		if all := e.states(xfrm.StateFilter{}); s.Seq != seq || len(all) != 1 {
			return fmt.Sprintf("seq %d, want %d; %d SAs", s.Seq, seq, len(all))
		}
		return "ok: the larval SA of the acquire"
	}},
	{Name: "an SA takes the place of the larval one that waits", ESP: true, Want: "ok: 1000", Do: func(e *env) string {
		e.install(e.policy())
		l := e.listen(xfrm.GroupAcquire)
		e.send(1)
		seq := l.next().Seq
		err := e.Client.AddState(e.ctx, e.state(0x1000, func(s *xfrm.State) { s.Seq = seq }))
		return verdict(err) + ": " + spis(e.states(xfrm.StateFilter{}))
	}},
	{Name: "a larval SA with an SPI holds acquires back", Want: "-", Do: func(e *env) string {
		e.install(e.policy())
		_, err := e.larva(0x2000, 0x2000)
		e.must(err)
		l := e.listen(xfrm.GroupAcquire)
		e.send(1)
		return l.of(0)
	}},
}
