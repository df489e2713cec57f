package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"espalier/ipsec"
)

// laidOut is a line for each entry: what, its lane's number, the selector from A to B, priority.
func laidOut(t *Tunnel) (lines []string) {
	for _, p := range t.Pairs {
		for i, l := range p.Lanes {
			for _, e := range l.Protect {
				lines = append(lines, fmt.Sprintf("lane %d %s %d", i, describe(&e.Selector), e.Priority))
			}
		}
		for _, e := range p.Bypass {
			lines = append(lines, fmt.Sprintf("bypass %s %d", describe(&e.Selector), e.Priority))
		}
	}
	return lines
}

func TestPairs(t *testing.T) {
	for name, c := range map[string]struct{ settings, want string }{
		"all": {"hosts: [{address: 10.0.0.1, dev: e}, {address: 10.0.0.2, dev: e}]", `
lane 0 10.0.0.1→10.0.0.2 1003`},
		"mesh, with a service of one": {"hosts: [{address: 10.0.0.1, dev: e}, {address: 10.0.0.2, dev: e}, {address: 10.0.0.3, dev: e}]\n  selectors: [{protocol: tcp, ports: [22], at: 10.0.0.2}]", `
lane 0 10.0.0.1→10.0.0.2 tcp to port 22 1000
lane 0 10.0.0.2→10.0.0.3 tcp from port 22 1000`},
		"at either end, and bypass": {"hosts: [{address: 10.0.0.1, dev: e}, {address: 10.0.0.2, dev: e}]\n  selectors: [tcp]\n  bypass: [tcp/22]", `
lane 0 10.0.0.1→10.0.0.2 tcp 1001
bypass 10.0.0.1→10.0.0.2 tcp to port 22 1000
bypass 10.0.0.1→10.0.0.2 tcp from port 22 1000`},
		"subnets of both families": {"hosts: [{address: 10.0.0.1, dev: e, subnets: [10.1.0.0/16, 10.3.0.0/16, '2001:db8:1::/48']}, {address: 10.0.0.2, dev: e, subnets: [10.2.0.0/24, '2001:db8:2::/48']}]\n  bypass: [icmp, icmpv6]", `
lane 0 10.1.0.0/16→10.2.0.0/24 1099
lane 0 10.3.0.0/16→10.2.0.0/24 1099
lane 0 2001:db8:1::/48→2001:db8:2::/48 1643
bypass 10.1.0.0/16→10.2.0.0/24 icmp 1097
bypass 10.3.0.0/16→10.2.0.0/24 icmp 1097
bypass 2001:db8:1::/48→2001:db8:2::/48 icmpv6 1641`},
		"a lane for each port": {"hosts: [{address: 10.0.0.1, dev: e}, {address: 10.0.0.2, dev: e}]\n  selectors: [{protocol: tcp, ports: [80, 443], at: 10.0.0.2}, udp/53]\n  sas: ports", `
lane 0 10.0.0.1→10.0.0.2 tcp to port 80 1000
lane 1 10.0.0.1→10.0.0.2 tcp to port 443 1000
lane 2 10.0.0.1→10.0.0.2 udp to port 53 1000
lane 2 10.0.0.1→10.0.0.2 udp from port 53 1000`},
	} {
		f := parsed(t, "tunnels:\n- name: a\n  "+c.settings+"\n")
		if got := "\n" + strings.Join(laidOut(&f.Tunnels[0]), "\n"); got != c.want {
			t.Errorf("%s:%s\nwant%s", name, got, c.want)
		}
	}
}

// Made with Python's hashlib, as the comment on RequestID says.
const (
	wantDB   = 1262224167
	wantLane = 1914512724
	wantIPv6 = 1671841412
)

// TestRequestID: the numbers are fixed for ever, for hosts know running tunnels by them.
func TestRequestID(t *testing.T) {
	a, b := netip.MustParseAddr("192.168.1.64"), netip.MustParseAddr("192.168.1.65")
	for _, c := range []struct {
		tunnel string
		a, b   netip.Addr
		lane   string
		want   uint32
	}{
		{"db", a, b, "", wantDB},
		{"db", b, a, "", wantDB},
		{"db", a, b, "tcp/5432", wantLane},
		{"db", netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), "", wantIPv6},
	} {
		if got := RequestID(c.tunnel, c.a, c.b, c.lane); got != c.want {
			t.Errorf("%s %s %s %q: %d, want %d", c.tunnel, c.a, c.b, c.lane, got, c.want)
		}
	}
	one := parsed(t, "tunnels:\n- name: db\n  hosts: [{address: 192.168.1.65, dev: e}, {address: 192.168.1.64, dev: e}]\n")
	if got := one.Tunnels[0].Pairs[0].Lanes[0].RequestID; got != wantDB {
		t.Errorf("of a file: %d", got)
	}
	lanes := parsed(t, "tunnels:\n- name: db\n  hosts: [{address: 192.168.1.64, dev: e}, {address: 192.168.1.65, dev: e}]\n  selectors: [tcp/1, tcp/5432]\n  sas: ports\n")
	if got := lanes.Tunnels[0].Pairs[0].Lanes[1].RequestID; got != wantLane {
		t.Errorf("of the second port: %d", got)
	}
}

// TestPriority: what lies within something else comes before it.
func TestPriority(t *testing.T) {
	selector := rapid.Custom(func(t *rapid.T) ipsec.Selector {
		prefix := func(name string) netip.Prefix {
			bits := rapid.IntRange(0, 32).Draw(t, name)
			p, _ := netip.AddrFrom4([4]byte{10, 1, 2, 3}).Prefix(bits)
			return p
		}
		s := ipsec.Selector{Src: prefix("src"), Dst: prefix("dst")}
		if rapid.Bool().Draw(t, "protocol") {
			s.Protocol = 6
			if rapid.Bool().Draw(t, "port") {
				s.DstPort = ipsec.Port(22)
			}
		}
		return s
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := selector.Draw(t, "a"), selector.Draw(t, "b")
		pa, pb := priority(&a), priority(&b)
		switch relate(&a, &b) {
		case within:
			if pa >= pb {
				t.Fatalf("%s has %d, %s around it %d", a, pa, b, pb)
			}
		case around:
			if pa <= pb {
				t.Fatalf("%s has %d, %s within it %d", a, pa, b, pb)
			}
		case same:
			if pa != pb || a != b {
				t.Fatalf("%s is not %s", a, b)
			}
		}
		if mirrored, ma, mb := relate(&a, &b), Mirror(a), Mirror(b); relate(&ma, &mb) != mirrored {
			t.Fatalf("%s and %s mirrored", a, b)
		}
		if pa < 1000 {
			t.Fatalf("priority %d", pa)
		}
	})
}

func newChecker() *checker { return &checker{file: &File{}, told: map[Position]bool{}} }

// TestOverlapsOf: claims that are looked at in order of their destinations show the same as all of
// them beside each other.
func TestOverlapsOf(t *testing.T) {
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		p, _ := netip.AddrFrom4([4]byte{10, 0, rapid.Byte().Draw(t, "third") & 1, rapid.Byte().Draw(t, "last")}).Prefix(rapid.IntRange(22, 32).Draw(t, "bits"))
		return p
	})
	rapid.Check(t, func(t *rapid.T) {
		tunnels := make([]Tunnel, 6)
		claims := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) claim {
			n := rapid.IntRange(0, len(tunnels)-1).Draw(t, "tunnel")
			return claim{tunnel: &tunnels[n], number: n, selector: ipsec.Selector{Src: prefix.Draw(t, "src"), Dst: prefix.Draw(t, "dst")}, bypass: rapid.Bool().Draw(t, "bypass")}
		}), 0, 12).Draw(t, "claims")
		all := map[[2]int]*told{}
		for i, a := range claims {
			for _, b := range claims[i+1:] {
				if a.number > b.number {
					newChecker().compare(b, a, all)
				} else if a.number < b.number {
					newChecker().compare(a, b, all)
				}
			}
		}
		swept := map[[2]int]*told{}
		newChecker().overlapsOf(claims, swept)
		if !reflect.DeepEqual(all, swept) {
			t.Fatalf("%v, want %v", swept, all)
		}
	})
}

// TestRelate: relations say what packets match.
func TestRelate(t *testing.T) {
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		p, _ := netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "last") & 3}).Prefix(rapid.IntRange(30, 32).Draw(t, "bits"))
		return p
	})
	port := rapid.SampledFrom([]ipsec.PortMatch{{}, ipsec.Port(1), ipsec.Port(2)})
	selector := rapid.Custom(func(t *rapid.T) ipsec.Selector {
		s := ipsec.Selector{Src: prefix.Draw(t, "src"), Dst: prefix.Draw(t, "dst"), Protocol: rapid.SampledFrom([]uint8{0, 6, 17}).Draw(t, "protocol")}
		if s.Protocol != 0 {
			s.SrcPort, s.DstPort = port.Draw(t, "source port"), port.Draw(t, "destination port")
		}
		return s
	})
	// Every packet that selectors can tell apart.
	var flows []ipsec.Flow
	for src := range byte(4) {
		for dst := range byte(4) {
			for _, protocol := range []uint8{1, 6, 17} {
				for ports := range uint16(9) {
					flows = append(flows, ipsec.Flow{
						Src: netip.AddrFrom4([4]byte{10, 0, 0, src}), Dst: netip.AddrFrom4([4]byte{10, 0, 0, dst}),
						Protocol: protocol, SrcPort: ports % 3, DstPort: ports / 3,
					})
				}
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := selector.Draw(t, "a"), selector.Draw(t, "b")
		onlyA, onlyB, both := false, false, false
		for i := range flows {
			inA, inB := a.Match(&flows[i]), b.Match(&flows[i])
			onlyA, onlyB, both = onlyA || inA && !inB, onlyB || inB && !inA, both || inA && inB
		}
		want := crossing
		switch {
		case !both:
			want = apart
		case !onlyA && !onlyB:
			want = same
		case !onlyA:
			want = within
		case !onlyB:
			want = around
		}
		got := relate(&a, &b)
		if got == crossingPorts {
			got = crossing
		}
		if got != want {
			t.Fatalf("%s and %s: %d, want %d", a, b, got, want)
		}
	})
}
