package dataplane

import (
	"maps"
	"testing"

	"espalier/ipsec"
)

// What is counted is what would be listed.
func TestCensus(t *testing.T) {
	s := newSPD(func(*policy) {})
	want := map[ipsec.Direction]int{}
	for i, d := range []ipsec.Direction{ipsec.Inbound, ipsec.Outbound, ipsec.Outbound, ipsec.Forward, ipsec.Forward, ipsec.Forward} {
		p := &ipsec.Policy{Direction: d, Priority: uint32(i)}
		p.Selector.Protocol = uint8(i)
		s.put(s.prepare(p, nil), nil)
		want[d]++
	}
	if got := s.directions(); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	s.flush()
	if got := s.directions(); len(got) != 0 {
		t.Errorf("%v after a flush", got)
	}
}
