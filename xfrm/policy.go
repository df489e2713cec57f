package xfrm

import (
	"fmt"
	"net/netip"

	"espalier/ipsec"
)

// Policy is one SPD entry as struct xfrm_userpolicy_info and its attributes say it.
type Policy struct {
	Sel      Selector
	Limits   LifetimeConfig
	Current  LifetimeCurrent // read back only
	Priority uint32          // lower wins
	Index    uint32          // 0: the engine assigns one
	Dir      PolicyDir
	Action   PolicyAction
	Flags    PolicyFlag
	Type     PolicyType // ptype
	Tmpls    []Tmpl
	Mark     *Mark
	IfID     uint32
	Offload  *Offload // packet offload of the policy
	SecCtx   *SecCtx
	PCPU     *uint32 // of an ACQUIRE: the CPU that wants an SA
	Share    Share   // the kernel takes and gives ShareAny

	// Other lists attributes of a decoded message that are not known here (XFRMA_*
	// numbers). They are not encoded.
	Other []uint16
}

// roomyPolicy is a policy and the room for its template, made at once: most have one.
type roomyPolicy struct {
	Policy
	room [1]Tmpl
}

// PolicyID names a policy as GETPOLICY and DELPOLICY do: by Index when that is not 0, else
// by Sel.
type PolicyID struct {
	Sel   Selector
	Index uint32
	Dir   PolicyDir
	Type  PolicyType
	Mark  *Mark
	IfID  uint32

	SecCtx *SecCtx
}

// ID is the identity of the policy by its selector, whatever index it was given.
func (p *Policy) ID() PolicyID {
	return PolicyID{Sel: p.Sel, Dir: p.Dir, Type: p.Type, Mark: p.Mark, IfID: p.IfID, SecCtx: p.SecCtx}
}

// String is the selector or index, and the direction: "10.1.0.0/16→10.2.0.0/16 out".
func (id PolicyID) String() string {
	what := id.Sel.Selector.String()
	if id.Index != 0 {
		what = fmt.Sprintf("index %d", id.Index)
	}
	switch id.Dir {
	case PolicyIn:
		return what + " in"
	case PolicyOut:
		return what + " out"
	case PolicyFwd:
		return what + " fwd"
	}
	return fmt.Sprintf("%s dir %d", what, uint8(id.Dir))
}

// PolicyDir is XFRM_POLICY_IN, OUT and FWD.
type PolicyDir uint8

const (
	PolicyIn PolicyDir = iota
	PolicyOut
	PolicyFwd
)

// PolicyAction is XFRM_POLICY_ALLOW and BLOCK.
type PolicyAction uint8

const (
	PolicyAllow PolicyAction = iota
	PolicyBlock
)

// PolicyFlag is XFRM_POLICY_LOCALOK and XFRM_POLICY_ICMP.
type PolicyFlag uint8

const (
	PolicyLocalOK PolicyFlag = 1
	PolicyICMP    PolicyFlag = 2
)

// PolicyType is XFRM_POLICY_TYPE_*.
type PolicyType uint8

const (
	PolicyMain PolicyType = iota
	PolicySub
)

// Share is XFRM_SHARE_*: who may use an SA. The kernel ignores it.
type Share uint8

const (
	ShareAny Share = iota
	ShareSession
	ShareUser
	ShareUnique
)

// Tmpl is struct xfrm_user_tmpl.
type Tmpl struct {
	Src, Dst netip.Addr
	Proto    uint8
	SPI      ipsec.SPI
	Family   uint16
	Mode     Mode
	Reqid    uint32
	Optional bool // level use
	Share    Share
	// AAlgos, EAlgos and CAlgos are the masks of algorithms accepted; ip sends all ones.
	AAlgos, EAlgos, CAlgos uint32
}
