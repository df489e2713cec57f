package xfrm

import (
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// maxTmpls is XFRM_MAX_DEPTH.
const maxTmpls = 6

// EncodePolicy returns the payload of NEWPOLICY and UPDPOLICY: struct xfrm_userpolicy_info
// and its attributes. Errors wrap ipsec.ErrInvalid.
func EncodePolicy(p *Policy) ([]byte, error) {
	b := make([]byte, sizePolicyInfo)
	if err := putPolicyInfo(b, p); err != nil {
		return nil, err
	}
	ae := netlink.NewAttributeEncoder()
	putPolicyType(ae, p.Type)
	if len(p.Tmpls) > 0 {
		tmpls, err := tmplBytes(p.Tmpls)
		if err != nil {
			return nil, err
		}
		ae.Bytes(attrTmpl, tmpls)
	}
	putMarkIfID(ae, p.Mark, p.IfID)
	if err := putSecCtx(ae, p.SecCtx); err != nil {
		return nil, err
	}
	putOptional(ae, attrPCPU, p.PCPU)
	if p.Offload != nil {
		ae.Bytes(attrOffload, offloadBytes(p.Offload))
	}
	return withAttrs(b, ae)
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
func putPolicyType(ae *netlink.AttributeEncoder, t PolicyType) {
	if t == PolicyMain {
		return
	}
	b := make([]byte, sizePolicyType)
	b[0] = uint8(t)
	ae.Bytes(attrPolicyType, b)
}

func putMarkIfID(ae *netlink.AttributeEncoder, m *Mark, ifID uint32) {
	if m != nil {
		ae.Bytes(attrMark, markBytes(m))
	}
	putNonzero(ae, attrIfID, ifID)
}

// tmplBytes is an array of struct xfrm_user_tmpl.
func tmplBytes(tmpls []Tmpl) ([]byte, error) {
	if len(tmpls) > maxTmpls {
		return nil, invalid("%d templates: at most %d", len(tmpls), maxTmpls)
	}
	b := make([]byte, sizeTmpl*len(tmpls))
	for i := range tmpls {
		if err := putTmpl(b[sizeTmpl*i:], &tmpls[i]); err != nil {
			return nil, fmt.Errorf("template %d: %w", i+1, err)
		}
	}
	return b, nil
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
func EncodePolicyID(id *PolicyID) ([]byte, error) {
	b := make([]byte, sizePolicyID)
	if err := putPolicyID(b, id); err != nil {
		return nil, err
	}
	ae := netlink.NewAttributeEncoder()
	putPolicyType(ae, id.Type)
	putMarkIfID(ae, id.Mark, id.IfID)
	if err := putSecCtx(ae, id.SecCtx); err != nil {
		return nil, err
	}
	return withAttrs(b, ae)
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
	ae := netlink.NewAttributeEncoder()
	putPolicyType(ae, t)
	return withAttrs(nil, ae)
}
