package ipsec

import (
	"net/netip"
	"testing"
)

func TestSelectorRelations(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, c := range []struct {
		a, b                      Selector
		aCovers, bCovers, overlap bool
	}{
		{Selector{}, Selector{}, true, true, true},
		{Selector{}, Selector{Dst: prefix("10.0.0.0/8")}, true, false, true},
		{Selector{Src: prefix("10.0.0.0/8")}, Selector{Src: prefix("10.1.0.0/16")}, true, false, true},
		{Selector{Src: prefix("10.0.0.0/8")}, Selector{Dst: prefix("10.1.0.0/16")}, false, false, true},
		{Selector{Src: prefix("10.0.0.0/8")}, Selector{Src: prefix("11.0.0.0/8")}, false, false, false},
		{Selector{Src: prefix("0.0.0.0/0")}, Selector{Src: prefix("::/0")}, false, false, false},
		{Selector{Protocol: 6}, Selector{Protocol: 6, DstPort: Port(22)}, true, false, true},
		{Selector{Protocol: 6}, Selector{Protocol: 17}, false, false, false},
		{Selector{SrcPort: Port(22)}, Selector{DstPort: Port(22)}, false, false, true},
		{Selector{DstPort: Port(23)}, Selector{DstPort: Port(22)}, false, false, false},
		{Selector{DstPort: PortMatch{0, 0xfff0}}, Selector{DstPort: Port(9)}, true, false, true},
		{Selector{DstPort: PortMatch{0, 0xfff0}}, Selector{DstPort: Port(16)}, false, false, false},
		{Selector{}, Selector{Interface: 3}, true, false, true},
		{Selector{Interface: 2}, Selector{Interface: 3}, false, false, false},
	} {
		if got := [4]bool{c.a.Covers(&c.b), c.b.Covers(&c.a), c.a.Overlaps(&c.b), c.b.Overlaps(&c.a)}; got != [4]bool{c.aCovers, c.bCovers, c.overlap, c.overlap} {
			t.Errorf("%s and %s: %v", c.a, c.b, got)
		}
	}
}
