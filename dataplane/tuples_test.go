package dataplane

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"espalier/ipsec"
)

// addresses are few, so that selectors and packets meet.
func someAddr(t *rapid.T, label string) netip.Addr {
	last := byte(rapid.IntRange(0, 3).Draw(t, label))
	switch rapid.IntRange(0, 9).Draw(t, label+" family") {
	case 0:
		return netip.AddrFrom16([16]byte{0x20, 1, 7: last, 15: last})
	case 1: // an IPv4 address in an IPv6 header is not that IPv4 address
		return netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff, 12: 10, 15: last})
	}
	return netip.AddrFrom4([4]byte{10, 0, last & 1, last})
}

func somePrefix(t *rapid.T, label string) netip.Prefix {
	a := someAddr(t, label)
	bits := rapid.SampledFrom([]int{-1, 0, 8, 23, 24, 30, 31, 32, 63, 64, 65, 127, 128}).Draw(t, label+" bits")
	return netip.PrefixFrom(a, min(bits, a.BitLen())) // with bits that do not count, too; -1 is any
}

func somePort(t *rapid.T, label string) ipsec.PortMatch {
	mask := rapid.SampledFrom([]uint16{0, 0, 0xffff, 0xfffe}).Draw(t, label+" mask")
	return ipsec.PortMatch{Value: uint16(rapid.IntRange(0, 3).Draw(t, label)), Mask: mask}
}

func someSelector(t *rapid.T) ipsec.Selector {
	return ipsec.Selector{
		Src: somePrefix(t, "src"), Dst: somePrefix(t, "dst"), Protocol: rapid.SampledFrom([]uint8{0, 6, 17}).Draw(t, "protocol"),
		SrcPort: somePort(t, "sport"), DstPort: somePort(t, "dport"),
	}
}

// The SPD decides as a walk over all policies in their order would.
func TestTuplesAreALinearScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSPD(nil)
		var scan []*policy // in order of their rank
		insert := func(p *policy) {
			at, _ := slices.BinarySearchFunc(scan, p, comparePolicies)
			scan = slices.Insert(scan, at, p)
		}
		remove := func(p *policy) { scan = slices.DeleteFunc(scan, func(q *policy) bool { return p == q }) }
		for range rapid.IntRange(0, 30).Draw(t, "changes") {
			if len(scan) > 0 && rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
				p := rapid.SampledFrom(scan).Draw(t, "which")
				s.drop(p)
				remove(p)
				continue
			}
			given := ipsec.Policy{
				Direction: ipsec.Outbound, Selector: someSelector(t),
				Priority: uint32(rapid.IntRange(0, 3).Draw(t, "priority")),
				Action:   ipsec.Action(rapid.IntRange(0, 2).Draw(t, "action")),
			}
			if given.Action == ipsec.Protect {
				given.Processing = []ipsec.Processing{{Optional: rapid.Bool().Draw(t, "optional")}}
			}
			old, err := s.get(given.ID())
			if err != nil {
				old = nil
			}
			p := s.prepare(&given, old)
			s.put(p, old)
			if old != nil {
				remove(old)
			}
			insert(p)
		}
		if s.len() != len(scan) {
			t.Fatalf("%d policies, want %d", s.len(), len(scan))
		}
		for range 50 {
			f := ipsec.Flow{
				Src: someAddr(t, "from"), Dst: someAddr(t, "to"), Protocol: rapid.SampledFrom([]uint8{6, 17, 50}).Draw(t, "next header"),
				SrcPort: uint16(rapid.IntRange(0, 3).Draw(t, "from port")), DstPort: uint16(rapid.IntRange(0, 3).Draw(t, "to port")),
				NoPorts: rapid.IntRange(0, 3).Draw(t, "no ports") == 0,
			}
			var want *policy
			for _, p := range scan {
				if p.Selector.Match(&f) && !(f.NoPorts && p.Selector.HasPorts() && letsPass(p)) {
					want = p
					break
				}
			}
			if got := s.lookup(ipsec.Outbound, &f, 1); got != want {
				t.Fatalf("%+v: %s decides, not %s", f, name(got), name(want))
			}
		}
	})
}

func name(p *policy) string {
	if p == nil {
		return "none"
	}
	return p.ID().String()
}
