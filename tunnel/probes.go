package tunnel

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"espalier/config"
	"espalier/ipsec"
)

// IP protocols that probes are of, by which `apply` proves what it has set up.
var probed = map[uint8]string{0: "", 1: "", 58: "", 6: "TCP", 17: "UDP"}

// probeNotes tell what of a pair no probe can prove, and which ports of real services probes come to.
func (p *Pair) probeNotes(sides *[2]side) {
	var never []string
	for i := range sides {
		e, s := &p.Ends[i], &sides[i]
		var reached []string
		var at netip.Prefix
		for j := range e.Policies {
			policy := &e.Policies[j]
			sel := &policy.Selector
			if policy.Action != ipsec.Protect || policy.Direction != ipsec.Outbound {
				continue
			}
			name, can := probed[sel.Protocol]
			switch {
			case !can:
				never = appendNew(never, config.Protocol(sel.Protocol).String())
			case policy.IfID != 0 && !slices.ContainsFunc(s.facts.Devices, func(d Device) bool { return d.IfID == policy.IfID && d.Up }):
				never = appendNew(never, fmt.Sprintf("what %s sends (no xfrm interface with if_id %d is up there)", s.name, policy.IfID))
			case name != "" && !sel.DstPort.Any():
				at = sel.Dst
				reached = appendNew(reached, fmt.Sprintf("%s %d", name, sel.DstPort.Value))
			}
		}
		if len(reached) > 0 {
			where := fmt.Sprintf("an address of %s", at)
			if at.IsSingleIP() {
				where = at.Addr().String()
			}
			p.Notes = append(p.Notes, fmt.Sprintf("until all have confirmed, probes reach %s of %s: programs there see datagrams of a few bytes, and connections that are given up",
				strings.Join(reached, " and "), where))
		}
	}
	if len(never) > 0 {
		p.Notes = append(p.Notes, "not proven by probes: "+strings.Join(never, ", "))
	}
}

func appendNew(all []string, one string) []string {
	if slices.Contains(all, one) {
		return all
	}
	return append(all, one)
}
