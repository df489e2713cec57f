package client

import (
	"context"

	"github.com/mdlayher/netlink"

	"espalier/xfrm"
)

// AllocateSPI asks for an SPI in a range (ALLOCSPI) and returns the larval state that has it.
func (c *Client) AllocateSPI(ctx context.Context, r *xfrm.SPIRange) (*xfrm.State, error) {
	q := call{op: "allocate SPI", object: func() string { return r.State.ID().String() }, typ: xfrm.MsgAllocSPI}
	var err error
	if q.payload, err = xfrm.EncodeSPIRange(r); err != nil {
		return nil, q.fail(err)
	}
	data, err := c.get(ctx, q, xfrm.MsgNewSA)
	if err != nil {
		return nil, err
	}
	s, err := xfrm.DecodeState(data)
	if err != nil {
		return nil, q.fail(err)
	}
	return s, nil
}

// AEvent reads replay state and lifetime of a state (GETAE), and the thresholds for which flags
// ask.
func (c *Client) AEvent(ctx context.Context, id xfrm.StateID, flags xfrm.AEFlag) (*xfrm.AEvent, error) {
	q := call{op: "get replay state of SA", object: id.String, typ: xfrm.MsgGetAE}
	var err error
	if q.payload, err = xfrm.EncodeAEvent(&xfrm.AEvent{ID: id, Flags: flags}); err != nil {
		return nil, q.fail(err)
	}
	data, err := c.get(ctx, q, xfrm.MsgNewAE)
	if err != nil {
		return nil, err
	}
	ae, err := xfrm.DecodeAEvent(data)
	if err != nil {
		return nil, q.fail(err)
	}
	return ae, nil
}

// SetAEvent sets what of replay state, lifetime and thresholds is told (NEWAE).
func (c *Client) SetAEvent(ctx context.Context, ae *xfrm.AEvent) error {
	q := call{op: "set replay state of SA", object: ae.ID.String, typ: xfrm.MsgNewAE, flags: netlink.Acknowledge | netlink.Replace}
	var err error
	if q.payload, err = xfrm.EncodeAEvent(ae); err != nil {
		return q.fail(err)
	}
	_, err = c.request(ctx, q)
	return err
}

// Defaults reads what happens to packets without a policy (GETDEFAULT).
func (c *Client) Defaults(ctx context.Context) (*xfrm.Defaults, error) {
	q := call{op: "get default policy", typ: xfrm.MsgGetDefault, payload: xfrm.EncodeDefaults(xfrm.Defaults{})}
	data, err := c.get(ctx, q, xfrm.MsgGetDefault)
	if err != nil {
		return nil, err
	}
	d, err := xfrm.DecodeDefaults(data)
	if err != nil {
		return nil, q.fail(err)
	}
	return d, nil
}

// SetDefaults sets it (SETDEFAULT); DefaultUnspec leaves a direction as it is.
func (c *Client) SetDefaults(ctx context.Context, d xfrm.Defaults) error {
	q := call{op: "set default policy", typ: xfrm.MsgSetDefault, flags: netlink.Acknowledge, payload: xfrm.EncodeDefaults(d)}
	_, err := c.request(ctx, q)
	return err
}
