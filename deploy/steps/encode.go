package steps

import (
	"fmt"

	"espalier/config"
	"espalier/ipsec"
	"espalier/tunnel"
	"espalier/xfrm"
)

// LinuxState is an SA in the words of Linux. It shares the key. Errors wrap ipsec.ErrInvalid.
func LinuxState(sa *tunnel.SA) (*xfrm.State, error) {
	s, err := xfrm.StateFromEngine(&sa.SA)
	if err != nil {
		return nil, fmt.Errorf("SA %s: %w", sa.ID(), err)
	}
	s.Mark, s.OutputMark, s.IfID, s.PCPU = linuxMark(sa.Mark), linuxMark(sa.OutputMark), sa.IfID, sa.CPU
	return s, nil
}

// SAOf is the inverse of [LinuxState]. Errors wrap ipsec.ErrUnsupported or ipsec.ErrInvalid.
func SAOf(s *xfrm.State) (tunnel.SA, error) {
	bare := *s
	bare.Mark, bare.OutputMark, bare.IfID, bare.PCPU = nil, nil, 0, nil
	sa, err := bare.EngineSA()
	if err != nil {
		return tunnel.SA{}, err
	}
	out := tunnel.SA{SA: sa, Mark: mark(s.Mark), OutputMark: mark(s.OutputMark), IfID: s.IfID}
	out.CPU = s.PCPU
	return out, nil
}

// LinuxPolicy is a policy in the words of Linux. Errors wrap ipsec.ErrInvalid.
func LinuxPolicy(p *tunnel.Policy) (*xfrm.Policy, error) {
	out, err := xfrm.PolicyFromEngine(&p.Policy)
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", p.ID(), err)
	}
	out.Mark, out.IfID = linuxMark(p.Mark), p.IfID
	if p.Offload.Mode == ipsec.PacketOffload {
		out.Offload = &xfrm.Offload{Ifindex: int32(p.Offload.Interface), Flags: xfrm.OffloadPacket}
	}
	return out, nil
}

// PolicyOf is the inverse of [LinuxPolicy]. Errors wrap ipsec.ErrUnsupported or ipsec.ErrInvalid.
func PolicyOf(p *xfrm.Policy) (tunnel.Policy, error) {
	bare := *p
	bare.Mark, bare.IfID, bare.Offload = nil, 0, nil
	policy, err := bare.EnginePolicy()
	if err != nil {
		return tunnel.Policy{}, err
	}
	out := tunnel.Policy{Policy: policy, Mark: mark(p.Mark), IfID: p.IfID}
	if p.Offload != nil {
		out.Offload = ipsec.Offload{Mode: ipsec.PacketOffload, Interface: int(p.Offload.Ifindex), Direction: policy.Direction}
	}
	return out, nil
}

// EncodeSA is the payload of NEWSA. It holds the key: the caller wipes it.
func EncodeSA(sa *tunnel.SA) ([]byte, error) {
	s, err := LinuxState(sa)
	if err != nil {
		return nil, err
	}
	return xfrm.EncodeState(s)
}

// EncodePolicy is the payload of NEWPOLICY.
func EncodePolicy(p *tunnel.Policy) ([]byte, error) {
	out, err := LinuxPolicy(p)
	if err != nil {
		return nil, err
	}
	return xfrm.EncodePolicy(out)
}

// DecodePolicy reads what EncodePolicy has made. At level use, a policy lets pass what is not
// protected as well: what comes in clear while SAs are being set up.
func DecodePolicy(payload []byte, use bool) (*xfrm.Policy, error) {
	p, err := xfrm.DecodePolicy(payload)
	if err != nil {
		return nil, err
	}
	for i := range p.Tmpls {
		p.Tmpls[i].Optional = use
	}
	return p, nil
}

func linuxMark(m config.Mark) *xfrm.Mark {
	if m.Mask == 0 {
		return nil
	}
	return &xfrm.Mark{Value: m.Value, Mask: m.Mask}
}

func mark(m *xfrm.Mark) config.Mark {
	if m == nil {
		return config.Mark{}
	}
	return config.Mark{Value: m.Value, Mask: m.Mask}
}
