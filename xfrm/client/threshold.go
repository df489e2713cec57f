package client

import (
	"context"

	"github.com/mdlayher/netlink"

	"espalier/xfrm"
)

// SetThresholds sets from which prefix lengths on policies are hashed (NEWSPDINFO).
func (c *Client) SetThresholds(ctx context.Context, t xfrm.Thresholds) error {
	q := call{op: "set policy hash thresholds", typ: xfrm.MsgNewSPDInfo, flags: netlink.Acknowledge}
	var err error
	if q.payload, err = xfrm.EncodeThresholds(t); err != nil {
		return q.fail(err)
	}
	_, err = c.request(ctx, q)
	return err
}
