package server

import (
	"context"
	"fmt"

	"github.com/mdlayher/netlink"

	"espalier/ipsec"
	"espalier/xfrm"
)

// drops answers what the database dropped and why, if it counts that.
func (s *Server) drops(ctx context.Context, m netlink.Message) ([]netlink.Message, error) {
	accounting, ok := s.db.(ipsec.Accounting)
	if !ok {
		return nil, fmt.Errorf("this engine does not count its drops: %w", ipsec.ErrUnsupported)
	}
	counts, err := accounting.Drops(ctx)
	if err != nil {
		return nil, err
	}
	b, err := xfrm.EncodeDrops(counts)
	if err != nil {
		return nil, err
	}
	return []netlink.Message{reply(m, netlink.HeaderType(xfrm.MsgGetDrops), 0, b)}, nil
}
