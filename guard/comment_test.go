package guard

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"espalier/ipsec"
)

func TestComment(t *testing.T) {
	for text, e := range map[string]entry{
		"out protect 10.0.0.0/24 > 10.1.0.0/24 proto 6 dport 443 prio 100": {
			Direction: ipsec.Outbound, Selector: sel("10.0.0.0/24", "10.1.0.0/24", 6, anyPort, 443), Priority: 100},
		"in use any > 2001:db8::1 prio 0": {
			Direction: ipsec.Inbound, Optional: true, Selector: sel("", "2001:db8::1/128", 0, anyPort, anyPort)},
		"fwd discard 0.0.0.0/0 > any sport 0x1200/0xff00 dport 0 dev 7 prio 4294967295": {
			Direction: ipsec.Forward, Action: ipsec.Discard, Priority: 1<<32 - 1, Selector: ipsec.Selector{
				Src: prefix("0.0.0.0/0"), SrcPort: ipsec.PortMatch{Value: 0x1200, Mask: 0xff00}, DstPort: ipsec.Port(0), Interface: 7}},
		"in bypass ::ffff:10.0.0.0/104 > any prio 1": {
			Direction: ipsec.Inbound, Action: ipsec.Bypass, Priority: 1,
			Selector: ipsec.Selector{Src: netip.PrefixFrom(netip.MustParseAddr("::ffff:10.0.0.0"), 104)}},
	} {
		if got := e.comment(); got != text {
			t.Errorf("comment %q, want %q", got, text)
		}
		if got, err := parseComment(text); err != nil || got != e {
			t.Errorf("parse %q: %+v, %v; want %+v", text, got, err, e)
		}
	}
}

func TestParseCommentRefuses(t *testing.T) {
	for _, text := range []string{
		"", "ESP", "out", "out protect any > any", "out protect any > any prio",
		"up protect any > any prio 1", "out allow any > any prio 1", "out protect any < any prio 1",
		"out protect 10.0.0.0/33 > any prio 1", "out protect 10.0.0.0/-1 > any prio 1", "out protect fe80::1%eth0 > any prio 1",
		"out protect 10.0.0.1 > 2001:db8::1 prio 1",
		"out protect any > any proto 256 prio 1", "out protect any > any sport 65536 prio 1",
		"out protect any > any sport 12/0xff prio 1", "out protect any > any sport 0x1/ff prio 1",
		"out protect any > any prio 1 prio 2", "out protect any > any proto 6", "out protect any > any ttl 3 prio 1",
		"out protect any > any prio 4294967296", "out protect any > any dev -1 prio 1",
	} {
		if e, err := parseComment(text); err == nil {
			t.Errorf("%q parsed as %+v", text, e)
		}
	}
}

// anyEntry draws a valid entry.
func anyEntry(t *rapid.T) entry {
	e := entry{
		Direction: rapid.SampledFrom([]ipsec.Direction{ipsec.Inbound, ipsec.Outbound, ipsec.Forward}).Draw(t, "direction"),
		Action:    rapid.SampledFrom([]ipsec.Action{ipsec.Protect, ipsec.Bypass, ipsec.Discard}).Draw(t, "action"),
		Priority:  rapid.Uint32().Draw(t, "priority"),
	}
	e.Optional = e.Action == ipsec.Protect && rapid.Bool().Draw(t, "optional")
	size := rapid.SampledFrom([]int{4, 16}).Draw(t, "family")
	addrs := rapid.Custom(func(t *rapid.T) netip.Prefix {
		if rapid.IntRange(0, 4).Draw(t, "any") == 0 {
			return netip.Prefix{}
		}
		a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, "address"))
		return netip.PrefixFrom(a, rapid.IntRange(0, size*8).Draw(t, "bits"))
	})
	port := rapid.Custom(func(t *rapid.T) ipsec.PortMatch {
		return ipsec.PortMatch{Value: rapid.Uint16().Draw(t, "value"), Mask: rapid.SampledFrom([]uint16{0, 0xffff, 0xff00, 1}).Draw(t, "mask")}
	})
	e.Selector = ipsec.Selector{
		Src: addrs.Draw(t, "src"), Dst: addrs.Draw(t, "dst"),
		Protocol: rapid.Uint8().Draw(t, "protocol"),
		SrcPort:  port.Draw(t, "sport"), DstPort: port.Draw(t, "dport"),
		Interface: rapid.IntRange(0, 1<<31-1).Draw(t, "interface"),
	}
	return e
}

func TestCommentRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := anyEntry(t)
		text := e.comment()
		if len(text) > 191 {
			t.Fatalf("%d bytes: %q", len(text), text)
		}
		if !isEntryComment(text) {
			t.Fatalf("%q does not look like a policy", text)
		}
		if got := decodeUserdata(encodeUserdata(text)); got != text {
			t.Fatalf("userdata of %q reads %q", text, got)
		}
		got, err := parseComment(text)
		if err != nil || got != e {
			t.Fatalf("%q: %+v, %v; want %+v", text, got, err, e)
		}
	})
}

func FuzzComment(f *testing.F) {
	f.Add("out protect 10.0.0.0/24 > 10.1.0.0/24 proto 6 dport 443 prio 100")
	f.Add("fwd use any > 2001:db8::/32 sport 0x1200/0xff00 dev 7 prio 0")
	f.Fuzz(func(t *testing.T, text string) {
		e, err := parseComment(text)
		if err != nil {
			return
		}
		again, err := parseComment(e.comment())
		if err != nil || again != e {
			t.Errorf("%q is %+v, its comment %q is %+v, %v", text, e, e.comment(), again, err)
		}
	})
}

func FuzzUserdata(f *testing.F) {
	f.Add(encodeUserdata("in bypass any > any prio 1"))
	f.Add([]byte{0, 200, 'x'})
	f.Add([]byte{1, 1, 7, 0, 2, 'x', 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := decodeUserdata(b)
		if len(s) > len(b) || !strings.Contains(string(b), s) {
			t.Errorf("%x has comment %q", b, s)
		}
	})
}

func TestInterleave(t *testing.T) {
	e := func(n uint32) entry { return entry{Priority: n} }
	for _, c := range []struct{ a, b, want []entry }{
		{nil, nil, nil},
		{[]entry{e(1), e(1), e(2)}, nil, []entry{e(1), e(2)}},
		{nil, []entry{e(1), e(2)}, []entry{e(1), e(2)}},
		// 1 and 4 stand in both; 3 must come between them.
		{[]entry{e(0), e(1), e(4)}, []entry{e(1), e(3), e(3), e(4), e(5)}, []entry{e(0), e(1), e(3), e(4), e(5)}},
	} {
		if got := interleave(c.a, c.b); !slices.Equal(got, c.want) {
			t.Errorf("interleave(%v, %v) = %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

// TestReadBackKeepsOrder: what the comments of a rule set say is what it was made from.
func TestReadBackKeepsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		made := rapid.SliceOfNDistinct(rapid.Custom(anyEntry), 0, 12, func(e entry) ipsec.PolicyID { return e.id() }).Draw(t, "entries")
		for i := range made {
			made[i].Priority %= 3
		}
		made = inSPDOrder(made)
		comments := map[string][]string{}
		built := build(&Config{}, inOrder(made, 0), nil, nil, rapid.IntRange(1, 9).Draw(t, "sets from"))
		for _, c := range built.chains {
			for _, r := range c.rules {
				if !strings.HasPrefix(r.comment, setWord) {
					comments[c.name] = append(comments[c.name], r.comment)
					continue
				}
				built.sets(func(s *set) {
					if s.name != strings.TrimPrefix(r.comment, setWord) {
						return
					}
					for _, e := range s.members { // as the kernel, in no order
						comments[c.name] = append(comments[c.name], e.comment())
					}
				})
			}
		}
		read, err := decodeEntries(comments)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, s := range sides {
				mine := func(all []entry) []entry {
					return slices.DeleteFunc(slices.Clone(all), func(e entry) bool {
						return !s.has(e.Direction) || !f.concerns(&e.Selector) || unreadable(&e)
					})
				}
				if got, want := settled(mine(inSPDOrder(read))), settled(mine(made)); !slices.Equal(got, want) {
					t.Fatalf("%s %s: read %v, made %v", s.name, f.name, got, want)
				}
			}
		}
	})
}

// inSPDOrder sorts entries by priority.
func inSPDOrder(entries []entry) []entry {
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.Priority, b.Priority) })
	return entries
}

// settled sorts what may come in any order: equals of one effect without an opposite between.
func settled(entries []entry) []entry {
	for from := 0; from < len(entries); {
		n := from + 1
		for n < len(entries) && entries[n].Priority == entries[from].Priority && entries[n].admits() == entries[from].admits() {
			n++
		}
		slices.SortFunc(entries[from:n], func(a, b entry) int { return cmp.Compare(a.comment(), b.comment()) })
		from = n
	}
	return entries
}

// unreadable entries admit by ports of a protocol that has none: they need no rule.
func unreadable(e *entry) bool {
	return e.admits() && e.Selector.HasPorts() && len(protocolsOf(&e.Selector)) == 0
}
