package guard

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"espalier/ipsec"
)

// The comment of a rule is the entry it stands for, in words a person reads in
// `nft list ruleset` and a restarted process reads back:
//
//	out protect 10.0.0.0/24 > 10.1.0.0/24 proto 6 dport 443 prio 100
//
// "use" is a Protect whose processing is all optional. A port under a mask is written
// 0x1200/0xff00. The longest comment has 191 bytes; nftables keeps 253.
var (
	directionWords = map[ipsec.Direction]string{ipsec.Inbound: "in", ipsec.Outbound: "out", ipsec.Forward: "fwd"}
	actionWords    = map[ipsec.Action]string{ipsec.Protect: "protect", ipsec.Bypass: "bypass", ipsec.Discard: "discard"}
)

const optionalWord = "use"

func (e *entry) comment() string {
	s := &e.Selector
	action := actionWords[e.Action]
	if e.Optional {
		action = optionalWord
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s > %s", directionWords[e.Direction], action, prefixWord(s.Src), prefixWord(s.Dst))
	if s.Protocol != 0 {
		fmt.Fprintf(&b, " proto %d", s.Protocol)
	}
	if s.SrcPort != (ipsec.PortMatch{}) {
		b.WriteString(" sport " + portWord(s.SrcPort))
	}
	if s.DstPort != (ipsec.PortMatch{}) {
		b.WriteString(" dport " + portWord(s.DstPort))
	}
	if s.Interface != 0 {
		fmt.Fprintf(&b, " dev %d", s.Interface)
	}
	if e.Mask != 0 {
		fmt.Fprintf(&b, " mark %#x/%#x", e.Mark, e.Mask)
	}
	fmt.Fprintf(&b, " prio %d", e.Priority)
	return b.String()
}

func prefixWord(p netip.Prefix) string {
	switch {
	case !p.IsValid():
		return "any"
	case p.IsSingleIP():
		return p.Addr().String()
	}
	return p.String()
}

func portWord(m ipsec.PortMatch) string {
	if m.Mask == 0xffff {
		return strconv.Itoa(int(m.Value))
	}
	return fmt.Sprintf("%#04x/%#04x", m.Value, m.Mask)
}

// isEntryComment reports whether a comment claims to stand for an entry.
func isEntryComment(s string) bool {
	first, _, _ := strings.Cut(s, " ")
	for _, word := range directionWords {
		if first == word {
			return true
		}
	}
	return false
}

// parseComment is the inverse of comment.
func parseComment(text string) (entry, error) {
	var e entry
	words := strings.Fields(text)
	if len(words) < 7 || len(words)%2 == 0 || words[3] != ">" {
		return e, fmt.Errorf("%q is not a policy", text)
	}
	ok := parseWord(directionWords, words[0], &e.Direction)
	if words[1] == optionalWord {
		e.Optional = true // Action is Protect, its zero value
	} else {
		ok = parseWord(actionWords, words[1], &e.Action) && ok
	}
	ok = parsePrefix(words[2], &e.Selector.Src) && parsePrefix(words[4], &e.Selector.Dst) && ok
	seen := map[string]bool{}
	for i := 5; i < len(words) && ok; i += 2 {
		name, value := words[i], words[i+1]
		ok = !seen[name] && parseOption(&e, name, value)
		seen[name] = true
	}
	if !ok || !seen["prio"] {
		return entry{}, fmt.Errorf("%q is not a policy", text)
	}
	if err := e.validate(); err != nil {
		return entry{}, fmt.Errorf("%q: %w", text, err)
	}
	return e, nil
}

func parseOption(e *entry, name, value string) bool {
	switch s := &e.Selector; name {
	case "proto":
		return parseNumber(value, 8, &s.Protocol)
	case "sport":
		return parsePort(value, &s.SrcPort)
	case "dport":
		return parsePort(value, &s.DstPort)
	case "dev":
		return parseNumber(value, 31, &s.Interface)
	case "prio":
		return parseNumber(value, 32, &e.Priority)
	}
	return false
}

func parseWord[T comparable](words map[T]string, word string, to *T) bool {
	for value, w := range words {
		if w == word {
			*to = value
			return true
		}
	}
	return false
}

func parsePrefix(word string, to *netip.Prefix) bool {
	if word == "any" {
		return true
	}
	if addr, err := netip.ParseAddr(word); err == nil {
		*to = netip.PrefixFrom(addr, addr.BitLen())
		return addr.Zone() == ""
	}
	addr, length, _ := strings.Cut(word, "/")
	a, err := netip.ParseAddr(addr)
	var bits uint8
	if err != nil || a.Zone() != "" || !parseNumber(length, 8, &bits) {
		return false
	}
	// netip.ParsePrefix refuses IPv4-mapped addresses, a selector may hold them.
	*to = netip.PrefixFrom(a, int(bits))
	return to.IsValid()
}

func parsePort(word string, to *ipsec.PortMatch) bool {
	value, mask, masked := strings.Cut(word, "/")
	if !masked {
		to.Mask = 0xffff
		return parseNumber(value, 16, &to.Value)
	}
	value, hexValue := strings.CutPrefix(value, "0x")
	mask, hexMask := strings.CutPrefix(mask, "0x")
	v, errValue := strconv.ParseUint(value, 16, 16)
	m, errMask := strconv.ParseUint(mask, 16, 16)
	to.Value, to.Mask = uint16(v), uint16(m)
	return hexValue && hexMask && errValue == nil && errMask == nil
}

func parseNumber[T uint8 | uint16 | uint32 | int](word string, bits int, to *T) bool {
	n, err := strconv.ParseUint(word, 10, bits)
	*to = T(n)
	return err == nil
}
