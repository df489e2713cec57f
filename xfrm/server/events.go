package server

import (
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// observe tells the members of a group of an event in the database. Nobody has asked for it, so
// its message has no sequence number.
func (s *Server) observe(e ipsec.Event) (heard bool) {
	group, typ := kindOf(e)
	if group == 0 || !s.heard(group) {
		return false
	}
	data, err := encodeEvent(e)
	if err != nil {
		s.log.Error("event cannot be announced", "message", typ.String(), "err", err)
		return false
	}
	return s.notify(group, netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ)}, Data: data})
}

func kindOf(e ipsec.Event) (group uint32, typ xfrm.MsgType) {
	switch e.(type) {
	case ipsec.SAExpired:
		return xfrm.GroupExpire, xfrm.MsgExpire
	case ipsec.PolicyExpired:
		return xfrm.GroupExpire, xfrm.MsgPolExpire
	case ipsec.Acquire:
		return xfrm.GroupAcquire, xfrm.MsgAcquire
	case ipsec.Progress:
		return xfrm.GroupAEvents, xfrm.MsgNewAE
	case ipsec.PeerMoved:
		return xfrm.GroupMapping, xfrm.MsgMapping
	}
	return 0, 0
}

func encodeEvent(e ipsec.Event) ([]byte, error) {
	switch e := e.(type) {
	case ipsec.SAExpired:
		state, err := stateWithoutKey(&e.SA)
		if err != nil {
			return nil, err
		}
		return xfrm.EncodeStateExpired(state, e.Hard)
	case ipsec.PolicyExpired:
		p, err := xfrm.PolicyFromEngine(&e.Policy)
		if err != nil {
			return nil, err
		}
		return xfrm.EncodePolicyExpired(p, e.Hard)
	case ipsec.Acquire:
		return encodeAcquire(&e)
	case ipsec.Progress:
		return encodeProgress(&e.SA, causeFlag(e.Cause))
	case ipsec.PeerMoved:
		return encodeMoved(&e)
	}
	return nil, fmt.Errorf("event %T: %w", e, ipsec.ErrUnsupported)
}

func causeFlag(c ipsec.ProgressCause) xfrm.AEFlag {
	switch c {
	case ipsec.ByTime:
		return xfrm.AEByTimer
	case ipsec.BySetting:
		return xfrm.AEByUpdate
	}
	return xfrm.AEByReplay
}

func encodeAcquire(e *ipsec.Acquire) ([]byte, error) {
	p, err := xfrm.PolicyFromEngine(&e.Policy)
	if err != nil {
		return nil, err
	}
	a := &xfrm.Acquire{
		ID:  xfrm.StateID{Src: e.SA.Src, Dst: e.SA.Dst, SPI: e.SA.SPI, Proto: unix.IPPROTO_ESP},
		Sel: xfrm.Selector{Selector: e.SA.Selector}, Policy: p, Seq: e.SA.AcquireID,
	}
	if len(p.Tmpls) > 0 {
		t := &p.Tmpls[0]
		a.AAlgos, a.EAlgos, a.CAlgos = t.AAlgos, t.EAlgos, t.CAlgos
	}
	return xfrm.EncodeAcquire(a)
}

func encodeMoved(e *ipsec.PeerMoved) ([]byte, error) {
	m := &xfrm.Mapping{
		ID:    xfrm.StateID{Src: e.SA.Src, Dst: e.SA.Dst, SPI: e.SA.SPI, Proto: unix.IPPROTO_ESP},
		Reqid: e.SA.RequestID, OldSrc: e.SA.Src, NewSrc: e.To.Addr(), NewPort: e.To.Port(),
	}
	if e.SA.Encap != nil {
		m.OldPort = e.SA.Encap.SrcPort
	}
	return xfrm.EncodeMapping(m)
}
