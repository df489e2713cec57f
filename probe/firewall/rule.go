package firewall

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// reader reads the elements of a set.
type reader func(family, table, set string) ([]element, error)

// decodeRule returns the chain that a rule is of, and what the rule comes to: several, if it
// looks its verdict up in a map.
func decodeRule(data []byte, sets reader) (of Chain, rules []Rule, err error) {
	if len(data) < nfgenmsg {
		return of, nil, errCut
	}
	of.Family = nftFamilies[data[0]]
	b := ruleBuilder{chain: &of, sets: sets}
	for list := data[nfgenmsg:]; len(list) > 0; {
		kind, value, rest, err := next(list)
		if err != nil {
			return of, nil, err
		}
		switch kind {
		case unix.NFTA_RULE_TABLE:
			of.Table = text(value)
		case unix.NFTA_RULE_CHAIN:
			of.Name = text(value)
		case unix.NFTA_RULE_HANDLE:
			if len(value) >= 8 {
				b.rule.Handle = binary.BigEndian.Uint64(value)
			}
		case unix.NFTA_RULE_EXPRESSIONS:
			for _, e := range attributes(value) {
				if err := b.expression(e); err != nil {
					return of, nil, err
				}
			}
		}
		list = rest
	}
	return of, b.rules(), nil
}

// ruleBuilder follows the expressions of a rule: what they put into registers, and what they
// compare there.
type ruleBuilder struct {
	chain    *Chain
	sets     reader
	loaded   []register
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
func (b *ruleBuilder) expression(list []byte) error {
	var name []byte
	for kind, value := range attributes(list) {
		switch kind {
		case unix.NFTA_EXPR_NAME:
			name, _, _ = bytes.Cut(value, []byte{0})
		case unix.NFTA_EXPR_DATA:
			if b.terminal || string(name) == "notrack" { // which has no data
				return nil
			}
			attrs, err := numberedOf(value)
			if err != nil {
				return err
			}
			return b.add(name, &attrs)
		}
	}
	return nil
}

// add understands one expression (linux/netfilter/nf_tables.h).
func (b *ruleBuilder) add(name []byte, attrs *numbered) error {
	u32 := func(attr uint16) uint32 { return big(attrs[attr]) }
	switch string(name) {
	case "meta":
		if attrs[unix.NFTA_META_SREG] == nil {
			b.load(u32(unix.NFTA_META_DREG), metaWord(u32(unix.NFTA_META_KEY)))
		}
	case "ct":
		if attrs[unix.NFTA_CT_SREG] == nil {
			b.load(u32(unix.NFTA_CT_DREG), ctWord(u32(unix.NFTA_CT_KEY)))
		}
	case "payload":
		if attrs[unix.NFTA_PAYLOAD_SREG] == nil {
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
		if u32(unix.NFTA_IMMEDIATE_DREG) == unix.NFT_REG_VERDICT {
			b.rule.Verdict, b.rule.To = verdict(attrs[unix.NFTA_IMMEDIATE_DATA])
			b.terminal = b.rule.Verdict != ""
			return nil
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
		b.unknown(string(name))
	case "counter", "log", "objref", "notrack", "dynset", "dup", "last", "secmark", "flow_offload":
		// They do something and go on. What a dynset limits is not looked at.
		if string(name) == "dynset" {
			b.unknown("dynset")
		}
	default:
		// It may load a register, and which one is not known: all are opaque from here on.
		b.loaded = nil
		if conditional := string(name) == "inner" || string(name) == "osf"; conditional {
			b.unknown(string(name))
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

// register is what was put into one.
type register struct {
	at uint32 // the byte that it begins at
	loaded
}

// load puts a word into a register, over what was in its bytes.
func (b *ruleBuilder) load(number uint32, l loaded) {
	at := registerAt(number)
	for i := range b.loaded {
		if b.loaded[i].at == at {
			b.loaded[i].loaded = l
			return
		}
	}
	b.loaded = append(b.loaded, register{at, l})
}

func (b *ruleBuilder) at(number uint32) loaded {
	at := registerAt(number)
	for i := range b.loaded {
		if b.loaded[i].at == at {
			return b.loaded[i].loaded
		}
	}
	return loaded{what: "something"}
}

// lookup asks a set, or a map for the verdict.
func (b *ruleBuilder) lookup(attrs *numbered) error {
	from := b.at(big(attrs[unix.NFTA_LOOKUP_SREG]))
	set := text(attrs[unix.NFTA_LOOKUP_SET])
	target := attrs[unix.NFTA_LOOKUP_DREG]
	isMap := target != nil
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
func nested(list []byte) (b []byte) {
	for kind, value := range attributes(list) {
		if kind == unix.NFTA_DATA_VALUE {
			b = value
		}
	}
	return b
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
