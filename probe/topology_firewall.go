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
	c.Evidence[0].Value = count(len(chains), "chain")
	c.Answer, c.Why = Yes, "no rule drops it"
	if len(chains) == 0 {
		c.Why = "no rules"
	} else if slices.ContainsFunc(chains, func(c firewall.Chain) bool {
		return firewall.IsGuard(&c) && (len(c.Devices) == 0 || slices.Contains(c.Devices, d.Name))
	}) {
		c.Evidence = append(c.Evidence, Evidence{"nft list tables", "espalier's own guard, which lets ESP through"})
	}
	var against []decision
	for _, nfproto := range d.families() {
		for _, way := range []struct {
			word  string
			hooks []string
			p     firewall.Packet
		}{{"coming in", hooksIn, first(nfproto).In(d.Name, d.Index)}, {"going out", hooksOut, first(nfproto).Out(d.Name, d.Index)}} {
			for _, hook := range way.hooks {
				for _, by := range firewall.Pass(chains, hook, d.Name, way.p) {
					against = append(against, decision{by, way.word + " over " + familyName(nfproto), way.p})
				}
			}
		}
	}
	if len(against) == 0 {
		return s.legacyCheck(c)
	}
	return s.against(c, chains, against)
}

// decision of the firewall's against a packet.
type decision struct {
	firewall.Decision
	way    string // "coming in over IPv4"
	packet firewall.Packet
}

// against tells all that drops a packet, or may: where one rule is mended, the next one still drops.
func (s *survey) against(c Check, chains []firewall.Chain, all []decision) Check {
	c.Answer, c.Evidence = Unknown, nil
	what, _, _ := strings.Cut(c.Title, " through ")
	var fixes []string
	for _, by := range all {
		e := Evidence{"nft -a list chain " + by.Chain, by.Rule}
		if !slices.Contains(c.Evidence, e) {
			c.Evidence = append(c.Evidence, e)
		}
		if !by.Certain {
			if c.Answer == Unknown && len(c.Evidence) == 1 {
				c.Why = fmt.Sprintf("%s it depends on what is not known here, as addresses: %s", by.way, by.Chain)
			}
			continue
		}
		if c.Answer != No {
			c.Answer, c.Cause = No, fmt.Sprintf("dropped %s by %s", by.way, by.Chain)
			c.Why = fmt.Sprintf("%s %s is dropped by %s", what, by.way, by.Chain)
		}
		if fix := firewallFix(chains, by); !slices.Contains(fixes, fix) {
			fixes = append(fixes, fix)
		}
	}
	c.Fix = strings.Join(fixes, "; ")
	if strings.Contains(c.Fix, "nft insert") {
		c.Fix += "; and in " + s.rulesFile() + ", so that it lasts"
	}
	return c
}

// rulesFile is where the distribution's nftables.service takes its rules from.
func (s *survey) rulesFile() string {
	if s.distribution().is("rhel", "fedora") {
		return "/etc/sysconfig/nftables.conf"
	}
	return "/etc/nftables.conf"
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
func firewallFix(chains []firewall.Chain, by decision) string {
	chain, esp := by.Chain, by.packet["l4proto"] == "50"
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
	return fmt.Sprintf("nft insert rule %s %s accept", chain, match)
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

// count is "1 chain", "2 chains".
func count(n int, of string) string {
	if n != 1 {
		of += "s"
	}
	return fmt.Sprintf("%d %s", n, of)
}
