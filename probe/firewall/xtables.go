package firewall

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

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
		b.rule.Verdict, b.terminal = "reject", true
	case "LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "TOS", "DSCP", "TTL", "HL", "CT", "NOTRACK", "CHECKSUM",
		"CLASSIFY", "TRACE", "SET", "SECMARK", "CONNSECMARK", "AUDIT":
	case "MASQUERADE", "SNAT", "DNAT", "REDIRECT", "NETMAP":
		b.rule.Verdict, b.terminal = "accept", true
	default:
		b.rule.Verdict, b.terminal = "queue", true
	}
}
