package pair

import (
	"net/netip"
	"slices"
	"testing"

	"espalier/ipsec"
	"espalier/xfrm"
)

var (
	here  = netip.MustParseAddr("10.0.0.1")
	there = netip.MustParseAddr("10.0.0.2")
)

func sa(src, dst netip.Addr, f func(*xfrm.State)) *xfrm.State {
	s := &xfrm.State{Src: src, Dst: dst, Proto: 50, SPI: 0x1000, Reqid: 1, AEAD: &xfrm.AEAD{Name: xfrm.AEADName, ICVBits: 128}}
	if f != nil {
		f(s)
	}
	return s
}

func policy(dir xfrm.PolicyDir, src, dst netip.Addr, reqid uint32) *xfrm.Policy {
	sel := ipsec.Selector{Src: netip.PrefixFrom(src, 32), Dst: netip.PrefixFrom(dst, 32)}
	return &xfrm.Policy{Sel: xfrm.Selector{Selector: sel}, Dir: dir, Tmpls: []xfrm.Tmpl{{Src: src, Dst: dst, Proto: 50, Reqid: reqid}}}
}

func TestDirections(t *testing.T) {
	out, in := policy(xfrm.PolicyOut, here, there, 1), policy(xfrm.PolicyIn, there, here, 1)
	local := func(a netip.Addr) bool { return a == here }
	for _, c := range []struct {
		name     string
		s        *xfrm.State
		policies []*xfrm.Policy
		local    func(netip.Addr) bool
		want     ipsec.Direction
	}{
		{"says so itself, out", sa(there, here, func(s *xfrm.State) { s.Dir = xfrm.StateDirOut }), nil, local, ipsec.Outbound},
		{"says so itself, in", sa(here, there, func(s *xfrm.State) { s.Dir = xfrm.StateDirIn }), nil, local, ipsec.Inbound},
		{"its offload says so, out", sa(there, here, func(s *xfrm.State) { s.Offload = &xfrm.Offload{} }), nil, local, ipsec.Outbound},
		{"its offload says so, in", sa(here, there, func(s *xfrm.State) { s.Offload = &xfrm.Offload{Flags: xfrm.OffloadInbound} }), nil, local, ipsec.Inbound},
		{"its policy says so, out", sa(here, there, nil), []*xfrm.Policy{out, in}, nil, ipsec.Outbound},
		{"its policy says so, in", sa(there, here, nil), []*xfrm.Policy{out, in}, nil, ipsec.Inbound},
		{"whose address it is, out", sa(here, there, nil), nil, local, ipsec.Outbound},
		{"whose address it is, in", sa(there, here, nil), nil, local, ipsec.Inbound},
		{"what it has sent", sa(here, there, func(s *xfrm.State) { s.Replay = &xfrm.ReplayState{OSeq: 3} }), nil, nil, ipsec.Outbound},
		{"what it has received", sa(here, there, func(s *xfrm.State) { s.Replay = &xfrm.ReplayState{SeqHi: 3} }), nil, nil, ipsec.Inbound},
		{"nothing says", sa(here, there, nil), nil, nil, ipsec.AnyDirection},
		{"both are ours", sa(here, there, nil), nil, func(netip.Addr) bool { return true }, ipsec.AnyDirection},
	} {
		if got := Match([]*xfrm.State{c.s}, c.policies, c.local).Directions[0]; got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestFits(t *testing.T) {
	out, in := policy(xfrm.PolicyOut, here, there, 1), policy(xfrm.PolicyIn, there, here, 1)
	tunnel := func(dir xfrm.PolicyDir, src, dst netip.Addr) *xfrm.Policy {
		p := policy(dir, src, dst, 1)
		p.Sel.Src, p.Sel.Dst, p.Tmpls[0].Mode = netip.MustParsePrefix("172.16.0.0/16"), netip.MustParsePrefix("172.17.0.0/16"), xfrm.ModeTunnel
		return p
	}
	isTunnel := func(s *xfrm.State) { s.Mode = xfrm.ModeTunnel }
	wildcard := policy(xfrm.PolicyIn, there, here, 0)
	for _, c := range []struct {
		name string
		p    *xfrm.Policy
		s    *xfrm.State
		want bool
	}{
		{"out", out, sa(here, there, nil), true},
		{"in", in, sa(there, here, nil), true},
		{"the other way", out, sa(there, here, nil), false},
		{"another reqid", out, sa(here, there, func(s *xfrm.State) { s.Reqid = 2 }), false},
		{"in: 0 is any", wildcard, sa(there, here, nil), true},
		{"out: 0 is 0", policy(xfrm.PolicyOut, here, there, 0), sa(here, there, nil), false},
		{"another protocol", out, sa(here, there, func(s *xfrm.State) { s.Proto = 51 }), false},
		{"another mode", out, sa(here, there, isTunnel), false},
		{"another interface id", out, sa(here, there, func(s *xfrm.State) { s.IfID = 1 }), false},
		{"a mark that the policy has not", out, sa(here, there, func(s *xfrm.State) { s.Mark = &xfrm.Mark{Value: 5, Mask: 0xff} }), false},
		{"in: a mark that packets may have", in, sa(there, here, func(s *xfrm.State) { s.Mark = &xfrm.Mark{Value: 5, Mask: 0xff} }), true},
		{"larval", out, sa(here, there, func(s *xfrm.State) { s.AEAD = nil }), false},
		{"tunnel: the selector does not count", tunnel(xfrm.PolicyOut, here, there), sa(here, there, isTunnel), true},
		{"tunnel: another end", tunnel(xfrm.PolicyOut, here, here), sa(here, there, isTunnel), false},
		{"tunnel: any source", tunnel(xfrm.PolicyOut, netip.IPv4Unspecified(), there), sa(here, there, isTunnel), true},
	} {
		if got := Fits(c.p, &c.p.Tmpls[0], c.s); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
		// The index finds what fits, and no more.
		m := Match([]*xfrm.State{sa(there, there, nil), c.s}, []*xfrm.Policy{c.p}, nil)
		if got := slices.Contains(m.ServedBy[0], 1); got != c.want || slices.Contains(m.ServedBy[0], 0) {
			t.Errorf("%s: the policy is served by %v", c.name, m.ServedBy[0])
		}
	}
}

func TestPairs(t *testing.T) {
	at := func(reqid uint32, added uint64) func(*xfrm.State) {
		return func(s *xfrm.State) { s.Reqid, s.Current.AddTime = reqid, added }
	}
	local := func(a netip.Addr) bool { return a == here }
	other := netip.MustParseAddr("10.0.0.3")
	states := []*xfrm.State{
		0: sa(here, there, at(1, 10)),
		1: sa(there, here, at(2, 10)), // its reqid is another
		2: sa(here, there, at(7, 5)),
		3: sa(there, here, at(7, 20)),
		4: sa(here, other, at(1, 1)), // alone
		5: sa(there, here, at(9, 1)), // an old one, which has lost its half
	}
	got := Match(states, nil, local).Pairs
	want := []Pair{{0, 1}, {2, 3}, {-1, 5}, {4, -1}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A policy that none serves names the state that would, unless that serves another of its direction.
func TestNear(t *testing.T) {
	free, busy := sa(here, there, func(s *xfrm.State) { s.Reqid = 5 }), sa(here, there, nil)
	policies := []*xfrm.Policy{policy(xfrm.PolicyOut, here, there, 1), policy(xfrm.PolicyOut, here, there, 2)}
	if m := Match([]*xfrm.State{busy, free}, policies, nil); !slices.Equal(m.Near, []int{-1, 1}) {
		t.Errorf("%v", m.Near)
	}
	if m := Match([]*xfrm.State{busy}, policies, nil); !slices.Equal(m.Near, []int{-1, -1}) {
		t.Errorf("%v", m.Near)
	}
	for name, f := range map[string]func(*xfrm.State){
		"mode":           func(s *xfrm.State) { s.Mode = xfrm.ModeTunnel },
		"mode and reqid": func(s *xfrm.State) { s.Mode, s.Reqid = xfrm.ModeTunnel, 9 },
		"if_id":          func(s *xfrm.State) { s.IfID = 7 },
		"mark":           func(s *xfrm.State) { s.Mark = &xfrm.Mark{Value: 5, Mask: 0xff} },
		"addresses":      func(s *xfrm.State) { s.Src, s.Dst = s.Dst, s.Src },
	} {
		near := sa(here, there, func(s *xfrm.State) { s.Reqid = 2; f(s) })
		if m := Match([]*xfrm.State{busy, near}, policies, nil); !slices.Equal(m.Near, []int{-1, 1}) {
			t.Errorf("%s: %v", name, m.Near)
		}
	}
	far := sa(there, here, func(s *xfrm.State) { s.Reqid = 9 })
	if m := Match([]*xfrm.State{busy, far}, policies, nil); !slices.Equal(m.Near, []int{-1, -1}) {
		t.Errorf("other addresses and reqid: %v", m.Near)
	}
	policies = []*xfrm.Policy{policy(xfrm.PolicyIn, there, here, 1), policy(xfrm.PolicyFwd, there, here, 2)}
	if m := Match([]*xfrm.State{sa(there, here, nil)}, policies, nil); !slices.Equal(m.Near, []int{-1, 0}) {
		t.Errorf("fwd beside in: %v", m.Near)
	}
}
