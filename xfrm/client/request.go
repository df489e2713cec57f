package client

import (
	"context"
	"fmt"

	"github.com/mdlayher/netlink"

	"espalier/ipsec"
	"espalier/xfrm"
)

// Request is one change of the SAD or SPD, ready to be sent by [Client.Batch], once. It may hold
// a key.
type Request struct {
	call
	err error // why it cannot be sent
}

// AddState installs a state (NEWSA). A state whose key is withheld is refused: the engine
// would take it for a key of zeros.
func AddState(s *xfrm.State) Request {
	if s.AEAD != nil && s.AEAD.Key.Len() == 0 {
		return Request{err: fmt.Errorf("add SA %s: no key: %w", s.ID(), ipsec.ErrInvalid)}
	}
	return ofState("add SA", xfrm.MsgNewSA, s)
}

// UpdateState changes a live state (UPDSA). Linux changes encapsulation, limits, marks and
// if_id; key, selector and offload stay what they were, without an error.
func UpdateState(s *xfrm.State) Request { return ofState("update SA", xfrm.MsgUpdSA, s) }

func ofState(op string, typ xfrm.MsgType, s *xfrm.State) Request {
	payload, err := xfrm.EncodeState(s)
	return change(op, typ, func() string { return s.ID().String() }, payload, err)
}

// DeleteState takes a state out (DELSA).
func DeleteState(id xfrm.StateID) Request {
	payload, err := xfrm.EncodeStateID(&id)
	return change("delete SA", xfrm.MsgDelSA, id.String, payload, err)
}

// AddPolicy installs a policy (NEWPOLICY).
func AddPolicy(p *xfrm.Policy) Request { return ofPolicy("add policy", xfrm.MsgNewPolicy, p) }

// UpdatePolicy installs a policy in place of the one with the same selector and direction,
// if there is one (UPDPOLICY).
func UpdatePolicy(p *xfrm.Policy) Request { return ofPolicy("update policy", xfrm.MsgUpdPolicy, p) }

func ofPolicy(op string, typ xfrm.MsgType, p *xfrm.Policy) Request {
	payload, err := xfrm.EncodePolicy(p)
	return change(op, typ, func() string { return p.ID().String() }, payload, err)
}

// DeletePolicy takes a policy out (DELPOLICY).
func DeletePolicy(id xfrm.PolicyID) Request {
	payload, err := xfrm.EncodePolicyID(&id)
	return change("delete policy", xfrm.MsgDelPolicy, id.String, payload, err)
}

func change(op string, typ xfrm.MsgType, object func() string, payload []byte, err error) Request {
	r := Request{call: call{op: op, object: object, typ: typ, flags: netlink.Acknowledge, payload: payload}}
	if err != nil {
		r.err = r.fail(err)
	}
	return r
}

// do sends one request, and wipes it.
func (c *Client) do(ctx context.Context, r Request) error {
	if r.err != nil {
		return r.err
	}
	defer clear(r.payload)
	_, err := c.request(ctx, r.call)
	return err
}

// AddState sends the request [AddState].
func (c *Client) AddState(ctx context.Context, s *xfrm.State) error { return c.do(ctx, AddState(s)) }

// UpdateState sends the request [UpdateState].
func (c *Client) UpdateState(ctx context.Context, s *xfrm.State) error {
	return c.do(ctx, UpdateState(s))
}

// DeleteState sends the request [DeleteState].
func (c *Client) DeleteState(ctx context.Context, id xfrm.StateID) error {
	return c.do(ctx, DeleteState(id))
}

// AddPolicy sends the request [AddPolicy].
func (c *Client) AddPolicy(ctx context.Context, p *xfrm.Policy) error {
	return c.do(ctx, AddPolicy(p))
}

// UpdatePolicy sends the request [UpdatePolicy].
func (c *Client) UpdatePolicy(ctx context.Context, p *xfrm.Policy) error {
	return c.do(ctx, UpdatePolicy(p))
}

// DeletePolicy sends the request [DeletePolicy].
func (c *Client) DeletePolicy(ctx context.Context, id xfrm.PolicyID) error {
	return c.do(ctx, DeletePolicy(id))
}
