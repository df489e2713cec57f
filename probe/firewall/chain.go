package firewall

import "strings"

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
	// Verdict is "accept", "drop" (reject, too), "jump", "goto", "return", or "" to go on. Any
	// other is one of which nobody here knows what comes out, as "queue".
	Verdict string `yaml:"verdict"`
	To      string `yaml:"to"` // the chain of jump and goto
}

// Match is a condition on packets: one of the words a [packet] knows about itself. Any other
// word describes a condition of which nobody here knows whether packets meet it.
type Match struct {
	What string   `yaml:"what"` // "l4proto", "iifname", "ct state", …
	Not  bool     `yaml:"not"`
	In   []string `yaml:"in"` // numbers, ranges of them "500-4500", or names "p4*"
}

// String is close to what nft lists.
func (r Rule) String() string {
	var b strings.Builder
	for _, m := range r.Match {
		b.WriteString(m.What)
		if m.Not {
			b.WriteString(" !=")
		}
		if len(m.In) > 4 {
			b.WriteString(" {" + strings.Join(m.In[:4], ", ") + ", …}")
		} else if len(m.In) > 1 {
			b.WriteString(" {" + strings.Join(m.In, ", ") + "}")
		} else if len(m.In) == 1 {
			b.WriteString(" " + m.In[0])
		}
		b.WriteByte(' ')
	}
	b.WriteString(r.Verdict)
	if r.To != "" {
		b.WriteString(" " + r.To)
	}
	return strings.TrimSuffix(b.String(), " ")
}
