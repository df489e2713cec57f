package xfrm

import (
	"net/netip"

	"github.com/mdlayher/netlink"
)

// Event is a message that an engine sends on its own, to the members of a multicast group.
// Kind tells which of the fields are set:
//
//	NEWSA, UPDSA          State
//	DELSA                 State and StateID
//	EXPIRE                State (most without attributes), StateID, Hard
//	FLUSHSA               Proto
//	NEWPOLICY, UPDPOLICY  Policy
//	DELPOLICY             Policy and PolicyID
//	POLEXPIRE             Policy, Hard
//	FLUSHPOLICY           PolicyType
//	ACQUIRE               Acquire; StateID (SPI 0), Sel (of the packet), Policy, Seq
//	NEWAE                 AE; StateID, Reqid
//	MAPPING               Mapping; StateID, Reqid, NewSrc and NewPort
//	REPORT                Proto, Sel
//	MIGRATE               Migration; PolicyID
//	GETDEFAULT            Defaults
//
// Other kinds carry nothing but their Kind and Header. Keys are there if the sender gives them.
type Event struct {
	Header     netlink.Header
	Kind       MsgType
	State      *State
	StateID    *StateID
	Policy     *Policy
	PolicyID   *PolicyID
	Acquire    *Acquire
	AE         *AEvent
	Mapping    *Mapping
	Migration  *Migration
	Defaults   *Defaults
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
	e := Event{Header: m.Header, Kind: MsgType(m.Header.Type)}
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
		if e.Acquire, err = DecodeAcquire(m.Data); err == nil {
			e.StateID, e.Sel, e.Policy, e.Seq = &e.Acquire.ID, &e.Acquire.Sel, e.Acquire.Policy, e.Acquire.Seq
		}
	case MsgNewAE:
		if e.AE, err = DecodeAEvent(m.Data); err == nil {
			e.StateID, e.Reqid = &e.AE.ID, e.AE.Reqid
		}
	case MsgMapping:
		if e.Mapping, err = DecodeMapping(m.Data); err == nil {
			e.StateID, e.Reqid, e.NewSrc, e.NewPort = &e.Mapping.ID, e.Mapping.Reqid, e.Mapping.NewSrc, e.Mapping.NewPort
		}
	case MsgReport:
		e.Proto, e.Sel, err = decodeReport(m.Data)
	case MsgMigrate:
		if e.Migration, err = DecodeMigration(m.Data); err == nil {
			e.PolicyID = &e.Migration.ID
		}
	case MsgGetDefault:
		e.Defaults, err = DecodeDefaults(m.Data)
	}
	if err != nil {
		return Event{Header: m.Header, Kind: e.Kind}, err
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
	var p *roomyPolicy
	err = eachAttr(b[sizePolicyID:], func(typ uint16, data []byte) (err error) {
		if typ == attrPolicy {
			p, err = getPolicyInfo(data)
		}
		return err
	})
	if err != nil || p == nil {
		return err
	}
	if err := getPolicyAttrs(p, b[sizePolicyID:]); err != nil {
		return err
	}
	e.Policy = &p.Policy
	id.Type, id.Mark, id.IfID, id.SecCtx = e.Policy.Type, e.Policy.Mark, e.Policy.IfID, e.Policy.SecCtx
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
	e.Policy, e.Hard = &p.Policy, b[sizePolicyInfo] != 0
	return getPolicyAttrs(p, b[sizePolExpire:])
}
