package xfrm

import (
	"github.com/mdlayher/netlink"
)

// EncodeStateDeleted returns the payload of the DELSA notification: struct xfrm_usersa_id,
// the state nested in XFRMA_SA, and its attributes. Errors wrap ipsec.ErrInvalid.
func EncodeStateDeleted(s *State) ([]byte, error) {
	info := make([]byte, sizeUsersaInfo)
	family, err := putUsersaInfo(info, s)
	if err != nil {
		return nil, err
	}
	b := make([]byte, sizeUsersaID)
	putUsersaID(b, &StateID{Dst: s.Dst, Proto: s.Proto, SPI: s.SPI}, family)
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(attrSA, info)
	if b, err = withAttrs(b, ae); err != nil {
		return nil, err
	}
	attrs, err := stateAttrs(s, family)
	if err != nil {
		return nil, err
	}
	b = append(b, attrs...)
	clear(attrs)
	return b, nil
}

// EncodePolicyDeleted returns the payload of the DELPOLICY notification: struct
// xfrm_userpolicy_id, the policy nested in XFRMA_POLICY, and its attributes. Errors wrap
// ipsec.ErrInvalid.
func EncodePolicyDeleted(p *Policy) ([]byte, error) {
	whole, err := EncodePolicy(p)
	if err != nil {
		return nil, err
	}
	b := make([]byte, sizePolicyID)
	if err := putPolicyID(b, &PolicyID{Sel: p.Sel, Dir: p.Dir}); err != nil {
		return nil, err
	}
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(attrPolicy, whole[:sizePolicyInfo])
	if b, err = withAttrs(b, ae); err != nil {
		return nil, err
	}
	return append(b, whole[sizePolicyInfo:]...), nil
}
