package firewall

import (
	"strconv"
	"strings"
)

// Chain is a chain of nftables.
type Chain struct {
	Family  string   `yaml:"family"` // "ip", "ip6", "inet", "netdev", "arp", "bridge"
	Table   string   `yaml:"table"`
	Name    string   `yaml:"name"`
	Hook    string   `yaml:"hook"`    // "input", "output", …; "" for a chain that others jump to
	Devices []string `yaml:"devices"` // of the hooks ingress and egress
	Type    string   `yaml:"type"`    // "filter", "route", "nat"; "" without a hook
	Drops   bool     `yaml:"drops"`   // by policy, what no rule decides on
	Rules   []Rule   `yaml:"rules"`
}

// String is as nft lists it: "inet filter input".
func (c *Chain) String() string { return c.Family + " " + c.Table + " " + c.Name }

// Rule of a chain. What a rule does besides (count, log, mark) is left out.
type Rule struct {
	Match []Match `yaml:"match"` // all of them
	// Verdict is "accept", "drop", "reject", "jump", "goto", "return", or "" to go on. Any other
	// is one of which nobody here knows what comes out, as "queue".
	Verdict string `yaml:"verdict"`
	To      string `yaml:"to"`     // the chain of jump and goto
	Handle  uint64 `yaml:"handle"` // by which nft names it; 0 for none
}

// Match is a condition on packets: one of the words a [Packet] knows about itself. Any other
// word describes a condition of which nobody here knows whether packets meet it.
type Match struct {
	What string   `yaml:"what"` // "l4proto", "iifname", "ct state", …
	Not  bool     `yaml:"not"`
	In   []string `yaml:"in"` // numbers, ranges of them "500-4500", or names "p4*"
}

// String is as nft lists it, or nearly so.
func (r Rule) String() string {
	var words []string
	for _, m := range r.Match {
		words = append(words, m.String())
	}
	if r.Verdict != "" {
		words = append(words, r.Verdict)
	}
	if r.To != "" {
		words = append(words, r.To)
	}
	if r.Handle != 0 {
		words = append(words, "# handle "+strconv.FormatUint(r.Handle, 10))
	}
	return strings.Join(words, " ")
}

// String is as nft has it: `meta l4proto { esp, udp }`.
func (m Match) String() string {
	what := m.What
	if as, ok := nftWords[what]; ok {
		what = as
	}
	if m.Not {
		what += " !="
	}
	in := make([]string, 0, 5)
	for _, v := range m.In {
		if len(in) == 4 {
			in = append(in, "…")
			break
		}
		in = append(in, m.name(v))
	}
	switch len(in) {
	case 0:
		return what
	case 1:
		return what + " " + in[0]
	}
	return what + " { " + strings.Join(in, ", ") + " }"
}

// nftWords are nft's for words that say less here.
var nftWords = map[string]string{
	"l4proto": "meta l4proto", "nfproto": "meta nfproto", "protocol": "meta protocol", "secpath": "meta secpath",
	"sport": "th sport", "dport": "th dport", "reverse route": "fib saddr oif",
}

// name is nft's of a value.
func (m Match) name(value string) string {
	switch m.What {
	case "iifname", "oifname":
		return strconv.Quote(value)
	case "l4proto", "ip protocol", "ip6 nexthdr":
		if as, ok := map[string]string{"1": "icmp", "6": "tcp", "17": "udp", "50": "esp", "51": "ah", "58": "ipv6-icmp"}[value]; ok {
			return as
		}
	case "nfproto":
		if as, ok := map[string]string{IPv4: "ipv4", IPv6: "ipv6"}[value]; ok {
			return as
		}
	case "protocol":
		if as, ok := map[string]string{"2048": "ip", "34525": "ip6", "2054": "arp"}[value]; ok {
			return as
		}
	}
	return value
}
