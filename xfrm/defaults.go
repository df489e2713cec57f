package xfrm

// Defaults is struct xfrm_userpolicy_default: what happens to packets without a policy. It is
// the payload of SETDEFAULT, where 0 leaves a direction as it is, of GETDEFAULT and of the
// answer to it.
type Defaults struct {
	In, Fwd, Out DefaultAction
}

// DefaultAction is XFRM_USERPOLICY_*.
type DefaultAction uint8

const (
	DefaultUnspec DefaultAction = iota
	DefaultBlock
	DefaultAccept
)

// EncodeDefaults returns the payload of SETDEFAULT and GETDEFAULT.
func EncodeDefaults(d Defaults) []byte { return []byte{byte(d.In), byte(d.Fwd), byte(d.Out)} }

// DecodeDefaults reads it back. Errors wrap ipsec.ErrInvalid.
func DecodeDefaults(b []byte) (*Defaults, error) {
	if err := needHeader("xfrm_userpolicy_default", b, 3); err != nil {
		return nil, err
	}
	return &Defaults{In: DefaultAction(b[0]), Fwd: DefaultAction(b[1]), Out: DefaultAction(b[2])}, nil
}
