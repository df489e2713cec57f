package client

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

// What the kernel points at is named: here a direction that there is not, which xfrm never sends.
func TestKernelErrorAttribute(t *testing.T) {
	c := freshKernel(t)
	payload, err := xfrm.EncodeState(&xfrm.State{
		Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Proto: unix.IPPROTO_ESP, SPI: 1,
		AEAD: &xfrm.AEAD{Name: xfrm.AEADName, Key: ipsec.RandomKey(36), KeyBits: 288, ICVBits: 128},
		Dir:  xfrm.StateDirOut, Limits: xfrm.NoLimits,
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := []byte{5, 0, 33, 0, byte(xfrm.StateDirOut)} // length, XFRMA_SA_DIR
	at := bytes.Index(payload, dir)
	if at < 0 {
		t.Fatal("no XFRMA_SA_DIR")
	}
	payload[at+4] = 9
	q := call{op: "add SA", typ: xfrm.MsgNewSA, flags: netlink.Acknowledge, payload: payload}
	_, err = c.request(context.Background(), q)
	var e *Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	if e.Message == "" || e.Offset == 0 {
		t.Skipf("this kernel points at nothing: %v", err) // before 6.10 it does not know the attribute
	}
	if e.Attribute != "XFRMA_SA_DIR" || e.Offset != 16+at || !strings.HasSuffix(err.Error(), " (XFRMA_SA_DIR)") {
		t.Errorf("%v: attribute %q at %d, want XFRMA_SA_DIR at %d", err, e.Attribute, e.Offset, 16+at)
	}
}
