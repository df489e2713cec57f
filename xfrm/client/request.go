package client

import (
	"context"
	"fmt"

	"github.com/mdlayher/netlink"

	"espalier/ipsec"
	"espalier/xfrm"
)

// Request is one change of the SAD or SPD, for [Client.Batch]. What it was made of must stay as it
// is until it has been sent.
type Request struct {
	op   string
	typ  xfrm.MsgType
	what subject
}

// subject is what a request is about.
type subject interface {
	fmt.Stringer
	appendTo(b []byte) ([]byte, error) // the payload
}

type (
	stateSubject    xfrm.State
	stateIDSubject  xfrm.StateID
	policySubject   xfrm.Policy
	policyIDSubject xfrm.PolicyID
)

// AddState installs a state (NEWSA). A state whose key is withheld is refused: the engine
// would take it for a key of zeros.
func AddState(s *xfrm.State) Request { return Request{"add SA", xfrm.MsgNewSA, (*stateSubject)(s)} }

// UpdateState changes a live state (UPDSA). Linux changes encapsulation, limits, marks and
// if_id; key, selector and offload stay what they were, without an error.
func UpdateState(s *xfrm.State) Request {
	return Request{"update SA", xfrm.MsgUpdSA, (*stateSubject)(s)}
}

// DeleteState takes a state out (DELSA).
func DeleteState(id xfrm.StateID) Request {
	return Request{"delete SA", xfrm.MsgDelSA, (*stateIDSubject)(&id)}
}

// AddPolicy installs a policy (NEWPOLICY).
func AddPolicy(p *xfrm.Policy) Request {
	return Request{"add policy", xfrm.MsgNewPolicy, (*policySubject)(p)}
}

// UpdatePolicy installs a policy in place of the one with the same selector and direction,
// if there is one (UPDPOLICY).
func UpdatePolicy(p *xfrm.Policy) Request {
	return Request{"update policy", xfrm.MsgUpdPolicy, (*policySubject)(p)}
}

// DeletePolicy takes a policy out (DELPOLICY).
func DeletePolicy(id xfrm.PolicyID) Request {
	return Request{"delete policy", xfrm.MsgDelPolicy, (*policyIDSubject)(&id)}
}

func (s *stateSubject) String() string    { return (*xfrm.State)(s).ID().String() }
func (s *stateIDSubject) String() string  { return (*xfrm.StateID)(s).String() }
func (s *policySubject) String() string   { return (*xfrm.Policy)(s).ID().String() }
func (s *policyIDSubject) String() string { return (*xfrm.PolicyID)(s).String() }

func (s *stateSubject) appendTo(b []byte) ([]byte, error) {
	return xfrm.AppendState(b, (*xfrm.State)(s))
}

func (s *stateIDSubject) appendTo(b []byte) ([]byte, error) {
	return xfrm.AppendStateID(b, (*xfrm.StateID)(s))
}

func (s *policySubject) appendTo(b []byte) ([]byte, error) {
	return xfrm.AppendPolicy(b, (*xfrm.Policy)(s))
}

func (s *policyIDSubject) appendTo(b []byte) ([]byte, error) {
	return xfrm.AppendPolicyID(b, (*xfrm.PolicyID)(s))
}

// appendTo appends the payload to b. It may hold a key.
func (r *Request) appendTo(b []byte) ([]byte, error) {
	if s, ok := r.what.(*stateSubject); ok && r.typ == xfrm.MsgNewSA && s.AEAD != nil && s.AEAD.Key.Len() == 0 {
		return b, fmt.Errorf("no key: %w", ipsec.ErrInvalid)
	}
	return r.what.appendTo(b)
}

// call is the request to be sent alone, or to be found fault with. Its payload is to be wiped.
func (r *Request) call() (q call, err error) {
	q = call{op: r.op, object: r.what.String, typ: r.typ, flags: netlink.Acknowledge}
	q.payload, err = r.appendTo(nil)
	return q, err
}

// fail words an error of the request.
func (r *Request) fail(err error) error {
	q, _ := r.call()
	defer clear(q.payload)
	return q.fail(err)
}

// do sends one request.
func (c *Client) do(ctx context.Context, r Request) error {
	q, err := r.call()
	if err != nil {
		return q.fail(err)
	}
	defer clear(q.payload)
	_, err = c.request(ctx, q)
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
