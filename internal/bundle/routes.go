package bundle

import (
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddRoutes puts in the routes and rules of the calling thread's network namespace.
func (b *Bundle) AddRoutes() {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		name, source := "net/routes", "ip route show table all"
		if family == unix.AF_INET6 {
			name, source = "net/routes6", "ip -6 route show table all"
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			b.Missing(source, err)
			continue
		}
		var text strings.Builder
		for _, r := range routes {
			fmt.Fprintln(&text, r)
		}
		b.Add(name, source, []byte(text.String()))
	}
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		b.Missing("ip rule", err)
		return
	}
	var text strings.Builder
	for _, r := range rules {
		fmt.Fprintln(&text, r)
	}
	b.Add("net/rules", "ip rule", []byte(text.String()))
}
