package tunnel_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"espalier/config"
	"espalier/ipsec"
	"espalier/tunnel"
)

// Somebody else's policy that comes first and takes all is refused, with what to do; one that takes a part is noted.
func TestForeignFirst(t *testing.T) {
	prefix := netip.MustParsePrefix
	wide, narrow := ipsec.Selector{Src: prefix("192.168.1.0/24"), Dst: prefix("192.168.1.0/24")}, ipsec.Selector{Dst: prefix("192.168.1.65/32"), Protocol: 6, DstPort: ipsec.Port(22)}
	for name, c := range map[string]struct {
		policy tunnel.Policy
		more   string
		want   string // "": nothing is said
		note   bool
	}{
		"wider": {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: wide, Direction: ipsec.Outbound, Priority: 10, Action: ipsec.Bypass}},
			want: "tunnels.yaml:2:11: the kernel of db1 has a policy out 192.168.1.0/24→192.168.1.0/24 (priority 10) that is not espalier's and comes before that of the tunnel: that traffic leaves in clear: delete it, or give it a priority of more than 1003, which is the tunnel's"},
		"of all":          {policy: tunnel.Policy{Policy: ipsec.Policy{Direction: ipsec.Inbound, Action: ipsec.Bypass}}, want: "any→any (priority 0) that is not espalier's and comes before that of the tunnel: what comes in clear is taken"},
		"drops":           {policy: tunnel.Policy{Policy: ipsec.Policy{Direction: ipsec.Inbound, Action: ipsec.Discard}}, want: "that traffic is dropped"},
		"other SAs":       {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: wide, Direction: ipsec.Outbound, Action: ipsec.Protect}}, want: "goes by other SAs"},
		"the same number": {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: wide, Direction: ipsec.Outbound, Priority: 1003}}, want: "comes before"},
		"later":           {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: wide, Direction: ipsec.Outbound, Priority: 1004}}},
		"a detour of ssh": {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: narrow, Direction: ipsec.Outbound, Priority: 400, Action: ipsec.Bypass}}},
		"forwarded":       {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: wide, Direction: ipsec.Forward}}},
		"elsewhere":       {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: ipsec.Selector{Dst: prefix("192.168.1.66/32")}, Direction: ipsec.Outbound}}},
		"another if_id":   {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: wide, Direction: ipsec.Outbound}, IfID: 3}},
		"narrower": {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: narrow, Direction: ipsec.Outbound, Priority: 10, Action: ipsec.Bypass}}, note: true,
			want: "on db1 somebody else's policies come first: out any→192.168.1.65 proto 6 dport 22 (priority 10): that traffic leaves in clear"},
		"a mark":         {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: wide, Direction: ipsec.Outbound}, Mark: config.Mark{Value: 3, Mask: 3}}, note: true, want: "come first"},
		"the same mark":  {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: wide, Direction: ipsec.Outbound}, Mark: config.Mark{Value: 3, Mask: 3}}, more: "    mark: 7\n", want: "comes before"},
		"another mark":   {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: wide, Direction: ipsec.Outbound}, Mark: config.Mark{Value: 3, Mask: 3}}, more: "    mark: 8\n"},
		"beside another": {policy: tunnel.Policy{Policy: ipsec.Policy{Selector: ipsec.Selector{Protocol: 6}, Direction: ipsec.Outbound}}, more: "    selectors: [tcp, udp]\n", want: "comes before"},
	} {
		for _, there := range []bool{false, true} { // before it is set up, and once it is
			hosts, f := twoHosts(), parse(t, two+c.more)
			if there {
				hosts = applied(t, mustMake(t, f, hosts, tunnel.Options{}), 1)
			}
			e := &hosts[0].Facts.Engines[0]
			e.Policies = append(e.Policies, tunnel.LivePolicy{Policy: c.policy})
			p, err := tunnel.Make(f, hosts, tunnel.Options{Origin: origin, Adopt: true})
			said := fmt.Sprint(err)
			if err == nil {
				said = strings.Join(p.Pairs[0].Notes, "\n")
			}
			quiet := c.want == "" || there && name == "the same number"
			if quiet && (err != nil || strings.Contains(said, "somebody")) || !quiet && (err == nil != c.note || !strings.Contains(said, c.want)) {
				t.Errorf("%s, %v: %s", name, there, said)
			}
			if there { // keys are made anew all the same
				mustMake(t, f, hosts, tunnel.Options{Kind: tunnel.Rotate})
			}
		}
	}
}
