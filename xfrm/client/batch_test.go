package client

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// batchPolicy is the n-th of many policies.
func batchPolicy(t *testing.T, n int) *xfrm.Policy {
	t.Helper()
	p := testPolicy(fmt.Sprintf("10.%d.%d.%d/32", n>>16, n>>8&0xff, n&0xff), ipsec.Outbound)
	xp, err := xfrm.PolicyFromIPsec(&p)
	if err != nil {
		t.Fatal(err)
	}
	return xp
}

// Of many requests, more than one send takes, those that are refused are told from the others,
// wherever they stand; even if it is all of them.
func TestBatch(t *testing.T) {
	c := freshKernel(t)
	ctx := testContext(t)
	const n = 3*batchRequests + 7
	bad := map[int]bool{0: true, 1: true, batchRequests - 1: true, batchRequests: true, 2*batchRequests + 5: true, n - 1: true}
	var adds, deletes []Request
	for i := range n {
		p := batchPolicy(t, i)
		deletes = append(deletes, DeletePolicy(p.ID()))
		if bad[i] {
			p.Tmpls[0].Mode = 200 // no such mode
		}
		if i == 1 {
			p.Sel.Family = 99 // found before anything is sent
		}
		adds = append(adds, AddPolicy(p))
	}
	for i, err := range c.Batch(ctx, adds) {
		var refused *Error
		switch {
		case !bad[i] && err != nil:
			t.Fatalf("request %d: %v", i, err)
		case i == 1 && !errors.Is(err, ipsec.ErrInvalid):
			t.Errorf("request 1: %v", err)
		case bad[i] && i != 1 && (!errors.As(err, &refused) || refused.Errno != unix.EINVAL || refused.Op != "add policy" || refused.Message == ""):
			t.Errorf("request %d: %v, want the kernel's words for it", i, err)
		}
	}
	again := make([]Request, n)
	for i := range again {
		again[i] = AddPolicy(batchPolicy(t, i))
	}
	for i, err := range c.Batch(ctx, again) {
		if errors.Is(err, ipsec.ErrExist) == bad[i] {
			t.Fatalf("added again, request %d: %v", i, err)
		}
	}
	if err := errors.Join(c.Batch(ctx, deletes)...); err != nil {
		t.Errorf("delete: %v", err)
	}
	if info, err := c.SPDInfo(ctx); err != nil || info.In+info.Out+info.Fwd != 0 {
		t.Errorf("%+v, %v: something is left", info, err)
	}
	if errs := c.Batch(ctx, nil); len(errs) != 0 {
		t.Errorf("nothing: %v", errs)
	}
}

// Keys do not stay in the room for requests that were sent, refused, or not sent at all.
func TestBatchWipes(t *testing.T) {
	c := freshKernel(t)
	ended, cancel := context.WithCancel(testContext(t))
	cancel()
	for _, ctx := range []context.Context{testContext(t), ended} {
		requests := []Request{AddPolicy(batchPolicy(t, 1)), AddPolicy(batchPolicy(t, 2))}
		for i, err := range c.Batch(ctx, requests) {
			if (err != nil) != (ctx == ended) {
				t.Errorf("request %d: %v", i, err)
			}
		}
		if cap(c.datagram) == 0 {
			t.Fatal("nothing was laid out")
		}
		for _, b := range c.datagram[:cap(c.datagram)] {
			if b != 0 {
				t.Fatal("something is left")
			}
		}
	}
}
