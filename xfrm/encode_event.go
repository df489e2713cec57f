package xfrm

// EncodeStateDeleted returns the payload of the DELSA notification: struct xfrm_usersa_id,
// the state nested in XFRMA_SA, and its attributes. Errors wrap ipsec.ErrInvalid.
func EncodeStateDeleted(s *State) ([]byte, error) {
	p := newPayload(sizeUsersaID)
	family, err := putUsersaInfo(p.attr(attrSA, sizeUsersaInfo), s)
	if err != nil {
		return nil, err
	}
	putUsersaID(p, &StateID{Dst: s.Dst, Proto: s.Proto, SPI: s.SPI}, family)
	if err := putStateAttrs(&p, s, family); err != nil {
		clear(p) // a key may be in there
		return nil, err
	}
	return p, nil
}

// EncodePolicyDeleted returns the payload of the DELPOLICY notification: struct
// xfrm_userpolicy_id, the policy nested in XFRMA_POLICY, and its attributes. Errors wrap
// ipsec.ErrInvalid.
func EncodePolicyDeleted(pol *Policy) ([]byte, error) {
	p := newPayload(sizePolicyID)
	if err := putPolicyID(p, &PolicyID{Sel: pol.Sel, Dir: pol.Dir}); err != nil {
		return nil, err
	}
	if err := putPolicyInfo(p.attr(attrPolicy, sizePolicyInfo), pol); err != nil {
		return nil, err
	}
	if err := putPolicyAttrs(&p, pol); err != nil {
		return nil, err
	}
	return p, nil
}
