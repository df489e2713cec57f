package firewall

import (
	"bytes"
	"encoding/binary"
	"slices"

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
		case unix.NFTA_RULE_HANDLE:
			b.rule.Handle = ad.Uint64()
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

func (b *ruleBuilder) rules() []Rule {
	if !b.chosen {
		return []Rule{b.rule}
	}
	var all []Rule
	for _, r := range b.choice {
		all = append(all, Rule{Match: append(slices.Clip(b.rule.Match), r.Match...), Verdict: r.Verdict, To: r.To, Handle: b.rule.Handle})
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
		b.rule.Verdict, b.terminal = "reject", true
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
