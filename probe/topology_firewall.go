package probe

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"espalier/probe/firewall"
)

// firewallChecks follow ESP and its UDP encapsulation through the firewall, in and out. Forwarding
// is not asked about: ESP ends at the host whose SAs these are.
func (s *survey) firewallChecks(d *device) []Check {
	return []Check{
		s.firewallCheck(d, Check{ID: "topology.firewall-esp", Title: "ESP through the firewall", Weight: Warns}, firewall.ESP),
		s.firewallCheck(d, Check{ID: "topology.firewall-udp", Title: "UDP 4500 through the firewall", Weight: Warns},
			func(nfproto string) firewall.Packet { return firewall.UDP(nfproto, natPort) }),
	}
}

// natPort is that of UDP encapsulation (RFC 3948).
const natPort = 4500

// hooks a packet passes: those of its device first coming in, last going out.
var (
	hooksIn  = []string{"ingress", "prerouting", "input"}
	hooksOut = []string{"output", "postrouting", "egress"}
)

func (s *survey) firewallCheck(d *device, c Check, first func(nfproto string) firewall.Packet) Check {
	c.Evidence = []Evidence{{"nft list ruleset", ""}}
	chains, err := s.chains()
	if err != nil {
		c.Why = "rules not read: " + unread(err)
		return c
	}
	c.Evidence[0].Value = fmt.Sprintf("%d chains", len(chains))
	c.Answer, c.Why = Yes, "no rule drops it"
	if len(chains) == 0 {
		c.Why = "no rules"
	} else if slices.ContainsFunc(chains, func(c firewall.Chain) bool { return firewall.IsGuard(&c) && slices.Contains(c.Devices, d.Name) }) {
		c.Evidence = append(c.Evidence, Evidence{"nft list tables", "espalier's own guard, which lets ESP through"})
	}
	worst := firewall.Passes
	for _, nfproto := range d.families() {
		for _, way := range []struct {
			word  string
			hooks []string
			p     firewall.Packet
		}{{"coming in", hooksIn, first(nfproto).In(d.Name, d.Index)}, {"going out", hooksOut, first(nfproto).Out(d.Name, d.Index)}} {
			for _, hook := range way.hooks {
				outcome, by := firewall.Pass(chains, hook, d.Name, way.p)
				if outcome <= worst {
					continue
				}
				worst = outcome
				chain, rule, _ := strings.Cut(by, ": ")
				c.Evidence = append(c.Evidence[:1:1], Evidence{"nft list chain " + chain, rule})
				if c.Answer = Unknown; outcome == firewall.Dropped {
					c.Answer = No
					c.Why = fmt.Sprintf("dropped %s over %s: %s", way.word, familyName(nfproto), by)
					c.Fix = firewallFix(chains, chain, first(nfproto))
				} else {
					c.Why = fmt.Sprintf("%s over %s it depends on what is not known here, as addresses: %s", way.word, familyName(nfproto), by)
				}
			}
		}
	}
	if c.Answer == Yes {
		return s.legacyCheck(c)
	}
	return c
}

// legacyCheck: rules of iptables-legacy are not nftables', and are not followed here. Its
// tables are there once somebody has looked at them.
func (s *survey) legacyCheck(c Check) Check {
	for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
		file := "proc/net/" + name
		tables, err := s.netFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			c.Answer, c.Why = Unknown, "rules of iptables-legacy not seen: "+unread(err)
			c.Evidence = append(c.Evidence, Evidence{"/" + file, ""})
			return c
		}
		if words := strings.Fields(string(tables)); len(words) > 0 {
			c.Answer, c.Why = Unknown, "iptables-legacy has tables, whose rules are not read here: look with iptables-legacy -S"
			c.Evidence = append(c.Evidence, Evidence{"/" + file, strings.Join(words, " ")})
			return c
		}
	}
	return c
}

// firewallFix is in the words of whoever wrote the chain that drops, as far as its name tells.
func firewallFix(chains []firewall.Chain, chain string, p firewall.Packet) string {
	esp := p["l4proto"] == firewall.ESP(p["nfproto"])["l4proto"]
	match, words := "meta l4proto esp", "-p esp"
	if !esp {
		match, words = "udp dport 4500", "-p udp --dport 4500"
	}
	family, name, xtables := strings.Cut(chain, " filter ")
	xtables = xtables && (family == "ip" || family == "ip6")
	has := func(prefix string) bool {
		return slices.ContainsFunc(chains, func(c firewall.Chain) bool { return strings.HasPrefix(c.String(), prefix) })
	}
	switch {
	case strings.HasPrefix(chain, "inet firewalld ") && esp:
		return "firewall-cmd --permanent --add-protocol=esp; firewall-cmd --reload"
	case strings.HasPrefix(chain, "inet firewalld "):
		return "firewall-cmd --permanent --add-port=4500/udp; firewall-cmd --reload"
	case xtables && has(family+" filter ufw") && esp:
		return "ufw allow proto esp from PEER"
	case xtables && has(family+" filter ufw"):
		return "ufw allow 4500/udp"
	case xtables && has(family+" filter INPUT"): // iptables' nftables half
		return fmt.Sprintf("%stables -I %s %s -j ACCEPT; and where these rules are kept", family, name, words)
	}
	return fmt.Sprintf("nft insert rule %s %s accept; and in /etc/nftables.conf, so that it lasts", chain, match)
}

// families of the device's addresses that peers elsewhere can reach: IPv4 if there is none at all.
func (d *device) families() []string {
	var families []string
	v4, v6 := false, false
	for _, a := range d.Addresses {
		v4 = v4 || a.Addr().Is4()
		v6 = v6 || a.Addr().Is6() && !a.Addr().IsLinkLocalUnicast()
	}
	if v4 || !v6 {
		families = append(families, firewall.IPv4)
	}
	if v6 {
		families = append(families, firewall.IPv6)
	}
	return families
}

func familyName(nfproto string) string {
	if nfproto == firewall.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}
