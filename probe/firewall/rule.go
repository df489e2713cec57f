package firewall

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// reader reads the elements of a set.
type reader func(family, table, set string) ([]element, error)

// decodeRule returns the chain that a rule is of, and what the rule comes to: several, if it
// looks its verdict up in a map.
func decodeRule(data []byte, sets reader) (of Chain, rules []Rule, err error) {
	family, ad, err := nftDecoder(data)
	if err != nil {
		return of, nil, err
	}
	of.Family = family
	b := ruleBuilder{chain: &of, sets: sets}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			of.Table = ad.String()
		case unix.NFTA_RULE_CHAIN:
			of.Name = ad.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					ad.Nested(b.expression)
				}
				return nil
			})
		}
	}
	if err := ad.Err(); err != nil {
		return of, nil, err
	}
	return of, b.rules(), nil
}

// ruleBuilder follows the expressions of a rule: what they put into registers, and what they
// compare there.
type ruleBuilder struct {
	chain    *Chain
	sets     reader
	loaded   map[uint32]loaded // by the byte that a register begins at
	rule     Rule
	choice   []Rule // of a verdict map: each with its own condition
	chosen   bool
	terminal bool
}

// loaded is what is in a register: a word of [Match], and how its bytes read.
type loaded struct {
	what string
	kind kind
	mask uint32 // of a bitwise before it; 0 for none
}

type kind uint8

const (
	opaque  kind = iota
	number1      // of one byte
	number2      // of two, big-endian
	host4        // of four, the host's order
	name         // of an interface
	bits         // of connection tracking, in the host's order
	route        // fib: 0 for none
)

// size in bytes; 0 for one that is not told.
func (k kind) size() int {
	switch k {
	case number1:
		return 1
	case number2:
		return 2
	case host4, bits, route:
		return 4
	case name:
		return unix.IFNAMSIZ
	}
	return 0
}

func (b *ruleBuilder) rules() []Rule {
	if !b.chosen {
		return []Rule{b.rule}
	}
	var all []Rule
	for _, r := range b.choice {
		all = append(all, Rule{Match: append(slices.Clip(b.rule.Match), r.Match...), Verdict: r.Verdict, To: r.To})
	}
	return all
}

// unknown adds a condition of which only its name is known.
func (b *ruleBuilder) unknown(what string) { b.rule.Match = append(b.rule.Match, Match{What: what}) }

// expression takes name and data; the kernel sends the name first.
func (b *ruleBuilder) expression(ad *netlink.AttributeDecoder) error {
	var kind string
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_EXPR_NAME:
			if kind = ad.String(); kind == "notrack" {
				return nil // has no data
			}
		case unix.NFTA_EXPR_DATA:
			attrs := make(map[uint16][]byte)
			ad.Nested(func(ad *netlink.AttributeDecoder) error {
				for ad.Next() {
					attrs[ad.Type()] = ad.Bytes()
				}
				return nil
			})
			if ad.Err() == nil && !b.terminal {
				return b.add(kind, attrs)
			}
		}
	}
	return nil
}

// add understands one expression (linux/netfilter/nf_tables.h).
func (b *ruleBuilder) add(expression string, attrs map[uint16][]byte) error {
	u32 := func(attr uint16) uint32 { return big(attrs[attr]) }
	switch expression {
	case "meta":
		if _, sets := attrs[unix.NFTA_META_SREG]; !sets {
			b.load(u32(unix.NFTA_META_DREG), metaWord(u32(unix.NFTA_META_KEY)))
		}
	case "ct":
		if _, sets := attrs[unix.NFTA_CT_SREG]; !sets {
			b.load(u32(unix.NFTA_CT_DREG), ctWord(u32(unix.NFTA_CT_KEY)))
		}
	case "payload":
		if _, sets := attrs[unix.NFTA_PAYLOAD_SREG]; !sets {
			b.load(u32(unix.NFTA_PAYLOAD_DREG), payloadWord(u32(unix.NFTA_PAYLOAD_BASE), u32(unix.NFTA_PAYLOAD_OFFSET), u32(unix.NFTA_PAYLOAD_LEN)))
		}
	case "fib":
		word := loaded{what: "fib"}
		if u32(unix.NFTA_FIB_RESULT) == unix.NFT_FIB_RESULT_OIF && u32(unix.NFTA_FIB_FLAGS)&unix.NFTA_FIB_F_SADDR != 0 {
			word = loaded{what: "reverse route", kind: route}
		}
		b.load(u32(unix.NFTA_FIB_DREG), word)
	case "bitwise":
		from := b.at(u32(unix.NFTA_BITWISE_SREG))
		mask, xor := nested(attrs[unix.NFTA_BITWISE_MASK]), nested(attrs[unix.NFTA_BITWISE_XOR])
		if from.kind == bits && len(mask) == 4 && bytes.Equal(xor, make([]byte, 4)) {
			from.mask = binary.NativeEndian.Uint32(mask)
		} else {
			from.kind = opaque
		}
		b.load(u32(unix.NFTA_BITWISE_DREG), from)
	case "cmp":
		from := b.at(u32(unix.NFTA_CMP_SREG))
		b.rule.Match = append(b.rule.Match, from.compare(u32(unix.NFTA_CMP_OP), nested(attrs[unix.NFTA_CMP_DATA])))
	case "range":
		from := b.at(u32(unix.NFTA_RANGE_SREG))
		m := from.between(nested(attrs[unix.NFTA_RANGE_FROM_DATA]), nested(attrs[unix.NFTA_RANGE_TO_DATA]))
		m.Not = u32(unix.NFTA_RANGE_OP) == unix.NFT_RANGE_NEQ
		b.rule.Match = append(b.rule.Match, m)
	case "lookup":
		return b.lookup(attrs)
	case "immediate":
		ad, err := netlink.NewAttributeDecoder(attrs[unix.NFTA_IMMEDIATE_DATA])
		if err != nil {
			return err
		}
		ad.ByteOrder = binary.BigEndian
		if u32(unix.NFTA_IMMEDIATE_DREG) == unix.NFT_REG_VERDICT {
			b.rule.Verdict, b.rule.To = verdict(ad)
			b.terminal = b.rule.Verdict != ""
			return ad.Err()
		}
		b.load(u32(unix.NFTA_IMMEDIATE_DREG), loaded{what: "a constant"})
	case "reject":
		b.rule.Verdict, b.terminal = "drop", true
	case "nat", "masq", "redir":
		b.rule.Verdict, b.terminal = "accept", true
	case "queue", "fwd", "tproxy", "synproxy":
		b.rule.Verdict, b.terminal = "queue", true
	case "match":
		b.match(text(attrs[unix.NFTA_MATCH_NAME]), u32(unix.NFTA_MATCH_REV), attrs[unix.NFTA_MATCH_INFO])
	case "target":
		b.target(text(attrs[unix.NFTA_TARGET_NAME]))
	case "limit", "quota", "connlimit":
		b.unknown(expression)
	case "counter", "log", "objref", "notrack", "dynset", "dup", "last", "secmark", "flow_offload":
		// They do something and go on. What a dynset limits is not looked at.
		if expression == "dynset" {
			b.unknown("dynset")
		}
	default:
		// It may load a register, and which one is not known: all are opaque from here on.
		b.loaded = map[uint32]loaded{}
		if conditional := expression == "inner" || expression == "osf"; conditional {
			b.unknown(expression)
		}
	}
	return nil
}

// registerAt returns where a register begins: four of 16 bytes, or sixteen of 4, share the same
// memory.
func registerAt(register uint32) uint32 {
	if register >= unix.NFT_REG32_00 {
		return (register - unix.NFT_REG32_00) * 4
	}
	return (register - unix.NFT_REG_1) * 16
}

// load puts a word into a register, over what was in its bytes.
func (b *ruleBuilder) load(register uint32, l loaded) {
	if b.loaded == nil {
		b.loaded = make(map[uint32]loaded)
	}
	b.loaded[registerAt(register)] = l
}

func (b *ruleBuilder) at(register uint32) loaded {
	l, ok := b.loaded[registerAt(register)]
	if !ok {
		return loaded{what: "something"}
	}
	return l
}

func metaWord(key uint32) loaded {
	switch key {
	case unix.NFT_META_L4PROTO:
		return loaded{what: "l4proto", kind: number1}
	case unix.NFT_META_NFPROTO:
		return loaded{what: "nfproto", kind: number1}
	case unix.NFT_META_PROTOCOL:
		return loaded{what: "protocol", kind: number2}
	case unix.NFT_META_IIF:
		return loaded{what: "iif", kind: host4}
	case unix.NFT_META_OIF:
		return loaded{what: "oif", kind: host4}
	case unix.NFT_META_IIFNAME:
		return loaded{what: "iifname", kind: name}
	case unix.NFT_META_OIFNAME:
		return loaded{what: "oifname", kind: name}
	case nftMetaSecpath:
		return loaded{what: "secpath", kind: number1}
	case unix.NFT_META_MARK:
		return loaded{what: "mark"}
	case unix.NFT_META_PKTTYPE:
		return loaded{what: "pkttype"}
	}
	return loaded{what: fmt.Sprintf("meta key %d", key)}
}

// payloadWord: offsets of the IPv4 and IPv6 header have words of their own, since a rule that
// looks at one says nothing of packets of the other.
func payloadWord(base, offset, length uint32) loaded {
	type place struct{ base, offset, length uint32 }
	switch (place{base, offset, length}) {
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 9, 1}:
		return loaded{what: "ip protocol", kind: number1}
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 6, 1}:
		return loaded{what: "ip6 nexthdr", kind: number1}
	case place{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2}:
		return loaded{what: "sport", kind: number2}
	case place{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2}:
		return loaded{what: "dport", kind: number2}
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4}:
		return loaded{what: "ip saddr"}
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4}:
		return loaded{what: "ip daddr"}
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 8, 16}:
		return loaded{what: "ip6 saddr"}
	case place{unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16}:
		return loaded{what: "ip6 daddr"}
	}
	return loaded{what: fmt.Sprintf("%d bytes at %d", length, offset)}
}

// number reads a value of a loaded word.
func (l loaded) number(b []byte) (uint64, bool) {
	switch {
	case len(b) < l.kind.size():
		return 0, false
	case l.kind == number1:
		return uint64(b[0]), true
	case l.kind == number2:
		return uint64(binary.BigEndian.Uint16(b)), true
	case l.kind == host4 || l.kind == route:
		return uint64(binary.NativeEndian.Uint32(b)), true
	}
	return 0, false
}

// compare is a cmp expression.
func (l loaded) compare(op uint32, data []byte) Match {
	m := Match{What: l.what, Not: op == unix.NFT_CMP_NEQ}
	equal := op == unix.NFT_CMP_EQ || op == unix.NFT_CMP_NEQ
	switch n, isNumber := l.number(data); {
	case l.kind == name && equal:
		// nft compares no more bytes than a name with a star has.
		if before, _, whole := bytes.Cut(data, []byte{0}); whole {
			m.In = []string{string(before)}
		} else {
			m.In = []string{string(data) + "*"}
		}
	case l.kind == bits && l.mask != 0 && equal && len(data) == 4 && binary.NativeEndian.Uint32(data) == 0:
		// `ct state established,related` asks whether any of these bits is set.
		m.In, m.Not = l.bitNames(l.mask), op == unix.NFT_CMP_EQ
	case l.kind == bits && l.mask == 0 && equal && len(data) == 4:
		m.In = l.bitNames(binary.NativeEndian.Uint32(data))
	case l.kind == route && equal && isNumber && n == 0:
		m.In = []string{"missing"}
	case l.kind == opaque || l.kind == bits || l.kind == route || l.kind == name || !isNumber:
		return Match{What: l.what + " …"}
	case equal:
		m.In = []string{strconv.FormatUint(n, 10)}
	case op == unix.NFT_CMP_LT && n == 0:
		m.In = []string{"none"}
	case op == unix.NFT_CMP_LT:
		m.In = []string{interval(0, n-1)}
	case op == unix.NFT_CMP_LTE:
		m.In = []string{interval(0, n)}
	case op == unix.NFT_CMP_GT:
		m.In = []string{interval(n+1, 1<<32)}
	case op == unix.NFT_CMP_GTE:
		m.In = []string{interval(n, 1<<32)}
	}
	return m
}

func interval(low, high uint64) string {
	if low == high {
		return strconv.FormatUint(low, 10)
	}
	return strconv.FormatUint(low, 10) + "-" + strconv.FormatUint(high, 10)
}

// between is a range expression, without its negation.
func (l loaded) between(low, high []byte) Match {
	from, ok1 := l.number(low)
	to, ok2 := l.number(high)
	if !ok1 || !ok2 || l.kind == host4 || l.kind == route {
		return Match{What: l.what + " …"}
	}
	return Match{What: l.what, In: []string{interval(from, to)}}
}

// ctBits are the bits of connection tracking (linux/netfilter/nf_conntrack_common.h), by word.
var ctBits = map[string][]struct {
	bit  uint32
	name string
}{
	"ct state":  {{1 << 0, "invalid"}, {1 << 1, "established"}, {1 << 2, "related"}, {1 << 3, "new"}, {1 << 6, "untracked"}},
	"ct status": {{1 << 0, "expected"}, {1 << 1, "seen-reply"}, {1 << 2, "assured"}, {1 << 3, "confirmed"}, {1 << 4, "snat"}, {1 << 5, "dnat"}, {1 << 9, "dying"}},
}

func ctWord(key uint32) loaded {
	switch key {
	case unix.NFT_CT_STATE:
		return loaded{what: "ct state", kind: bits}
	case unix.NFT_CT_STATUS:
		return loaded{what: "ct status", kind: bits}
	}
	return loaded{what: "ct"}
}

func (l loaded) bitNames(mask uint32) []string {
	in := []string{}
	for _, b := range ctBits[l.what] {
		if mask&b.bit != 0 {
			in = append(in, b.name)
		}
	}
	return in
}

// lookup asks a set, or a map for the verdict.
func (b *ruleBuilder) lookup(attrs map[uint16][]byte) error {
	from := b.at(big(attrs[unix.NFTA_LOOKUP_SREG]))
	set := text(attrs[unix.NFTA_LOOKUP_SET])
	target, isMap := attrs[unix.NFTA_LOOKUP_DREG]
	verdicts := isMap && big(target) == unix.NFT_REG_VERDICT
	if isMap && !verdicts {
		b.load(big(target), loaded{what: "a map's value"})
	}
	if from.kind == opaque && !verdicts {
		b.unknown(from.what + " @" + set) // nothing would be known after reading it either
		return nil
	}
	elements, err := b.sets(b.chain.Family, b.chain.Table, set)
	if err != nil {
		return err
	}
	if !verdicts {
		m := from.among(elements)
		m.Not = big(attrs[unix.NFTA_LOOKUP_FLAGS])&unix.NFT_LOOKUP_F_INV != 0
		b.rule.Match = append(b.rule.Match, m)
		return nil
	}
	b.chosen, b.terminal = true, true
	for _, e := range elements {
		if e.ends {
			continue
		}
		m := from.among([]element{e})
		if slices.ContainsFunc(elements, func(e element) bool { return e.ends }) {
			m = Match{What: from.what + " …"} // ranges of a map: rare, and not followed
		}
		b.choice = append(b.choice, Rule{Match: []Match{m}, Verdict: e.verdict, To: e.to})
	}
	return nil
}

// among is the condition that a value is in a set. A concatenation of several values is not
// followed.
func (l loaded) among(elements []element) Match {
	opaqueSet := Match{What: l.what + " …"}
	if slices.ContainsFunc(elements, func(e element) bool { return len(e.key) != l.kind.size() || e.last != nil }) {
		return opaqueSet
	}
	m := Match{What: l.what, In: []string{}}
	intervals := slices.ContainsFunc(elements, func(e element) bool { return e.ends })
	switch {
	case l.kind == bits && l.mask == 0 && !intervals:
		for _, e := range elements {
			m.In = append(m.In, l.bitNames(binary.NativeEndian.Uint32(e.key))...)
		}
		return m
	case l.kind == name && !intervals:
		for _, e := range elements {
			before, _, _ := bytes.Cut(e.key, []byte{0})
			m.In = append(m.In, string(before))
		}
		return m
	case l.kind != number1 && l.kind != number2 && (l.kind != host4 || intervals):
		return opaqueSet
	}
	if !intervals {
		for _, e := range elements {
			n, _ := l.number(e.key)
			m.In = append(m.In, strconv.FormatUint(n, 10))
		}
		return m
	}
	// Each element begins a range or, marked so, ends one; the last may be open.
	elements = slices.Clone(elements)
	slices.SortStableFunc(elements, func(a, b element) int { return bytes.Compare(a.key, b.key) })
	for i, e := range elements {
		if e.ends {
			continue
		}
		low, _ := l.number(e.key)
		high := uint64(1)<<(8*l.kind.size()) - 1
		if i+1 < len(elements) {
			next, _ := l.number(elements[i+1].key)
			if high = next - 1; next <= low {
				continue
			}
		}
		m.In = append(m.In, interval(low, high))
	}
	return m
}

// match is one of xtables', as iptables-nft leaves those that nft has no words for.
func (b *ruleBuilder) match(what string, revision uint32, info []byte) {
	switch {
	case what == "comment":
	case what == "conntrack" && revision >= 2 && len(info) >= 156:
		b.conntrack(info)
	case (what == "udp" || what == "tcp") && len(info) >= 9:
		// struct xt_udp: source ports, destination ports, inverse flags; xt_tcp has an option
		// and flags between.
		at := 8
		if what == "tcp" {
			if len(info) < 12 || info[8] != 0 || info[9] != 0 {
				b.unknown("match tcp")
				return
			}
			at = 11
		}
		b.ports("sport", info[0:4], info[at]&1 != 0)
		b.ports("dport", info[4:8], info[at]&2 != 0)
	default:
		b.unknown("match " + what)
	}
}

func (b *ruleBuilder) ports(what string, pair []byte, not bool) {
	low, high := binary.NativeEndian.Uint16(pair), binary.NativeEndian.Uint16(pair[2:])
	if low != 0 || high != 0xffff || not {
		b.rule.Match = append(b.rule.Match, Match{What: what, Not: not, In: []string{interval(uint64(low), uint64(high))}})
	}
}

// conntrack reads struct xt_conntrack_mtinfo2 and 3 (linux/netfilter/xt_conntrack.h): eight
// addresses and masks, two times, five numbers of 16 bits; then flags, inverse flags and states.
func (b *ruleBuilder) conntrack(info []byte) {
	const flags, inverse, mask, stateFlag = 146, 148, 150, 1
	asked := binary.NativeEndian.Uint16(info[flags:])
	if asked&stateFlag != 0 {
		b.rule.Match = append(b.rule.Match, Match{
			What: "ct state",
			Not:  binary.NativeEndian.Uint16(info[inverse:])&stateFlag != 0,
			In:   ctWord(unix.NFT_CT_STATE).bitNames(uint32(binary.NativeEndian.Uint16(info[mask:]))),
		})
	}
	if asked&^stateFlag != 0 {
		b.unknown("match conntrack")
	}
}

// target is one of xtables'.
func (b *ruleBuilder) target(what string) {
	switch what {
	case "REJECT":
		b.rule.Verdict, b.terminal = "drop", true
	case "LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "TOS", "DSCP", "TTL", "HL", "CT", "NOTRACK", "CHECKSUM",
		"CLASSIFY", "TRACE", "SET", "SECMARK", "CONNSECMARK", "AUDIT":
	case "MASQUERADE", "SNAT", "DNAT", "REDIRECT", "NETMAP":
		b.rule.Verdict, b.terminal = "accept", true
	default:
		b.rule.Verdict, b.terminal = "queue", true
	}
}

// nested is the bytes of a nested NFTA_DATA_VALUE.
func nested(b []byte) []byte {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil
	}
	return value(ad)
}

// big is a number of nftables', 0 if it is not there.
func big(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func text(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}
