package client

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/xfrm"
)

// TestKernelFilters: the kernel itself leaves out of a dump what the filter's attributes do not
// select.
func TestKernelFilters(t *testing.T) {
	c, ctx := freshKernel(t), testContext(t)
	for i, dst := range []string{"10.0.0.2", "10.0.1.2", "2001:db8::2"} {
		s := &xfrm.State{Dst: netip.MustParseAddr(dst), Proto: unix.IPPROTO_ESP}
		if _, err := c.AllocateSPI(ctx, &xfrm.SPIRange{State: s, Min: uint32(0x1000 + i), Max: uint32(0x1000 + i)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		filter xfrm.StateFilter
		want   int
	}{
		{xfrm.StateFilter{}, 3},
		{xfrm.StateFilter{Proto: unix.IPPROTO_ESP}, 3},
		{xfrm.StateFilter{Proto: unix.IPPROTO_AH}, 0},
		{xfrm.StateFilter{Dst: netip.MustParsePrefix("10.0.0.0/24")}, 1},
		{xfrm.StateFilter{Dst: netip.MustParsePrefix("10.0.0.0/16")}, 2},
		{xfrm.StateFilter{Family: unix.AF_INET6}, 1},
		{xfrm.StateFilter{Reqid: 7}, 3}, // has no attribute: Match is for that
	} {
		payload, err := xfrm.EncodeStateFilter(&tt.filter)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, err := range c.dump(ctx, call{op: "list SAs", typ: xfrm.MsgGetSA, payload: payload}) {
			if err != nil {
				t.Fatal(err)
			}
			got++
		}
		if got != tt.want {
			t.Errorf("%+v: the kernel sends %d states, want %d", tt.filter, got, tt.want)
		}
	}
}
