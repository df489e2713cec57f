package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
	"espalier/xfrm/client"
)

// outbound is an SA that the NIC p4p1, which has the index 4, shall encrypt. Dir is
// XFRMA_SA_DIR, which Linux knows from 6.10 on; older kernels ignore it.
func outbound(spi ipsec.SPI, ifindex int32) *xfrm.State {
	return &xfrm.State{
		Src: netip.MustParseAddr("192.168.1.64"), Dst: netip.MustParseAddr("192.168.1.65"),
		Proto: unix.IPPROTO_ESP, SPI: spi, Reqid: 1, Mode: xfrm.ModeTransport, Limits: xfrm.NoLimits,
		AEAD:    &xfrm.AEAD{Name: xfrm.AEADName, Key: ipsec.RandomKey(36), KeyBits: 36 * 8, ICVBits: 128},
		Dir:     xfrm.StateDirOut,
		Offload: &xfrm.Offload{Ifindex: ifindex},
	}
}

// That an SA was accepted says nothing about offload: it is read back.
func ExampleClient_AddState() {
	c, end := dial() // or client.Kernel()
	defer end()
	ctx := context.Background()
	for _, ifindex := range []int32{4, 5} {
		s := outbound(ipsec.SPI(0x1000+ifindex), ifindex)
		if err := c.AddState(ctx, s); err != nil {
			log.Fatal(err)
		}
		back, err := c.GetState(ctx, s.ID())
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(back.ID(), "dir", back.Dir, "key", s.AEAD.Key, "offloaded:", back.Offload != nil)
	}
	// Output:
	// 0x00001004 192.168.1.64→192.168.1.65 dir out key <key hidden> offloaded: true
	// 0x00001005 192.168.1.64→192.168.1.65 dir out key <key hidden> offloaded: false
}

// A policy is offloaded together with SAs that a NIC does all of (packet offload).
func ExampleClient_AddPolicy() {
	c, err := client.Kernel()
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	p := &xfrm.Policy{
		Sel: xfrm.Selector{Selector: ipsec.Selector{
			Src: netip.MustParsePrefix("192.168.1.64/32"), Dst: netip.MustParsePrefix("192.168.1.65/32"),
		}},
		Dir: xfrm.PolicyOut, Limits: xfrm.NoLimits,
		Offload: &xfrm.Offload{Ifindex: 4, Flags: xfrm.OffloadPacket},
		Tmpls: []xfrm.Tmpl{{
			Src: netip.MustParseAddr("192.168.1.64"), Dst: netip.MustParseAddr("192.168.1.65"),
			Proto: unix.IPPROTO_ESP, Reqid: 1, AAlgos: ^uint32(0), EAlgos: ^uint32(0), CAlgos: ^uint32(0),
		}},
	}
	if err := c.AddPolicy(context.Background(), p); err != nil {
		log.Fatal(err)
	}
}

// The protocol and the addresses of a filter travel with the dump, and the engine leaves out what
// does not match; the rest is looked at here.
func ExampleClient_States() {
	c, end := dial()
	defer end()
	ctx := context.Background()
	for spi := range ipsec.SPI(3) {
		s := outbound(0x1000+spi, 4)
		s.Reqid = uint32(spi)
		if err := c.AddState(ctx, s); err != nil {
			log.Fatal(err)
		}
	}
	filter := xfrm.StateFilter{Proto: unix.IPPROTO_ESP, Dst: netip.MustParsePrefix("192.168.1.0/24"), Reqid: 2}
	for s, err := range c.States(ctx, filter) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(s.ID())
	}
	// Output: 0x00001002 192.168.1.64→192.168.1.65
}

// Without groups Listen hears all of them.
func ExampleClient_Listen() {
	c, end := dial()
	defer end()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	events := c.Listen(ctx) // from here on nothing is missed
	s := outbound(0x1000, 4)
	if err := errors.Join(c.AddState(ctx, s), c.DeleteState(ctx, s.ID())); err != nil {
		log.Fatal(err)
	}
	for e, err := range events {
		if errors.Is(err, unix.ENOBUFS) { // too many at once: read the SAD again
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Kind, e.State.SPI)
		if e.Kind == xfrm.MsgDelSA {
			break
		}
	}
	// Output:
	// NEWSA 0x00001000
	// DELSA 0x00001000
}

// An iteration ends with its context.
func ExampleClient_Listen_cancel() {
	c, end := dial()
	defer end()
	ctx, cancel := context.WithCancel(context.Background())
	events := c.Listen(ctx, xfrm.GroupAcquire)
	cancel()
	for _, err := range events {
		fmt.Println(errors.Is(err, context.Canceled))
	}
	// Output: true
}

// An engine that refuses says why. Attribute is the part of the request that it points at.
func ExampleError() {
	c, end := dial()
	defer end()
	ctx := context.Background()
	if err := c.AddState(ctx, outbound(0x1000, 4)); err != nil {
		log.Fatal(err)
	}
	err := c.AddState(ctx, outbound(0x1000, 4))
	var refused *client.Error
	if !errors.As(err, &refused) {
		log.Fatal(err)
	}
	fmt.Println(err)
	fmt.Println(refused.Errno == unix.EEXIST, errors.Is(err, ipsec.ErrExist), refused.Op)
	fmt.Println(&client.Error{
		Op: "add SA", Object: "0x00001000 192.168.1.64→192.168.1.65", Errno: unix.ERANGE,
		Message: "integer out of range", Attribute: "XFRMA_SA_DIR", Offset: 380,
	})
	// Output:
	// add SA 0x00001000 192.168.1.64→192.168.1.65: already exists
	// true true add SA
	// add SA 0x00001000 192.168.1.64→192.168.1.65: integer out of range (XFRMA_SA_DIR)
}

// A batch goes out with few sends. What is refused does not keep the rest back.
func ExampleClient_Batch() {
	c, end := dial()
	defer end()
	requests := []client.Request{
		client.AddState(outbound(0x1000, 4)),
		client.AddState(outbound(0x1000, 4)),
		client.AddState(outbound(0x1001, 4)),
	}
	for i, err := range c.Batch(context.Background(), requests) {
		fmt.Println(i, err)
	}
	// Output:
	// 0 <nil>
	// 1 add SA 0x00001000 192.168.1.64→192.168.1.65: already exists
	// 2 <nil>
}
