package xfrm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// DecodePolicy reads the payload of NEWPOLICY and UPDPOLICY. Errors wrap ipsec.ErrInvalid.
func DecodePolicy(b []byte) (*Policy, error) {
	p, err := getPolicyInfo(b)
	if err != nil {
		return nil, err
	}
	if err := getPolicyAttrs(p, b[sizePolicyInfo:]); err != nil {
		return nil, err
	}
	return &p.Policy, nil
}

// getPolicyInfo reads a struct xfrm_userpolicy_info.
func getPolicyInfo(b []byte) (*roomyPolicy, error) {
	if err := needHeader("xfrm_userpolicy_info", b, sizePolicyInfo); err != nil {
		return nil, err
	}
	p := new(roomyPolicy)
	var err error
	if p.Sel, err = getSelector(b[0:sizeSelector], unix.AF_UNSPEC); err != nil {
		return nil, err
	}
	p.Limits, p.Current = getLimits(b[56:]), getCurrent(b[120:])
	p.Priority, p.Index = host.Uint32(b[152:]), host.Uint32(b[156:])
	p.Dir, p.Action = PolicyDir(b[160]), PolicyAction(b[161])
	p.Flags, p.Share = PolicyFlag(b[162]), Share(b[163])
	return p, nil
}

// getPolicyAttrs reads the attributes that follow a struct xfrm_userpolicy_info into p.
func getPolicyAttrs(p *roomyPolicy, b []byte) error {
	return eachAttr(b, func(typ uint16, data []byte) (err error) {
		switch typ {
		case attrTmpl:
			p.Tmpls, err = getTmpls(p.room[:0], data, p.Sel.Family)
		case attrPolicyType:
			p.Type, err = getPolicyType(data)
		case attrMark:
			p.Mark, err = getMark(data)
		case attrIfID:
			err = getUint32("XFRMA_IF_ID", data, &p.IfID)
		case attrOffload:
			p.Offload, err = getOffload(data)
		case attrSecCtx:
			p.SecCtx, err = getSecCtx(data)
		case attrPCPU:
			p.PCPU, err = getOptionalUint32("XFRMA_SA_PCPU", data)
		case attrPolicy, attrPad: // says again what is known
		default:
			p.Other = append(p.Other, typ)
		}
		return err
	})
}

// getPolicyType reads a struct xfrm_userpolicy_type.
func getPolicyType(data []byte) (PolicyType, error) {
	if err := need("XFRMA_POLICY_TYPE", data, sizePolicyType); err != nil {
		return 0, err
	}
	return PolicyType(data[0]), nil
}

// getTmpls appends an array of struct xfrm_user_tmpl to tmpls.
func getTmpls(tmpls []Tmpl, data []byte, selFamily uint16) ([]Tmpl, error) {
	if len(data)%sizeTmpl != 0 || len(data) > sizeTmpl*maxTmpls {
		return nil, invalid("XFRMA_TMPL: %d bytes are not 0 to %d templates", len(data), maxTmpls)
	}
	if len(data) == 0 {
		return nil, nil
	}
	for len(data) > 0 {
		t, err := getTmpl(data, selFamily)
		if err != nil {
			return nil, fmt.Errorf("template %d: %w", len(tmpls)+1, err)
		}
		tmpls = append(tmpls, t)
		data = data[sizeTmpl:]
	}
	return tmpls, nil
}

// getTmpl reads a struct xfrm_user_tmpl. Addresses without a family are of the selector's,
// as in the kernel.
func getTmpl(b []byte, selFamily uint16) (Tmpl, error) {
	family := host.Uint16(b[24:])
	if family == unix.AF_UNSPEC && !(allZero(b[0:16]) && allZero(b[28:44])) {
		family = selFamily
		if err := checkFamily(family); err != nil {
			return Tmpl{}, invalid("addresses without a family")
		}
	}
	if family != unix.AF_UNSPEC {
		if err := checkFamily(family); err != nil {
			return Tmpl{}, err
		}
	}
	return Tmpl{
		Dst:      getAddr(b[0:16], family),
		SPI:      getSPI(b[16:]),
		Proto:    b[20],
		Family:   family,
		Src:      getAddr(b[28:44], family),
		Reqid:    host.Uint32(b[44:]),
		Mode:     Mode(b[48]),
		Share:    Share(b[49]),
		Optional: b[50] != 0,
		AAlgos:   host.Uint32(b[52:]),
		EAlgos:   host.Uint32(b[56:]),
		CAlgos:   host.Uint32(b[60:]),
	}, nil
}

// DecodePolicyID reads the payload of GETPOLICY (of one policy) and DELPOLICY. Errors wrap
// ipsec.ErrInvalid.
func DecodePolicyID(b []byte) (PolicyID, error) {
	id, err := getPolicyID(b)
	if err != nil {
		return PolicyID{}, err
	}
	err = eachAttr(b[sizePolicyID:], func(typ uint16, data []byte) (err error) {
		switch typ {
		case attrPolicyType:
			id.Type, err = getPolicyType(data)
		case attrMark:
			id.Mark, err = getMark(data)
		case attrIfID:
			err = getUint32("XFRMA_IF_ID", data, &id.IfID)
		case attrSecCtx:
			id.SecCtx, err = getSecCtx(data)
		}
		return err
	})
	if err != nil {
		return PolicyID{}, err
	}
	return id, nil
}

// getPolicyID reads a struct xfrm_userpolicy_id.
func getPolicyID(b []byte) (PolicyID, error) {
	if err := needHeader("xfrm_userpolicy_id", b, sizePolicyID); err != nil {
		return PolicyID{}, err
	}
	sel, err := getSelector(b[0:sizeSelector], unix.AF_UNSPEC)
	if err != nil {
		return PolicyID{}, err
	}
	return PolicyID{Sel: sel, Index: host.Uint32(b[56:]), Dir: PolicyDir(b[60])}, nil
}

// DecodeFlushPolicies reads the payload of FLUSHPOLICY.
func DecodeFlushPolicies(b []byte) (PolicyType, error) {
	t := PolicyMain
	err := eachAttr(b, func(typ uint16, data []byte) (err error) {
		if typ == attrPolicyType {
			t, err = getPolicyType(data)
		}
		return err
	})
	return t, err
}
