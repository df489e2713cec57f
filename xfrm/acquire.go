package xfrm

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Acquire is struct xfrm_user_acquire: a packet wants an SA that is not there. The kernel
// fills in ID and Src from the template, Sel from the packet.
type Acquire struct {
	ID     StateID // SPI 0
	Sel    Selector
	Policy *Policy
	// AAlgos, EAlgos and CAlgos are the masks of the template.
	AAlgos, EAlgos, CAlgos uint32
	Seq                    uint32 // to be named by what answers (km sequence number)
}

// EncodeAcquire returns the payload of ACQUIRE. Errors wrap ipsec.ErrInvalid.
func EncodeAcquire(a *Acquire) ([]byte, error) {
	if _, err := addrFamily(a.ID.Dst, a.ID.Src); err != nil {
		return nil, err
	}
	policy, err := EncodePolicy(a.Policy)
	if err != nil {
		return nil, err
	}
	b := make([]byte, sizeAcquire)
	putID(b[0:], a.ID.Dst, a.ID.SPI, a.ID.Proto)
	putAddr(b[24:], a.ID.Src)
	if err := putSelector(b[40:], &a.Sel); err != nil {
		return nil, err
	}
	copy(b[96:], policy[:sizePolicyInfo])
	for i, v := range [...]uint32{a.AAlgos, a.EAlgos, a.CAlgos, a.Seq} {
		host.PutUint32(b[264+4*i:], v)
	}
	return append(b, policy[sizePolicyInfo:]...), nil
}

// DecodeAcquire reads the payload of ACQUIRE. Errors wrap ipsec.ErrInvalid.
func DecodeAcquire(b []byte) (*Acquire, error) {
	if err := needHeader("xfrm_user_acquire", b, sizeAcquire); err != nil {
		return nil, err
	}
	sel, err := getSelector(b[40:96], unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	p, err := getPolicyInfo(b[96:264])
	if err != nil {
		return nil, err
	}
	if err := getPolicyAttrs(p, b[sizeAcquire:]); err != nil {
		return nil, err
	}
	// The struct has no family of its own: it is that of the template the SA is wanted for.
	family := sel.Family
	if len(p.Tmpls) > 0 && p.Tmpls[0].Family != 0 {
		family = p.Tmpls[0].Family
	}
	a := &Acquire{
		ID: StateID{
			Dst: getAddr(b[0:16], family), SPI: getSPI(b[16:]), Proto: b[20],
			Src: getAddr(b[24:40], family), Mark: p.Mark,
		},
		Sel: sel, Policy: &p.Policy,
	}
	return a, getWords("xfrm_user_acquire", b[264:], &a.AAlgos, &a.EAlgos, &a.CAlgos, &a.Seq)
}

// decodeReport reads the payload of REPORT, struct xfrm_user_report.
func decodeReport(b []byte) (proto uint8, _ *Selector, err error) {
	if err := needHeader("xfrm_user_report", b, sizeReport); err != nil {
		return 0, nil, err
	}
	sel, err := getSelector(b[4:sizeReport], unix.AF_UNSPEC)
	if err != nil {
		return 0, nil, err
	}
	return b[0], &sel, nil
}

// EncodeReport returns the payload of REPORT: a protocol and the packet it was about. Errors
// wrap ipsec.ErrInvalid.
func EncodeReport(proto uint8, sel *Selector) ([]byte, error) {
	b := make([]byte, sizeReport)
	b[0] = proto
	return b, putSelector(b[4:], sel)
}

// Mapping is struct xfrm_user_mapping: a peer behind a NAT has moved.
type Mapping struct {
	ID               StateID
	Reqid            uint32
	OldSrc, NewSrc   netip.Addr
	OldPort, NewPort uint16
}

// EncodeMapping returns the payload of MAPPING. Errors wrap ipsec.ErrInvalid.
func EncodeMapping(m *Mapping) ([]byte, error) {
	family, err := addrFamily(m.ID.Dst, m.OldSrc, m.NewSrc)
	if err != nil {
		return nil, err
	}
	if !m.ID.Dst.IsValid() {
		return nil, invalid("no destination address")
	}
	b := make([]byte, sizeMapping)
	putUsersaID(b, &m.ID, family)
	host.PutUint32(b[24:], m.Reqid)
	putAddr(b[28:], m.OldSrc)
	putAddr(b[44:], m.NewSrc)
	putPort(b[60:], m.OldPort)
	putPort(b[62:], m.NewPort)
	return b, nil
}

// DecodeMapping reads the payload of MAPPING. Errors wrap ipsec.ErrInvalid.
func DecodeMapping(b []byte) (*Mapping, error) {
	if err := needHeader("xfrm_user_mapping", b, sizeMapping); err != nil {
		return nil, err
	}
	id, family, err := getUsersaID(b)
	if err != nil {
		return nil, err
	}
	id.Src = getAddr(b[28:44], family)
	return &Mapping{
		ID: id, Reqid: host.Uint32(b[24:]),
		OldSrc: id.Src, NewSrc: getAddr(b[44:60], family),
		OldPort: getPort(b[60:]), NewPort: getPort(b[62:]),
	}, nil
}

// EncodeStateExpired returns the payload of EXPIRE: struct xfrm_user_expire and the
// attributes the kernel sends with it. Errors wrap ipsec.ErrInvalid.
func EncodeStateExpired(s *State, hard bool) ([]byte, error) {
	p := newPayload(sizeExpire)
	if _, err := putUsersaInfo(p, s); err != nil {
		return nil, err
	}
	putHard(p[sizeUsersaInfo:], hard)
	putMarkIfID(&p, s.Mark, s.IfID)
	if err := putDir(&p, s.Dir); err != nil {
		return nil, err
	}
	p.optional(attrPCPU, s.PCPU)
	return p, nil
}

// EncodePolicyExpired returns the payload of POLEXPIRE. Errors wrap ipsec.ErrInvalid.
func EncodePolicyExpired(p *Policy, hard bool) ([]byte, error) {
	policy, err := EncodePolicy(p)
	if err != nil {
		return nil, err
	}
	b := make([]byte, sizePolExpire)
	copy(b, policy[:sizePolicyInfo])
	putHard(b[sizePolicyInfo:], hard)
	return append(b, policy[sizePolicyInfo:]...), nil
}

func putHard(b []byte, hard bool) {
	if hard {
		b[0] = 1
	}
}
