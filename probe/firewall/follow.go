package firewall

import (
	"slices"
	"strings"
)

// fate is what may become of a packet: several, where conditions are not known.
type fate struct {
	accepted bool
	dropped  bool
	passed   bool // the chain has no opinion
	by       Decision
}

func (f *fate) drop(by Decision) {
	if !f.dropped {
		f.dropped, f.by = true, by
	}
}

// walk follows a packet through chains.
type walk struct {
	packet Packet
	chains map[string]*Chain // of one table
	seen   map[string]fate   // a chain decides alike whoever jumps to it
}

// chain returns the packet's fate in a chain, without its policy. Chains do not jump in circles,
// the kernel sees to that; if they do, the packet passes.
func (w *walk) chain(c *Chain) fate {
	if f, ok := w.seen[c.Name]; ok {
		return f
	}
	w.seen[c.Name] = fate{passed: true}
	var f fate
	for i := range c.Rules {
		r := &c.Rules[i]
		applies := w.packet.applies(r)
		if applies == no {
			continue
		}
		decided := w.verdict(c, r, &f)
		if decided && applies == yes {
			w.seen[c.Name] = f
			return f
		}
	}
	f.passed = true
	w.seen[c.Name] = f
	return f
}

// verdict adds what a rule that may apply does, and tells whether it leaves nothing to those
// behind it.
func (w *walk) verdict(c *Chain, r *Rule, f *fate) (decided bool) {
	switch r.Verdict {
	case "":
		return false
	case "accept":
		f.accepted = true
	case "drop", "reject":
		f.drop(Decision{Chain: c.String(), Rule: r.String()})
	case "return":
		f.passed = true
	case "jump", "goto":
		to, ok := w.chains[r.To]
		if !ok {
			f.accepted = true
			f.drop(Decision{Chain: c.String(), Rule: r.String()})
			return true
		}
		there := w.chain(to)
		f.accepted = f.accepted || there.accepted
		if there.dropped {
			f.drop(there.by)
		}
		if !there.passed {
			return true
		}
		if r.Verdict == "jump" {
			return false
		}
		f.passed = true // goto does not come back to this chain
	default:
		f.accepted = true
		f.drop(Decision{Chain: c.String(), Rule: r.String()})
	}
	return true
}

// Decision of a base chain, or of one that it jumps to, against a packet.
type Decision struct {
	Certain bool   // else it depends on what is not known of the packet, or of the rules
	Chain   string // whose rule it is: "inet filter input"
	Rule    string // the first that drops the packet, or may: "meta l4proto esp drop", "policy drop"
}

// Pass follows a packet through the chains of a hook, on a device, and returns what is decided
// against it there, by each base chain that does: nothing if the packet passes.
func Pass(chains []Chain, hook, device string, p Packet) []Decision {
	tables := make(map[string]map[string]*Chain)
	for i := range chains {
		c := &chains[i]
		key := c.Family + " " + c.Table
		if tables[key] == nil {
			tables[key] = make(map[string]*Chain)
		}
		tables[key][c.Name] = c
	}
	var against []Decision
	for i := range chains {
		c := &chains[i]
		if c.Hook != hook || !c.filters() || !sees(c, device, p) || IsGuard(c) {
			continue
		}
		w := walk{packet: p, chains: tables[c.Family+" "+c.Table], seen: make(map[string]fate)}
		f := w.chain(c)
		if f.passed {
			if c.Drops {
				f.drop(Decision{Chain: c.String(), Rule: "policy drop"})
			} else {
				f.accepted = true
			}
		}
		if f.dropped {
			f.by.Certain = !f.accepted
			against = append(against, f.by)
		}
	}
	return against
}

// sees tells whether packets of a kind, on a device, come to a base chain.
func sees(c *Chain, device string, p Packet) bool {
	switch c.Family {
	case "ip":
		return p["nfproto"] == IPv4
	case "ip6":
		return p["nfproto"] == IPv6
	case "inet":
		return c.Hook != "ingress" || slices.Contains(c.Devices, device)
	case "netdev":
		return slices.Contains(c.Devices, device)
	}
	return false
}

// IsGuard: espalier's own guard, of a device or of the host, lets ESP and its encapsulation through.
func IsGuard(c *Chain) bool {
	return c.Family == "netdev" && strings.HasPrefix(c.Table, "espalier_") || c.Family == "inet" && c.Table == "espalier"
}
