package conformance

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

var sadCases = []Case{
	{Name: "an SA reads back as it was added", ESP: true, Want: "spi 1000 reqid 7 window 32 key of 288 bits, ICV 128, no limits, added", Do: func(e *env) string {
		e.add(e.state(0x1000))
		s, err := e.Client.GetState(e.ctx, e.id(0x1000))
		e.must(err)
		limits, added := "limits", "never"
		if s.Limits == xfrm.NoLimits {
			limits = "no limits"
		}
		if s.Current.AddTime != 0 && s.Current.UseTime == 0 {
			added = "added"
		}
		return fmt.Sprintf("spi %x reqid %d window %d key of %d bits, ICV %d, %s, %s", uint32(s.SPI), s.Reqid, s.ReplayWindow, s.AEAD.KeyBits, s.AEAD.ICVBits, limits, added)
	}},
	{Name: "adding an SA twice", ESP: true, Want: "ok, EEXIST", Do: func(e *env) string {
		return verdicts(e.Client.AddState(e.ctx, e.state(0x1000)), e.Client.AddState(e.ctx, e.state(0x1000)))
	}},
	{Name: "the same SPI to another destination", ESP: true, Want: "ok, ok", Do: func(e *env) string {
		other := e.state(0x1000, func(s *xfrm.State) { s.Src, s.Dst = s.Dst, s.Src })
		return verdicts(e.Client.AddState(e.ctx, e.state(0x1000)), e.Client.AddState(e.ctx, other))
	}},
	{Name: "SAs that are not there", Want: "get ESRCH, delete ESRCH", Do: func(e *env) string {
		_, err := e.Client.GetState(e.ctx, e.id(0x9999))
		return fmt.Sprintf("get %s, delete %s", verdict(err), verdict(e.Client.DeleteState(e.ctx, e.id(0x9999))))
	}},
	{Name: "updating an SA that is not there", ESP: true, Want: "ESRCH", Do: func(e *env) string {
		return verdict(e.Client.UpdateState(e.ctx, e.state(0x1000)))
	}},
	{Name: "getting an unmarked SA by a mark", ESP: true, Want: "ok", Do: func(e *env) string {
		e.add(e.state(0x1000))
		id := e.id(0x1000)
		id.Mark = &xfrm.Mark{Value: 5, Mask: 0xff}
		_, err := e.Client.GetState(e.ctx, id)
		return verdict(err)
	}},
	{Name: "getting an ESP SA as AH", ESP: true, Want: "ESRCH", Do: func(e *env) string {
		e.add(e.state(0x1000))
		id := e.id(0x1000)
		id.Proto = unix.IPPROTO_AH
		_, err := e.Client.GetState(e.ctx, id)
		return verdict(err)
	}},
	{Name: "an update changes limits and nothing else", ESP: true, Want: "ok: reqid 7, hard limit of 5000 packets", Do: func(e *env) string {
		e.add(e.state(0x1000))
		err := e.Client.UpdateState(e.ctx, e.state(0x1000, func(s *xfrm.State) { s.Reqid, s.Limits.HardPackets = 8, 5000 }))
		s, getErr := e.Client.GetState(e.ctx, e.id(0x1000))
		e.must(getErr)
		return fmt.Sprintf("%s: reqid %d, hard limit of %d packets", verdict(err), s.Reqid, s.Limits.HardPackets)
	}},
	{Name: "an update of another direction", ESP: true, Want: "ESRCH", Do: func(e *env) string {
		e.add(e.state(0x1000, func(s *xfrm.State) { s.Dir, s.ReplayWindow = xfrm.StateDirOut, 0 }))
		return verdict(e.Client.UpdateState(e.ctx, e.state(0x1000, func(s *xfrm.State) { s.Dir = xfrm.StateDirIn })))
	}},
	{Name: "an update that brings UDP encapsulation", ESP: true, Want: "EINVAL", Do: func(e *env) string {
		e.add(e.state(0x1000))
		return verdict(e.Client.UpdateState(e.ctx, e.state(0x1000, func(s *xfrm.State) {
			s.Encap = &xfrm.EncapTmpl{Type: xfrm.EncapESPInUDP, SrcPort: 4500, DstPort: 4500, OA: netip.IPv4Unspecified()}
		})))
	}},
	{Name: "an SA with a mark", ESP: true, Want: "ok", Do: func(e *env) string {
		return verdict(e.Client.AddState(e.ctx, e.state(0x1000, func(s *xfrm.State) { s.Mark = &xfrm.Mark{Value: 5, Mask: 0xff} })))
	}},
	{Name: "an SA with an if_id", ESP: true, Want: "ok", Do: func(e *env) string {
		return verdict(e.Client.AddState(e.ctx, e.state(0x1000, func(s *xfrm.State) { s.IfID = 5 })))
	}},
	{Name: "which SAs take a CPU", ESP: true, Want: "dir out ok and reads back 0, dir in ok, no dir EINVAL, a CPU that is not there ERANGE", Do: func(e *env) string {
		add := func(spi ipsec.SPI, cpu uint32, dir xfrm.StateDir) string {
			return verdict(e.Client.AddState(e.ctx, e.state(spi, forCPU(cpu), func(s *xfrm.State) {
				if s.Dir = dir; dir != xfrm.StateDirOut {
					s.ReplayWindow = 32
				}
			})))
		}
		out := add(0x1000, 0, xfrm.StateDirOut)
		s, err := e.Client.GetState(e.ctx, e.id(0x1000))
		e.must(err)
		read := "none"
		if s.PCPU != nil {
			read = fmt.Sprint(*s.PCPU)
		}
		return fmt.Sprintf("dir out %s and reads back %s, dir in %s, no dir %s, a CPU that is not there %s",
			out, read, add(0x1001, 0, xfrm.StateDirIn), add(0x1002, 0, 0), add(0x1003, 1<<20, xfrm.StateDirOut))
	}},
	{Name: "an SA with a hard limit of 0 packets", ESP: true, Want: "ok", Do: func(e *env) string {
		return verdict(e.Client.AddState(e.ctx, e.state(0x1000, func(s *xfrm.State) { s.Limits.HardPackets = 0 })))
	}},
	{Name: "an SA with a bad key length", ESP: true, Want: "EINVAL", Do: func(e *env) string {
		return verdict(e.Client.AddState(e.ctx, e.state(0x1000, func(s *xfrm.State) { s.AEAD.Key = ipsec.RandomKey(21) })))
	}},
	{Name: "SAs are listed newest first", ESP: true, Want: "1002 1000 1001", Do: func(e *env) string {
		e.add(e.state(0x1001), e.state(0x1000), e.state(0x1002))
		return spis(e.states(xfrm.StateFilter{}))
	}},
	{Name: "listing by protocol and address", ESP: true, Want: "esp 1001 1000, ah , to the peer 1000, from elsewhere ", Do: func(e *env) string {
		e.add(e.state(0x1000), e.state(0x1001, func(s *xfrm.State) { s.Src, s.Dst = s.Dst, s.Src }))
		peer := netip.PrefixFrom(e.Peer, 32)
		return fmt.Sprintf("esp %s, ah %s, to the peer %s, from elsewhere %s",
			spis(e.states(xfrm.StateFilter{Proto: unix.IPPROTO_ESP})), spis(e.states(xfrm.StateFilter{Proto: unix.IPPROTO_AH})),
			spis(e.states(xfrm.StateFilter{Dst: peer})), spis(e.states(xfrm.StateFilter{Src: netip.MustParsePrefix("10.77.0.0/16")})))
	}},
	{Name: "flushing by protocol", ESP: true, Want: "ah ok: 1000, esp ok: ", Do: func(e *env) string {
		e.add(e.state(0x1000))
		err := e.Client.FlushStates(e.ctx, unix.IPPROTO_AH)
		left := spis(e.states(xfrm.StateFilter{}))
		return fmt.Sprintf("ah %s: %s, esp %s: %s", verdict(err), left, verdict(e.Client.FlushStates(e.ctx, unix.IPPROTO_ESP)), spis(e.states(xfrm.StateFilter{})))
	}},
	{Name: "flushing nothing", Want: "ok: no event", Do: func(e *env) string {
		l := e.listen(xfrm.GroupSA)
		err := e.Client.FlushStates(e.ctx, 0)
		if words := l.of(0); words != "-" {
			return words
		}
		return verdict(err) + ": no event"
	}},
	{Name: "counting SAs", ESP: true, Want: "0, 3", Do: func(e *env) string {
		none, err := e.Client.SADInfo(e.ctx)
		e.must(err)
		e.add(e.state(0x1000), e.state(0x1001))
		_, err = e.larva(0x2000, 0x20ff)
		e.must(err)
		some, err := e.Client.SADInfo(e.ctx)
		e.must(err)
		return fmt.Sprintf("%d, %d", none.Count, some.Count)
	}},
}
