package firewall

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// expression is one as the kernel sends it: its name, and attributes.
type expression struct {
	name  string
	attrs []netlink.Attribute
}

func attr(t uint16, data []byte) netlink.Attribute { return netlink.Attribute{Type: t, Data: data} }

func be32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func word(s string) []byte { return append([]byte(s), 0) }

func nest(t testing.TB, attrs ...netlink.Attribute) []byte {
	t.Helper()
	b, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func data(t testing.TB, b []byte) []byte { return nest(t, attr(unix.NFTA_DATA_VALUE, b)) }

// message is a rule of table "ip filter", chain INPUT.
func message(t testing.TB, expressions ...expression) []byte {
	t.Helper()
	var list []netlink.Attribute
	for _, e := range expressions {
		list = append(list, attr(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, nest(t,
			attr(unix.NFTA_EXPR_NAME, word(e.name)),
			attr(unix.NFTA_EXPR_DATA|unix.NLA_F_NESTED, nest(t, e.attrs...)))))
	}
	return append([]byte{unix.NFPROTO_IPV4, 0, 0, 0}, nest(t,
		attr(unix.NFTA_RULE_TABLE, word("filter")),
		attr(unix.NFTA_RULE_CHAIN, word("INPUT")),
		attr(unix.NFTA_RULE_EXPRESSIONS|unix.NLA_F_NESTED, nest(t, list...)))...)
}

func xtMatch(name string, revision uint32, info []byte) expression {
	return expression{"match", []netlink.Attribute{attr(unix.NFTA_MATCH_NAME, word(name)), attr(unix.NFTA_MATCH_REV, be32(revision)), attr(unix.NFTA_MATCH_INFO, info)}}
}

func xtTarget(name string) expression {
	return expression{"target", []netlink.Attribute{attr(unix.NFTA_TARGET_NAME, word(name)), attr(unix.NFTA_TARGET_REV, be32(0)), attr(unix.NFTA_TARGET_INFO, make([]byte, 8))}}
}

func immediate(t testing.TB, code int32) expression {
	v := nest(t, attr(unix.NFTA_DATA_VERDICT|unix.NLA_F_NESTED, nest(t, attr(unix.NFTA_VERDICT_CODE, be32(uint32(code))))))
	return expression{"immediate", []netlink.Attribute{attr(unix.NFTA_IMMEDIATE_DREG, be32(unix.NFT_REG_VERDICT)), attr(unix.NFTA_IMMEDIATE_DATA|unix.NLA_F_NESTED, v)}}
}

// conntrackInfo is struct xt_conntrack_mtinfo3 of `-m conntrack --ctstate`.
func conntrackInfo(flags, inverse, mask uint16) []byte {
	info := make([]byte, 164)
	binary.NativeEndian.PutUint16(info[146:], flags)
	binary.NativeEndian.PutUint16(info[148:], inverse)
	binary.NativeEndian.PutUint16(info[150:], mask)
	return info
}

// udpInfo is struct xt_udp.
func udpInfo(from, to uint16, inverse byte) []byte {
	info := make([]byte, 10)
	binary.NativeEndian.PutUint16(info[2:], 0xffff)
	binary.NativeEndian.PutUint16(info[4:], from)
	binary.NativeEndian.PutUint16(info[6:], to)
	info[8] = inverse
	return info
}

func noSets(string, string, string) ([]element, error) { return nil, nil }

// TestXtables: iptables-nft leaves to xtables what nft has no words for.
func TestXtables(t *testing.T) {
	l4proto := func(n byte) []expression {
		return []expression{
			{"meta", []netlink.Attribute{attr(unix.NFTA_META_KEY, be32(unix.NFT_META_L4PROTO)), attr(unix.NFTA_META_DREG, be32(unix.NFT_REG_1))}},
			{"cmp", []netlink.Attribute{attr(unix.NFTA_CMP_SREG, be32(unix.NFT_REG_1)), attr(unix.NFTA_CMP_OP, be32(unix.NFT_CMP_EQ)), attr(unix.NFTA_CMP_DATA|unix.NLA_F_NESTED, data(t, []byte{n}))}},
		}
	}
	drop, accept := immediate(t, nfDrop), immediate(t, nfAccept)
	for _, c := range []struct {
		name string
		rule []expression
		want string
		udp  outcome
		esp  outcome
	}{
		{"state, established", []expression{xtMatch("conntrack", 3, conntrackInfo(1, 0, 6)), drop}, "ct state { established, related } drop", passes, passes},
		{"state, new", []expression{xtMatch("conntrack", 3, conntrackInfo(1, 0, 8)), drop}, "ct state new drop", dropped, dropped},
		{"state, not new", []expression{xtMatch("conntrack", 3, conntrackInfo(1, 1, 8)), drop}, "ct state != new drop", passes, passes},
		{"more than state", []expression{xtMatch("conntrack", 3, conntrackInfo(3, 0, 8)), drop}, "ct state new match conntrack drop", depends, depends},
		{"old conntrack", []expression{xtMatch("conntrack", 1, make([]byte, 152)), drop}, "match conntrack drop", depends, depends},
		{"port", append(l4proto(17), xtMatch("udp", 0, udpInfo(4500, 4500, 0)), drop), "meta l4proto udp th dport 4500 drop", dropped, passes},
		{"other ports", append(l4proto(17), xtMatch("udp", 0, udpInfo(4500, 4500, 2)), drop), "meta l4proto udp th dport != 4500 drop", passes, passes},
		{"a range", append(l4proto(17), xtMatch("udp", 0, udpInfo(4000, 5000, 0)), drop), "meta l4proto udp th dport 4000-5000 drop", dropped, passes},
		{"any port", append(l4proto(17), xtMatch("udp", 0, udpInfo(0, 0xffff, 0)), drop), "meta l4proto udp drop", dropped, passes},
		{"tcp", append(l4proto(6), xtMatch("tcp", 0, make([]byte, 12)), drop), "meta l4proto tcp th sport 0 th dport 0 drop", passes, passes},
		{"comment", []expression{xtMatch("comment", 0, make([]byte, 256)), drop}, "drop", dropped, dropped},
		{"not understood", []expression{xtMatch("recent", 0, make([]byte, 16)), drop}, "match recent drop", depends, depends},
		{"reject", []expression{xtTarget("REJECT")}, "reject", dropped, dropped},
		{"log", []expression{xtTarget("LOG")}, "", passes, passes},
		{"queue", []expression{xtTarget("NFQUEUE")}, "queue", depends, depends},
		{"accept", []expression{accept, drop}, "accept", passes, passes},
	} {
		of, rules, err := decodeRule(message(t, c.rule...), noSets)
		if err != nil || len(rules) != 1 || of.String() != "ip filter INPUT" {
			t.Fatalf("%s: %v %v %v", c.name, of, rules, err)
		}
		if got := rules[0].String(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		of.Hook, of.Rules = "input", rules
		for p, want := range map[*Packet]outcome{ptr(ESP(IPv4)): c.esp, ptr(UDP(IPv4, 4500)): c.udp} {
			if got, by := at([]Chain{of}, "input", p.In("p4p1", 2)); got != want {
				t.Errorf("%s, protocol %s: %d by %q, want %d", c.name, (*p)["l4proto"], got, by, want)
			}
		}
	}
}

func ptr(p Packet) *Packet { return &p }

// TestUnknownExpression: one that is not understood may have loaded any register, so what is
// compared behind it is not known.
func TestUnknownExpression(t *testing.T) {
	_, rules, err := decodeRule(message(t,
		expression{"meta", []netlink.Attribute{attr(unix.NFTA_META_KEY, be32(unix.NFT_META_L4PROTO)), attr(unix.NFTA_META_DREG, be32(unix.NFT_REG_1))}},
		expression{"xfrm", []netlink.Attribute{attr(1, be32(unix.NFT_REG_1)), attr(2, be32(1))}},
		expression{"cmp", []netlink.Attribute{attr(unix.NFTA_CMP_SREG, be32(unix.NFT_REG_1)), attr(unix.NFTA_CMP_OP, be32(unix.NFT_CMP_EQ)), attr(unix.NFTA_CMP_DATA|unix.NLA_F_NESTED, data(t, []byte{50}))}},
		immediate(t, nfDrop)), noSets)
	if err != nil || len(rules) != 1 || rules[0].String() != "something … drop" {
		t.Errorf("%v %v", rules, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(message(f, xtMatch("conntrack", 3, conntrackInfo(1, 0, 6)), immediate(f, nfDrop)))
	f.Add(message(f, xtMatch("udp", 0, udpInfo(1, 2, 0)), xtTarget("REJECT")))
	f.Add(message(f,
		expression{"ct", []netlink.Attribute{attr(unix.NFTA_CT_KEY, be32(unix.NFT_CT_STATE)), attr(unix.NFTA_CT_DREG, be32(unix.NFT_REG32_00))}},
		expression{"bitwise", []netlink.Attribute{attr(unix.NFTA_BITWISE_SREG, be32(8)), attr(unix.NFTA_BITWISE_DREG, be32(8)), attr(unix.NFTA_BITWISE_MASK, data(f, make([]byte, 4))), attr(unix.NFTA_BITWISE_XOR, data(f, make([]byte, 4)))}},
		expression{"range", []netlink.Attribute{attr(unix.NFTA_RANGE_SREG, be32(8)), attr(unix.NFTA_RANGE_FROM_DATA, data(f, []byte{1})), attr(unix.NFTA_RANGE_TO_DATA, data(f, []byte{2}))}},
		expression{"lookup", []netlink.Attribute{attr(unix.NFTA_LOOKUP_SET, word("s")), attr(unix.NFTA_LOOKUP_SREG, be32(8)), attr(unix.NFTA_LOOKUP_DREG, be32(0))}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		elements, _ := decodeElements(b)
		_, _, _ = decodeTable(b)
		chain, err := decodeChain(b)
		of, rules, err2 := decodeRule(b, func(string, string, string) ([]element, error) { return elements, nil })
		if err != nil || err2 != nil {
			return
		}
		of.Hook, of.Rules, of.Drops = "input", rules, chain.Drops
		chains := []Chain{of, chain}
		for _, p := range []Packet{ESP(IPv4).In("p4p1", 2), UDP(IPv6, 4500).Out("p4p1", 2)} {
			for _, d := range Pass(chains, "input", "p4p1", p) {
				if d.Chain == "" || d.Rule == "" {
					t.Errorf("%+v", d)
				}
			}
		}
	})
}

// TestCircle: chains that jump in circles cannot be loaded; that they end is all that is asked.
func TestCircle(t *testing.T) {
	chains := []Chain{
		{Family: "inet", Table: "t", Name: "a", Hook: "input", Rules: []Rule{{Verdict: "jump", To: "b"}, {Verdict: "jump", To: "nowhere"}}},
		{Family: "inet", Table: "t", Name: "b", Rules: []Rule{{Verdict: "goto", To: "a"}, {Verdict: "jump", To: "b"}}},
	}
	if o, by := at(chains, "input", ESP(IPv4)); o != depends || by != "inet t a: jump nowhere" {
		t.Errorf("%d %q", o, by)
	}
}

// TestManyChains: a chain is walked once, however many jump to it.
func TestManyChains(t *testing.T) {
	var chains []Chain
	for i := range 40 {
		to := string(rune('A' + i + 1))
		c := Chain{Family: "inet", Table: "t", Name: string(rune('A' + i)), Rules: []Rule{
			{Match: []Match{{What: "mark"}}, Verdict: "jump", To: to}, {Match: []Match{{What: "mark"}}, Verdict: "jump", To: to}, {Verdict: "jump", To: to}}}
		chains = append(chains, c)
	}
	chains = append(chains, Chain{Family: "inet", Table: "t", Name: string(rune('A' + 40))})
	chains[0].Hook = "input"
	if o, by := at(chains, "input", ESP(IPv4)); o != passes || by != "" {
		t.Errorf("%d %q", o, by)
	}
}

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		in, value string
		want      bool
	}{
		{"50", "50", true}, {"50", "5", false}, {"4000-5000", "4500", true}, {"1-3", "4", false}, {"p4*", "p4p1", true}, {"p4*", "eth0", false},
		{"p4p1", "p4p1", true}, {"eth-1", "eth-1", true}, {"-", "-", true}, {"", "", true}, {"1-", "1", false},
	} {
		if got := covers(c.in, c.value); got != c.want {
			t.Errorf("%q covers %q: %v", c.in, c.value, got)
		}
	}
	if got := (Rule{Match: []Match{{What: "dport", In: slices.Repeat([]string{"1"}, 9)}}, Verdict: "jump", To: "x"}).String(); got != "th dport { 1, 1, 1, 1, … } jump x" {
		t.Error(got)
	}
}
