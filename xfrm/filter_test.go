package xfrm

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStateFilterMatch(t *testing.T) {
	tunnel, transport := ModeTunnel, ModeTransport
	s := plainState(t, 0x1000, func(s *State) { s.Reqid, s.Mode, s.Flags = 7, ModeTunnel, FlagESN|FlagAFUnspec })
	for _, c := range []struct {
		filter StateFilter
		want   bool
	}{
		{StateFilter{}, true},
		{StateFilter{Proto: unix.IPPROTO_ESP}, true},
		{StateFilter{Proto: protoAny}, true},
		{StateFilter{Proto: unix.IPPROTO_AH}, false},
		{StateFilter{Family: unix.AF_INET}, true},
		{StateFilter{Family: unix.AF_INET6}, false},
		{StateFilter{Src: netip.MustParsePrefix("10.0.0.0/24")}, true},
		{StateFilter{Src: netip.MustParsePrefix("10.0.1.0/24")}, false},
		{StateFilter{Dst: netip.MustParsePrefix("10.0.0.2/32")}, true},
		{StateFilter{Dst: netip.MustParsePrefix("10.0.0.1/32")}, false},
		{StateFilter{Dst: netip.MustParsePrefix("::/0")}, false},
		{StateFilter{SPI: 0x1000, Reqid: 7, Mode: &tunnel, Flags: FlagESN}, true},
		{StateFilter{SPI: 0x1001}, false},
		{StateFilter{Reqid: 8}, false},
		{StateFilter{Mode: &transport}, false},
		{StateFilter{Flags: FlagESN | FlagNoECN}, false},
		{StateFilter{Family: 99}, false},
		{StateFilter{Src: netip.MustParsePrefix("10.0.0.0/8"), Dst: netip.MustParsePrefix("::/0")}, false},
	} {
		if got := c.filter.Match(s); got != c.want {
			t.Errorf("%+v: %v, want %v", c.filter, got, c.want)
		}
	}
	ah := plainState(t, 1, func(s *State) { s.Proto = unix.IPPROTO_ROUTING })
	if (&StateFilter{Proto: protoAny}).Match(ah) {
		t.Error("IPSEC_PROTO_ANY takes routing headers")
	}
}
