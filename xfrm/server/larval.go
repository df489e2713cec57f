package server

import (
	"context"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// allocateSPI answers ALLOCSPI with the larval state that has the SPI now.
func (s *Server) allocateSPI(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	r, err := xfrm.DecodeSPIRange(m.Data)
	if err != nil {
		return nil, err
	}
	request, err := spiRequest(r)
	if err != nil {
		return nil, err
	}
	sa, err := s.db.AllocateSPI(ctx, request)
	if err != nil {
		return nil, err
	}
	s.log.Debug("SPI allocated", "sa", sa.ID().String())
	return stateReply(m, &sa)
}

func spiRequest(r *xfrm.SPIRange) (ipsec.SPIRequest, error) {
	s := r.State
	if s.Proto != unix.IPPROTO_ESP {
		return ipsec.SPIRequest{}, fmt.Errorf("SPI for IP protocol %d: only ESP (50): %w", s.Proto, ipsec.ErrUnsupported)
	}
	if r.Min > r.Max {
		return ipsec.SPIRequest{}, fmt.Errorf("invalid SPI range: min > max: %w", ipsec.ErrInvalid)
	}
	if s.PCPU != nil {
		return ipsec.SPIRequest{}, fmt.Errorf("SPI for one CPU: only the SA itself is tied to it: %w", ipsec.ErrUnsupported)
	}
	// What a larval SA cannot have is refused in the words for any other.
	like := xfrm.State{Src: s.Src, Dst: s.Dst, Proto: s.Proto, Mode: s.Mode, Reqid: s.Reqid, Dir: s.Dir, Mark: s.Mark, IfID: s.IfID, Limits: xfrm.NoLimits}
	like.AEAD = &xfrm.AEAD{Name: xfrm.AEADName, KeyBits: 160, ICVBits: 128}
	sa, err := like.SA()
	if err != nil {
		return ipsec.SPIRequest{}, err
	}
	return ipsec.SPIRequest{
		Src: sa.Src, Dst: sa.Dst, Mode: sa.Mode, Direction: sa.Direction, RequestID: sa.RequestID, AcquireID: s.Seq,
		Min: ipsec.SPI(r.Min), Max: ipsec.SPI(r.Max),
	}, nil
}
