package client

import (
	"context"
	"iter"

	"github.com/mdlayher/netlink"

	"espalier/xfrm"
)

// GetPolicy reads a policy back (GETPOLICY).
func (c *Client) GetPolicy(ctx context.Context, id xfrm.PolicyID) (*xfrm.Policy, error) {
	q := call{op: "get policy", object: id.String, typ: xfrm.MsgGetPolicy}
	var err error
	if q.payload, err = xfrm.EncodePolicyID(&id); err != nil {
		return nil, q.fail(err)
	}
	data, err := c.get(ctx, q, xfrm.MsgNewPolicy)
	if err != nil {
		return nil, err
	}
	p, err := xfrm.DecodePolicy(data)
	if err != nil {
		return nil, q.fail(err)
	}
	return p, nil
}

// Policies iterates over all policies; the kernel's include those of single sockets, whose
// Dir is beyond PolicyFwd. An error ends the iteration.
func (c *Client) Policies(ctx context.Context) iter.Seq2[*xfrm.Policy, error] {
	return decoded(ctx, c, call{op: "list policies", typ: xfrm.MsgGetPolicy}, xfrm.DecodePolicy)
}

// FlushPolicies takes out all policies of a type (FLUSHPOLICY).
func (c *Client) FlushPolicies(ctx context.Context, t xfrm.PolicyType) error {
	q := call{op: "flush policies", typ: xfrm.MsgFlushPolicy, flags: netlink.Acknowledge}
	var err error
	if q.payload, err = xfrm.EncodeFlushPolicies(t); err != nil {
		return q.fail(err)
	}
	_, err = c.request(ctx, q)
	return err
}

// SPDInfo counts the policies (GETSPDINFO).
func (c *Client) SPDInfo(ctx context.Context) (xfrm.SPDInfo, error) {
	q := call{op: "count policies", typ: xfrm.MsgGetSPDInfo, payload: xfrm.EncodeInfoRequest()}
	data, err := c.get(ctx, q, xfrm.MsgNewSPDInfo)
	if err != nil {
		return xfrm.SPDInfo{}, err
	}
	return xfrm.DecodeSPDInfo(data)
}
