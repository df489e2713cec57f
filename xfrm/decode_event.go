package xfrm

import (
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Event is a message that an engine sends on its own, to the members of a multicast group.
// Kind tells which of the fields are set:
//
//	NEWSA, UPDSA          State
//	DELSA                 State and StateID
//	EXPIRE                State (without attributes), StateID, Hard
//	FLUSHSA               Proto
//	NEWPOLICY, UPDPOLICY  Policy
//	DELPOLICY             Policy and PolicyID
//	POLEXPIRE             Policy, Hard
//	FLUSHPOLICY           PolicyType
//	ACQUIRE               StateID (SPI 0), Sel (of the packet), Policy, Seq
//	NEWAE, MAPPING        StateID, Reqid; MAPPING also NewSrc and NewPort
//	REPORT                Proto, Sel
//
// Other kinds carry nothing but their Kind. Keys are there if the sender gives them.
type Event struct {
	Kind       MsgType
	State      *State
	StateID    *StateID
	Policy     *Policy
	PolicyID   *PolicyID
	Sel        *Selector
	PolicyType PolicyType
	Proto      uint8
	Hard       bool // the hard limit, not the soft one
	Reqid, Seq uint32
	NewSrc     netip.Addr
	NewPort    uint16
}

// DecodeEvent reads a notification. Errors wrap ipsec.ErrInvalid.
func DecodeEvent(m netlink.Message) (Event, error) {
	e := Event{Kind: MsgType(m.Header.Type)}
	var err error
	switch e.Kind {
	case MsgNewSA, MsgUpdSA:
		e.State, err = DecodeState(m.Data)
	case MsgDelSA:
		err = e.getStateDeleted(m.Data)
	case MsgExpire:
		err = e.getExpire(m.Data)
	case MsgFlushSA:
		e.Proto, err = DecodeFlushStates(m.Data)
	case MsgNewPolicy, MsgUpdPolicy:
		e.Policy, err = DecodePolicy(m.Data)
	case MsgDelPolicy:
		err = e.getPolicyDeleted(m.Data)
	case MsgPolExpire:
		err = e.getPolExpire(m.Data)
	case MsgFlushPolicy:
		e.PolicyType, err = DecodeFlushPolicies(m.Data)
	case MsgAcquire:
		err = e.getAcquire(m.Data)
	case MsgNewAE:
		err = e.getAEvent(m.Data)
	case MsgMapping:
		err = e.getMapping(m.Data)
	case MsgReport:
		err = e.getReport(m.Data)
	}
	if err != nil {
		return Event{Kind: e.Kind}, err
	}
	return e, nil
}

func (e *Event) getStateDeleted(b []byte) error {
	id, family, err := getUsersaID(b)
	if err != nil {
		return err
	}
	e.StateID = &id
	err = eachAttr(b[sizeUsersaID:], func(typ uint16, data []byte) (err error) {
		if typ == attrSA {
			e.State, _, err = getUsersaInfo(data)
		}
		return err
	})
	if err != nil || e.State == nil {
		return err
	}
	_, err = getStateAttrs(e.State, family, b[sizeUsersaID:])
	e.StateID.Src, e.StateID.Mark = e.State.Src, e.State.Mark
	return err
}

func (e *Event) getExpire(b []byte) error {
	if err := needHeader("xfrm_user_expire", b, sizeExpire); err != nil {
		return err
	}
	s, family, err := getUsersaInfo(b[:sizeUsersaInfo])
	if err != nil {
		return err
	}
	if _, err := getStateAttrs(s, family, b[sizeExpire:]); err != nil {
		return err
	}
	id := s.ID()
	e.State, e.StateID, e.Hard = s, &id, b[sizeUsersaInfo] != 0
	return nil
}

func (e *Event) getPolicyDeleted(b []byte) error {
	id, err := getPolicyID(b)
	if err != nil {
		return err
	}
	e.PolicyID = &id
	err = eachAttr(b[sizePolicyID:], func(typ uint16, data []byte) (err error) {
		if typ == attrPolicy {
			e.Policy, err = getPolicyInfo(data)
		}
		return err
	})
	if err != nil || e.Policy == nil {
		return err
	}
	if err := getPolicyAttrs(e.Policy, b[sizePolicyID:]); err != nil {
		return err
	}
	id.Type, id.Mark, id.IfID = e.Policy.Type, e.Policy.Mark, e.Policy.IfID
	return nil
}

func (e *Event) getPolExpire(b []byte) error {
	if err := needHeader("xfrm_user_polexpire", b, sizePolExpire); err != nil {
		return err
	}
	p, err := getPolicyInfo(b)
	if err != nil {
		return err
	}
	e.Policy, e.Hard = p, b[sizePolicyInfo] != 0
	return getPolicyAttrs(p, b[sizePolExpire:])
}

// getAcquire reads struct xfrm_user_acquire: xfrm_id, source, selector, policy, algorithm
// masks, seq.
func (e *Event) getAcquire(b []byte) error {
	if err := needHeader("xfrm_user_acquire", b, sizeAcquire); err != nil {
		return err
	}
	sel, err := getSelector(b[40:96], unix.AF_UNSPEC)
	if err != nil {
		return err
	}
	p, err := getPolicyInfo(b[96:264])
	if err != nil {
		return err
	}
	if err := getPolicyAttrs(p, b[sizeAcquire:]); err != nil {
		return err
	}
	// The struct has no family of its own: it is that of the template the SA is wanted for.
	family := sel.Family
	if len(p.Tmpls) > 0 && p.Tmpls[0].Family != 0 {
		family = p.Tmpls[0].Family
	}
	e.StateID = &StateID{
		Dst: getAddr(b[0:16], family), SPI: getSPI(b[16:]), Proto: b[20],
		Src: getAddr(b[24:40], family), Mark: p.Mark,
	}
	e.Sel, e.Policy, e.Seq = &sel, p, host.Uint32(b[276:])
	return nil
}

func (e *Event) getAEvent(b []byte) error {
	if err := needHeader("xfrm_aevent_id", b, sizeAEventID); err != nil {
		return err
	}
	id, family, err := getUsersaID(b)
	if err != nil {
		return err
	}
	id.Src = getAddr(b[24:40], family)
	e.StateID, e.Reqid = &id, host.Uint32(b[44:])
	return nil
}

// getMapping reads struct xfrm_user_mapping: a peer's NAT has moved.
func (e *Event) getMapping(b []byte) error {
	if err := needHeader("xfrm_user_mapping", b, sizeMapping); err != nil {
		return err
	}
	id, family, err := getUsersaID(b)
	if err != nil {
		return err
	}
	id.Src = getAddr(b[28:44], family)
	e.StateID, e.Reqid = &id, host.Uint32(b[24:])
	e.NewSrc, e.NewPort = getAddr(b[44:60], family), getPort(b[62:])
	return nil
}

func (e *Event) getReport(b []byte) error {
	if err := needHeader("xfrm_user_report", b, sizeReport); err != nil {
		return err
	}
	sel, err := getSelector(b[4:sizeReport], unix.AF_UNSPEC)
	if err != nil {
		return err
	}
	e.Proto, e.Sel = b[0], &sel
	return nil
}
