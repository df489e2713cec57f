package xfrm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// maxTmpls is XFRM_MAX_DEPTH.
const maxTmpls = 6

// EncodePolicy returns the payload of NEWPOLICY and UPDPOLICY: struct xfrm_userpolicy_info
// and its attributes. Errors wrap ipsec.ErrInvalid.
func EncodePolicy(pol *Policy) ([]byte, error) { return AppendPolicy(room(sizePolicyInfo), pol) }

// AppendPolicy appends what EncodePolicy returns to b, a multiple of four bytes. After an error
// there is nothing more in what it returns than in b.
func AppendPolicy(b []byte, pol *Policy) ([]byte, error) {
	p := payload(b)
	err := putPolicyInfo(p.fixed(sizePolicyInfo), pol)
	if err == nil {
		err = putPolicyAttrs(&p, pol)
	}
	if err != nil {
		return p.undo(len(b)), err
	}
	return p, nil
}

// putPolicyAttrs adds the attributes behind a struct xfrm_userpolicy_info.
func putPolicyAttrs(p *payload, pol *Policy) error {
	putPolicyType(p, pol.Type)
	if err := putTmpls(p, pol.Tmpls); err != nil {
		return err
	}
	putMarkIfID(p, pol.Mark, pol.IfID)
	if err := putSecCtx(p, pol.SecCtx); err != nil {
		return err
	}
	p.optional(attrPCPU, pol.PCPU)
	putOffload(p, pol.Offload)
	return nil
}

// putPolicyInfo writes a struct xfrm_userpolicy_info.
func putPolicyInfo(b []byte, p *Policy) error {
	if err := putSelector(b[0:], &p.Sel); err != nil {
		return err
	}
	putLimits(b[56:], &p.Limits)
	putCurrent(b[120:], &p.Current)
	host.PutUint32(b[152:], p.Priority)
	host.PutUint32(b[156:], p.Index)
	b[160] = uint8(p.Dir)
	b[161] = uint8(p.Action)
	b[162] = uint8(p.Flags)
	b[163] = uint8(p.Share)
	return nil
}

// putPolicyType adds XFRMA_POLICY_TYPE unless the type is main, which none means.
func putPolicyType(p *payload, t PolicyType) {
	if t == PolicyMain {
		return
	}
	p.attr(attrPolicyType, sizePolicyType)[0] = uint8(t)
}

func putMarkIfID(p *payload, m *Mark, ifID uint32) {
	if m != nil {
		putMark(p.attr(attrMark, sizeMark), m)
	}
	p.nonzero(attrIfID, ifID)
}

// putTmpls adds an array of struct xfrm_user_tmpl, if there are any.
func putTmpls(p *payload, tmpls []Tmpl) error {
	if len(tmpls) == 0 {
		return nil
	}
	if len(tmpls) > maxTmpls {
		return invalid("%d templates: at most %d", len(tmpls), maxTmpls)
	}
	b := p.attr(attrTmpl, sizeTmpl*len(tmpls))
	for i := range tmpls {
		if err := putTmpl(b[sizeTmpl*i:], &tmpls[i]); err != nil {
			return fmt.Errorf("template %d: %w", i+1, err)
		}
	}
	return nil
}

// putTmpl writes a struct xfrm_user_tmpl. A template that names neither family nor
// addresses is sent with AF_UNSPEC: the kernel then takes the selector's family.
func putTmpl(b []byte, t *Tmpl) error {
	family, err := addrFamily(t.Src, t.Dst)
	if err != nil {
		return err
	}
	switch {
	case t.Family == unix.AF_UNSPEC:
	case t.Family != unix.AF_INET && t.Family != unix.AF_INET6:
		return invalid("address family %d", t.Family)
	case family != unix.AF_UNSPEC && family != t.Family:
		return invalid("address family %d, addresses of family %d", t.Family, family)
	default:
		family = t.Family
	}
	putID(b[0:], t.Dst, t.SPI, t.Proto)
	host.PutUint16(b[24:], family)
	putAddr(b[28:], t.Src)
	host.PutUint32(b[44:], t.Reqid)
	b[48] = uint8(t.Mode)
	b[49] = uint8(t.Share)
	if t.Optional {
		b[50] = 1
	}
	host.PutUint32(b[52:], t.AAlgos)
	host.PutUint32(b[56:], t.EAlgos)
	host.PutUint32(b[60:], t.CAlgos)
	return nil
}

// EncodePolicyID returns the payload of GETPOLICY and DELPOLICY. Errors wrap
// ipsec.ErrInvalid.
func EncodePolicyID(id *PolicyID) ([]byte, error) { return AppendPolicyID(room(sizePolicyID), id) }

// AppendPolicyID appends what EncodePolicyID returns, as AppendPolicy does.
func AppendPolicyID(b []byte, id *PolicyID) ([]byte, error) {
	p := payload(b)
	if err := putPolicyID(p.fixed(sizePolicyID), id); err != nil {
		return p.undo(len(b)), err
	}
	putPolicyType(&p, id.Type)
	putMarkIfID(&p, id.Mark, id.IfID)
	if err := putSecCtx(&p, id.SecCtx); err != nil {
		return p.undo(len(b)), err
	}
	return p, nil
}

// putPolicyID writes a struct xfrm_userpolicy_id.
func putPolicyID(b []byte, id *PolicyID) error {
	if err := putSelector(b[0:], &id.Sel); err != nil {
		return err
	}
	host.PutUint32(b[56:], id.Index)
	b[60] = uint8(id.Dir)
	return nil
}

// EncodeFlushPolicies returns the payload of FLUSHPOLICY.
func EncodeFlushPolicies(t PolicyType) ([]byte, error) {
	p := newPayload(0)
	putPolicyType(&p, t)
	return p, nil
}
