package dataplane

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/ipsec"
)

var (
	hostA = netip.MustParseAddr("192.0.2.1")
	hostB = netip.MustParseAddr("192.0.2.2")
)

func testSA(spi ipsec.SPI) ipsec.SA {
	return ipsec.SA{Src: hostA, Dst: hostB, SPI: spi, RequestID: 7, Key: ipsec.NewKey(make([]byte, 20)), ICVBits: 128, Window: 64}
}

func TestNewestSAWins(t *testing.T) {
	s := newSAD(func(*association) {}, func(*association) {}, func() {})
	for _, spi := range []ipsec.SPI{0x300, 0x100, 0x200} {
		if _, err := s.add(testSA(spi), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	p := ipsec.Processing{RequestID: 7}
	f := ipsec.Flow{Src: hostA, Dst: hostB}
	pick := func() ipsec.SPI {
		if a, _ := s.forPacket(&p, &f, 0); a != nil {
			return a.sa.SPI
		}
		return 0
	}
	for _, want := range []ipsec.SPI{0x200, 0x100, 0x300, 0} {
		got := pick()
		if got != want {
			t.Fatalf("picked %v, want %v", got, want)
		}
		if want != 0 {
			if _, err := s.remove(ipsec.SAID{Dst: hostB, SPI: want}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestSASelection(t *testing.T) {
	tunnel := testSA(0x400)
	tunnel.Mode, tunnel.RequestID = ipsec.Tunnel, 9
	port := testSA(0x500)
	port.RequestID = 11
	port.Selector = ipsec.Selector{Protocol: 6, DstPort: ipsec.Port(80)}
	inbound := testSA(0x600)
	inbound.RequestID, inbound.Direction = 12, ipsec.Inbound
	s := newSAD(func(*association) {}, func(*association) {}, func() {})
	for _, sa := range []ipsec.SA{testSA(0x100), tunnel, port, inbound} {
		if _, err := s.add(sa, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	far := ipsec.Flow{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.1.1"), Protocol: 6, DstPort: 81}
	near := ipsec.Flow{Src: hostA, Dst: hostB, Protocol: 6, DstPort: 80}
	nearOther := near
	nearOther.DstPort = 81
	for _, c := range []struct {
		name string
		p    ipsec.Processing
		f    ipsec.Flow
		want ipsec.SPI // 0: none
	}{
		{"transport by the packet's addresses, whatever the template says", ipsec.Processing{RequestID: 7, Src: far.Src, Dst: far.Dst}, near, 0x100},
		{"transport for other addresses", ipsec.Processing{RequestID: 7, Src: hostA, Dst: hostB}, far, 0},
		{"tunnel by the template's addresses", ipsec.Processing{RequestID: 9, Mode: ipsec.Tunnel, Src: hostA, Dst: hostB}, far, 0x400},
		{"tunnel without its source", ipsec.Processing{RequestID: 9, Mode: ipsec.Tunnel, Dst: hostB}, far, 0x400},
		{"tunnel with other addresses", ipsec.Processing{RequestID: 9, Mode: ipsec.Tunnel, Src: hostB, Dst: hostA}, far, 0},
		{"request id 0 is no wildcard outbound", ipsec.Processing{}, near, 0},
		{"another request id", ipsec.Processing{RequestID: 8}, near, 0},
		{"another mode", ipsec.Processing{RequestID: 9}, near, 0},
		{"template names the SPI", ipsec.Processing{RequestID: 7, SPI: 0x100}, near, 0x100},
		{"template names another SPI", ipsec.Processing{RequestID: 7, SPI: 0x101}, near, 0},
		{"selector of the SA", ipsec.Processing{RequestID: 11}, near, 0x500},
		{"outside the selector of the SA", ipsec.Processing{RequestID: 11}, nearOther, 0},
		{"an inbound SA does not send", ipsec.Processing{RequestID: 12}, near, 0},
	} {
		var got ipsec.SPI
		if a, _ := s.forPacket(&c.p, &c.f, 0); a != nil {
			got = a.sa.SPI
		}
		if got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// The vendor's second server: templates with the request ids swapped.
func TestAccepts(t *testing.T) {
	sa := testSA(0x100)
	tunnel := sa
	tunnel.Mode = ipsec.Tunnel
	for _, c := range []struct {
		name string
		p    ipsec.Processing
		sa   ipsec.SA
		want bool
	}{
		{"same request id", ipsec.Processing{RequestID: 7}, sa, true},
		{"request id 0 is a wildcard inbound", ipsec.Processing{}, sa, true},
		{"other request id", ipsec.Processing{RequestID: 8}, sa, false},
		{"other mode", ipsec.Processing{RequestID: 7, Mode: ipsec.Tunnel, Src: hostA, Dst: hostB}, sa, false},
		{"transport ignores addresses", ipsec.Processing{RequestID: 7, Src: hostB, Dst: hostA}, sa, true},
		{"tunnel", ipsec.Processing{RequestID: 7, Mode: ipsec.Tunnel, Src: hostA, Dst: hostB}, tunnel, true},
		{"tunnel from anywhere", ipsec.Processing{RequestID: 7, Mode: ipsec.Tunnel, Dst: hostB}, tunnel, true},
		{"tunnel from elsewhere", ipsec.Processing{RequestID: 7, Mode: ipsec.Tunnel, Src: hostB, Dst: hostB}, tunnel, false},
		{"optional transport", ipsec.Processing{RequestID: 8, Optional: true}, sa, true},
		{"optional transport by a tunnel", ipsec.Processing{RequestID: 8, Optional: true}, tunnel, false},
		{"optional tunnel", ipsec.Processing{RequestID: 8, Optional: true, Mode: ipsec.Tunnel}, tunnel, false},
		{"other SPI", ipsec.Processing{RequestID: 7, SPI: 0x101}, sa, false},
	} {
		sa := parametersOf(&c.sa)
		if got := accepts(&c.p, &sa); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestPolicyOrder(t *testing.T) {
	s := newSPD(nil)
	policy := func(bits int, priority uint32) ipsec.Policy {
		return ipsec.Policy{Direction: ipsec.Outbound, Priority: priority, Selector: ipsec.Selector{Dst: netip.PrefixFrom(hostB, bits).Masked()}}
	}
	for _, p := range []ipsec.Policy{policy(24, 20), policy(25, 10), policy(26, 20), policy(27, 10), policy(28, 30)} {
		s.put(s.prepare(&p, nil), nil)
	}
	var bits []int
	for _, p := range inOrder(s) {
		bits = append(bits, p.Selector.Dst.Bits())
	}
	want := []int{25, 27, 24, 26, 28} // by priority, of equals the first added
	for i := range want {
		if bits[i] != want[i] {
			t.Fatalf("order %v, want %v", bits, want)
		}
	}
	old, _ := s.get(ipsec.PolicyID{Direction: ipsec.Outbound, Selector: policy(24, 0).Selector})
	p := policy(24, 5)
	s.put(s.prepare(&p, old), old)
	if first := s.lookup(ipsec.Outbound, &ipsec.Flow{Dst: hostB}, 1); first.Priority != 5 || first.Index != old.Index {
		t.Errorf("after the update priority %d decides", first.Priority)
	}
	// One that keeps its priority keeps its place among its equals.
	old, _ = s.get(ipsec.PolicyID{Direction: ipsec.Outbound, Selector: policy(25, 0).Selector})
	p = policy(25, 10)
	s.put(s.prepare(&p, old), old)
	if list := inOrder(s); list[1].Selector.Dst.Bits() != 25 || list[2].Selector.Dst.Bits() != 27 {
		t.Errorf("after an update without a change: %v", list)
	}
	if p := s.lookup(ipsec.Inbound, &ipsec.Flow{Dst: hostB}, 1); p != nil {
		t.Error("an out policy decides inbound")
	}
	seen := make(map[uint32]bool)
	for _, p := range inOrder(s) {
		if p.Index == 0 || seen[p.Index] {
			t.Errorf("index %d", p.Index)
		}
		seen[p.Index] = true
	}
}

// inOrder is all policies in the order in which they decide.
func inOrder(s *spd) []*policy {
	all := s.newestFirst()
	slices.SortFunc(all, comparePolicies)
	return all
}

// A fragment that may be anybody's is protected or discarded with the rest, never let pass.
func TestFragmentsAreNotLetPassByPorts(t *testing.T) {
	any := netip.MustParsePrefix("0.0.0.0/0")
	dns := ipsec.Selector{Src: any, Dst: any, Protocol: 17, DstPort: ipsec.Port(53)}
	all := ipsec.Selector{Src: any, Dst: any}
	first := ipsec.Flow{Src: hostA, Dst: hostB, Protocol: 17, DstPort: 53}
	later := ipsec.Flow{Src: hostA, Dst: hostB, Protocol: 17, NoPorts: true}
	for _, c := range []struct {
		name string
		p    ipsec.Policy
		want uint32 // priority of the policy that decides on the later fragment
	}{
		{"bypass", ipsec.Policy{Action: ipsec.Bypass}, 20},
		{"optional", ipsec.Policy{Processing: []ipsec.Processing{{Optional: true}}}, 20},
		{"protect", ipsec.Policy{Processing: []ipsec.Processing{{}}}, 10},
		{"discard", ipsec.Policy{Action: ipsec.Discard}, 10},
	} {
		s := newSPD(nil)
		c.p.Direction, c.p.Selector, c.p.Priority = ipsec.Outbound, dns, 10
		for _, p := range []ipsec.Policy{c.p, {Direction: ipsec.Outbound, Selector: all, Priority: 20, Processing: []ipsec.Processing{{}}}} {
			s.put(s.prepare(&p, nil), nil)
		}
		if p := s.lookup(ipsec.Outbound, &first, 1); p.Priority != 10 {
			t.Errorf("%s: the first fragment falls under priority %d", c.name, p.Priority)
		}
		if p := s.lookup(ipsec.Outbound, &later, 1); p.Priority != c.want {
			t.Errorf("%s: a later fragment falls under priority %d", c.name, p.Priority)
		}
	}
}

// The number is the nonce: no two SAs with the same key may ever send with the same.
func TestSameKeySharesItsNumbers(t *testing.T) {
	s := newSAD(func(*association) {}, func(*association) {}, func() {})
	key := bytes.Repeat([]byte{7}, 20)
	add := func(spi ipsec.SPI, k []byte) *association {
		sa := testSA(spi)
		sa.Key = ipsec.NewKey(k)
		a, err := s.add(sa, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	reserve := func(a *association, want uint64) {
		t.Helper()
		if got, err := a.out.Reserve(3); err != nil || got != want {
			t.Errorf("SA %s reserved from %d (%v), want %d", a.sa.SPI, got, err, want)
		}
	}
	one, two := add(0x100, key), add(0x200, key)
	reserve(one, 1)
	reserve(two, 4)
	reserve(one, 7)
	for _, a := range s.flush() {
		a.retire()
	}
	reserve(add(0x100, key), 10)
	reserve(add(0x300, bytes.Repeat([]byte{8}, 20)), 1)
}

func TestPolicyRefusals(t *testing.T) {
	protect := ipsec.Policy{Direction: ipsec.Outbound, Processing: []ipsec.Processing{{}}}
	change := func(f func(*ipsec.Policy)) ipsec.Policy {
		p := protect
		p.Processing = []ipsec.Processing{{}}
		f(&p)
		return p
	}
	for name, c := range map[string]struct {
		p    ipsec.Policy
		want error
	}{
		"fine":                 {protect, nil},
		"no direction":         {change(func(p *ipsec.Policy) { p.Direction = 0 }), ipsec.ErrInvalid},
		"no template":          {change(func(p *ipsec.Policy) { p.Processing = nil }), ipsec.ErrInvalid},
		"two templates":        {change(func(p *ipsec.Policy) { p.Processing = make([]ipsec.Processing, 2) }), ipsec.ErrUnsupported},
		"tunnel from anywhere": {change(func(p *ipsec.Policy) { p.Processing[0].Mode, p.Processing[0].Dst = ipsec.Tunnel, hostB }), nil},
		"tunnel to nowhere":    {change(func(p *ipsec.Policy) { p.Processing[0].Mode = ipsec.Tunnel }), ipsec.ErrInvalid},
		"mixed families": {change(func(p *ipsec.Policy) {
			p.Selector.Src, p.Selector.Dst = netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")
		}), ipsec.ErrInvalid},
		"optional out tunnel": {change(func(p *ipsec.Policy) {
			p.Processing[0] = ipsec.Processing{Mode: ipsec.Tunnel, Src: hostA, Dst: hostB, Optional: true}
		}), ipsec.ErrInvalid},
		"index of another direction": {change(func(p *ipsec.Policy) { p.Index = 8 }), ipsec.ErrInvalid},
		"index":                      {change(func(p *ipsec.Policy) { p.Index = 9 }), nil},
		"limit of bytes":             {change(func(p *ipsec.Policy) { p.Limits.SoftBytes = 9 }), ipsec.ErrUnsupported},
		"limit of time":              {change(func(p *ipsec.Policy) { p.Limits.HardTime = 9 }), nil},
		"interface":                  {change(func(p *ipsec.Policy) { p.Selector.Interface = 3 }), ipsec.ErrUnsupported},
	} {
		if err := checkPolicy(&c.p); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSARefusals(t *testing.T) {
	d := &Device{}
	d.link.name = "p4p1"
	d.link.index.Store(5)
	for name, c := range map[string]struct {
		change func(*ipsec.SA)
		want   error
	}{
		"fine":               {func(*ipsec.SA) {}, nil},
		"mixed families":     {func(sa *ipsec.SA) { sa.Src = netip.MustParseAddr("::1") }, ipsec.ErrInvalid},
		"multicast":          {func(sa *ipsec.SA) { sa.Dst = netip.MustParseAddr("224.0.0.1") }, ipsec.ErrInvalid},
		"lifetimes":          {func(sa *ipsec.SA) { sa.Limits.HardBytes = 1 }, nil},
		"window for sending": {func(sa *ipsec.SA) { sa.Direction = ipsec.Outbound }, ipsec.ErrInvalid},
		"keepalives": {func(sa *ipsec.SA) {
			sa.NATKeepalive, sa.Encap, sa.Direction, sa.Window = time.Second, &ipsec.Encap{SrcPort: 1, DstPort: 2}, ipsec.Outbound, 0
		}, nil},
		"keepalives for receiving": {func(sa *ipsec.SA) {
			sa.NATKeepalive, sa.Encap, sa.Direction = time.Second, &ipsec.Encap{SrcPort: 1, DstPort: 2}, ipsec.Inbound
		}, ipsec.ErrInvalid},
		"keepalives without UDP": {func(sa *ipsec.SA) {
			sa.NATKeepalive, sa.Direction, sa.Window = time.Second, ipsec.Outbound, 0
		}, ipsec.ErrInvalid},
		"keepalives of half a second": {func(sa *ipsec.SA) {
			sa.NATKeepalive, sa.Encap, sa.Direction, sa.Window = time.Second/2, &ipsec.Encap{SrcPort: 1, DstPort: 2}, ipsec.Outbound, 0
		}, ipsec.ErrInvalid},
		"age of mappings":             {func(sa *ipsec.SA) { sa.MappingAge, sa.Encap = time.Second, &ipsec.Encap{SrcPort: 1, DstPort: 2} }, nil},
		"age of mappings without UDP": {func(sa *ipsec.SA) { sa.MappingAge = time.Second }, ipsec.ErrInvalid},
		"age of mappings for sending": {func(sa *ipsec.SA) {
			sa.MappingAge, sa.Encap, sa.Direction, sa.Window = time.Second, &ipsec.Encap{SrcPort: 1, DstPort: 2}, ipsec.Outbound, 0
		}, ipsec.ErrInvalid},
		"this device": {func(sa *ipsec.SA) {
			sa.Offload = ipsec.Offload{Mode: ipsec.CryptoOffload, Interface: 5, Direction: ipsec.Inbound}
		}, nil},
		"another device": {func(sa *ipsec.SA) {
			sa.Offload = ipsec.Offload{Mode: ipsec.CryptoOffload, Interface: 6, Direction: ipsec.Inbound}
		}, ipsec.ErrInvalid},
		"packet offload": {func(sa *ipsec.SA) {
			sa.Offload = ipsec.Offload{Mode: ipsec.PacketOffload, Interface: 5, Direction: ipsec.Inbound}
		}, ipsec.ErrUnsupported},
		"two directions": {func(sa *ipsec.SA) {
			sa.Direction, sa.Offload = ipsec.Inbound, ipsec.Offload{Mode: ipsec.CryptoOffload, Interface: 5, Direction: ipsec.Outbound}
		}, ipsec.ErrInvalid},
	} {
		sa := testSA(0x100)
		c.change(&sa)
		if err := d.checkSA(&sa); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEveryReasonHasItsRow(t *testing.T) {
	seen := make(map[string]bool)
	for r, row := range reasonTable {
		if row.name == "" || row.meaning == "" || seen[row.name] {
			t.Errorf("reason %d: %+v", r, row)
		}
		seen[row.name] = true
		if row.counter != "" && !strings.HasPrefix(row.counter, "Xfrm") {
			t.Errorf("%s: counter %q", row.name, row.counter)
		}
	}
}
