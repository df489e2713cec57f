package client

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/mdlayher/netlink"

	"espalier/ipsec"
	"espalier/xfrm"
)

// AddState installs a state (NEWSA). A state whose key is withheld is refused: the engine
// would take it for a key of zeros.
func (c *Client) AddState(ctx context.Context, s *xfrm.State) error {
	if s.AEAD != nil && s.AEAD.Key.Len() == 0 {
		return fmt.Errorf("add SA %s: no key: %w", s.ID(), ipsec.ErrInvalid)
	}
	return c.sendState(ctx, "add SA", xfrm.MsgNewSA, s)
}

// UpdateState changes a live state (UPDSA). Linux changes encapsulation, limits, marks and
// if_id; key, selector and offload stay what they were, without an error.
func (c *Client) UpdateState(ctx context.Context, s *xfrm.State) error {
	return c.sendState(ctx, "update SA", xfrm.MsgUpdSA, s)
}

func (c *Client) sendState(ctx context.Context, op string, typ xfrm.MsgType, s *xfrm.State) error {
	q := call{op: op, object: s.ID().String(), typ: typ, flags: netlink.Acknowledge}
	var err error
	if q.payload, err = xfrm.EncodeState(s); err != nil {
		return q.fail(err)
	}
	defer clear(q.payload)
	_, err = c.request(ctx, q)
	return err
}

// DeleteState takes a state out (DELSA).
func (c *Client) DeleteState(ctx context.Context, id xfrm.StateID) error {
	q := call{op: "delete SA", object: id.String(), typ: xfrm.MsgDelSA, flags: netlink.Acknowledge}
	var err error
	if q.payload, err = xfrm.EncodeStateID(&id); err != nil {
		return q.fail(err)
	}
	_, err = c.request(ctx, q)
	return err
}

// GetState reads a state back (GETSA). The kernel gives the key too, unless it is locked
// down; a device withholds it.
func (c *Client) GetState(ctx context.Context, id xfrm.StateID) (*xfrm.State, error) {
	q := call{op: "get SA", object: id.String(), typ: xfrm.MsgGetSA}
	var err error
	if q.payload, err = xfrm.EncodeStateID(&id); err != nil {
		return nil, q.fail(err)
	}
	data, err := c.get(ctx, q, xfrm.MsgNewSA)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	s, err := xfrm.DecodeState(data)
	if err != nil {
		return nil, q.fail(err)
	}
	return s, nil
}

// States iterates over the states that the filter selects. An error ends the iteration.
// The iteration has a socket of its own: other requests may be made meanwhile.
func (c *Client) States(ctx context.Context, f xfrm.StateFilter) iter.Seq2[*xfrm.State, error] {
	return func(yield func(*xfrm.State, error) bool) {
		q := call{op: "list SAs", typ: xfrm.MsgGetSA}
		var err error
		if q.payload, err = xfrm.EncodeStateFilter(&f); err != nil {
			yield(nil, q.fail(err))
			return
		}
		for m, err := range c.dump(ctx, q) {
			if err != nil {
				yield(nil, err)
				return
			}
			s, err := xfrm.DecodeState(m.Data)
			clear(m.Data)
			if err != nil {
				yield(nil, q.fail(err))
				return
			}
			if f.Match(s) && !yield(s, nil) {
				return
			}
		}
	}
}

// FlushStates takes out all states of an IP protocol, of all with 0 (FLUSHSA).
func (c *Client) FlushStates(ctx context.Context, proto uint8) error {
	q := call{op: "flush SAs", typ: xfrm.MsgFlushSA, flags: netlink.Acknowledge, payload: xfrm.EncodeFlushStates(proto)}
	_, err := c.request(ctx, q)
	return err
}

// SADInfo counts the states (GETSADINFO).
func (c *Client) SADInfo(ctx context.Context) (xfrm.SADInfo, error) {
	q := call{op: "count SAs", typ: xfrm.MsgGetSADInfo, payload: xfrm.EncodeInfoRequest()}
	data, err := c.get(ctx, q, xfrm.MsgNewSADInfo)
	if err != nil {
		return xfrm.SADInfo{}, err
	}
	return xfrm.DecodeSADInfo(data)
}

// get makes a request that is answered by one message and returns its payload.
func (c *Client) get(ctx context.Context, q call, typ xfrm.MsgType) ([]byte, error) {
	replies, err := c.request(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, m := range replies {
		if xfrm.MsgType(m.Header.Type) == typ {
			return m.Data, nil
		}
	}
	return nil, q.fail(fmt.Errorf("the engine answered without a %s message", typ))
}

// dump makes a request that is answered by any number of messages, on its own socket.
func (c *Client) dump(ctx context.Context, q call) iter.Seq2[netlink.Message, error] {
	return func(yield func(netlink.Message, error) bool) {
		ctx, cancel := c.withLife(ctx)
		defer cancel()
		if ctx.Err() != nil {
			yield(netlink.Message{}, q.fail(context.Cause(ctx)))
			return
		}
		conn, err := c.engine.dial()
		if err != nil {
			yield(netlink.Message{}, q.fail(err))
			return
		}
		defer conn.Close()
		q.flags |= netlink.Dump
		stopped := false
		_, err = interruptible(ctx, conn, func() error {
			if _, err := conn.Send(q.message()); err != nil {
				return err
			}
			for m, err := range conn.ReceiveIter() {
				if err != nil {
					return err
				}
				if stopped = !yield(m, nil); stopped {
					conn.SetDeadline(time.Unix(1, 0)) // else the iterator reads the dump to its end
					return nil
				}
			}
			return nil
		})
		if err != nil && !stopped {
			yield(netlink.Message{}, q.fail(err))
		}
	}
}
