package server

import (
	"context"
	"fmt"

	"github.com/mdlayher/netlink"

	"espalier/ipsec"
	"espalier/xfrm"
)

// defaults are what a database does with packets that no policy is about.
var defaults = xfrm.Defaults{In: xfrm.DefaultAccept, Fwd: xfrm.DefaultAccept, Out: xfrm.DefaultAccept}

// setDefaults takes what is so anyway.
func (s *Server) setDefaults(_ context.Context, m netlink.Message) ([]netlink.Message, error) {
	d, err := xfrm.DecodeDefaults(m.Data)
	if err != nil {
		return nil, err
	}
	for _, a := range []xfrm.DefaultAction{d.In, d.Fwd, d.Out} {
		if a == xfrm.DefaultBlock {
			return nil, fmt.Errorf("default policy block: only traffic that policies name is steered here: add a policy with action block: %w", ipsec.ErrUnsupported)
		}
	}
	s.notify(xfrm.GroupPolicy, reply(m, netlink.HeaderType(xfrm.MsgGetDefault), 0, xfrm.EncodeDefaults(defaults)))
	return nil, nil
}

func (s *Server) getDefaults(_ context.Context, m netlink.Message) ([]netlink.Message, error) {
	return []netlink.Message{reply(m, netlink.HeaderType(xfrm.MsgGetDefault), 0, xfrm.EncodeDefaults(defaults))}, nil
}
