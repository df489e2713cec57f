package client

import (
	"context"
	"fmt"
	"iter"

	"github.com/mdlayher/netlink"

	"espalier/xfrm"
)

// GetState reads a state back (GETSA). The kernel gives the key too, unless it is locked
// down; a device withholds it.
func (c *Client) GetState(ctx context.Context, id xfrm.StateID) (*xfrm.State, error) {
	q := call{op: "get SA", object: id.String, typ: xfrm.MsgGetSA}
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
		decode := func(payload []byte) (*xfrm.State, error) {
			defer clear(payload)
			return xfrm.DecodeState(payload)
		}
		for s, err := range decoded(ctx, c, q, decode) {
			if (err != nil || f.Match(s)) && !yield(s, err) {
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
