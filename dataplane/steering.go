package dataplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// steering brings traffic into the TUN: one routing table with a route for each protected
// destination prefix, and one rule per family that sends everything there but the
// underlay's own marked packets. It only steers; that nothing leaks past it is the guard's
// business.
//
// The routes go with the TUN device, also when the process is killed; a rule that is left
// over leads into an empty table and is taken over by the next device.
type steering struct {
	nl       *netlink.Handle
	table    int
	priority int
	mark     uint32
	mask     uint32
	tun      int // ifindex
	underlay int // ifindex, as it was when the device started

	mu     sync.Mutex
	routes map[netip.Prefix]*steeredRoute
	addrs  []netlink.Addr // of this host, as last read
}

// steeredRoute is the route of one destination prefix, shared by the policies that name it.
type steeredRoute struct {
	policies int
	from     netip.Prefix // source addresses of the first of them
}

var families = [...]int{unix.AF_INET, unix.AF_INET6}

func (s *steering) open() error {
	s.routes = make(map[netip.Prefix]*steeredRoute)
	return errors.Join(s.addRules(), s.readAddresses())
}

// readAddresses reads the addresses that routes may name: not for each of them, as there may be
// many. Changes come by sync.
func (s *steering) readAddresses() (err error) {
	if s.addrs, err = s.nl.AddrList(nil, netlink.FAMILY_ALL); err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	return nil
}

func (s *steering) addRules() error {
	for _, family := range families {
		err := s.nl.RuleAdd(s.rule(family))
		if err != nil && !errors.Is(err, unix.EEXIST) && !withoutIPv6(family, err) {
			return fmt.Errorf("add rule `%s`: %w", s.rule(family), err)
		}
	}
	return nil
}

// withoutIPv6 tells that a rule is missing because IPv6 is.
func withoutIPv6(family int, err error) bool {
	return family == unix.AF_INET6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP))
}

// rule is `not fwmark M/MASK lookup TABLE`. Nothing else may stand in it: with a `from` the
// negation would span both, and the underlay's packets would loop.
func (s *steering) rule(family int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family = family
	r.Invert = true
	r.Mark, r.Mask = s.mark, &s.mask
	r.Table, r.Priority = s.table, s.priority
	return r
}

// add steers dst into the TUN for one more policy. from is the policy's source prefix: an
// address of this host inside it becomes the source of connections that choose none.
func (s *steering) add(dst, from netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dst = dst.Masked()
	if r := s.routes[dst]; r != nil {
		r.policies++
		return nil
	}
	if err := s.install(dst, from); err != nil {
		return err
	}
	s.routes[dst] = &steeredRoute{policies: 1, from: from}
	return nil
}

func (s *steering) remove(dst netip.Prefix) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	dst = dst.Masked()
	r := s.routes[dst]
	if r == nil {
		return nil
	}
	if r.policies--; r.policies > 0 {
		return nil
	}
	delete(s.routes, dst)
	if err := s.nl.RouteDel(s.route(dst)); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete route to %s: %w", dst, err)
	}
	return nil
}

func (s *steering) clear() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for dst := range s.routes {
		if err := s.nl.RouteDel(s.route(dst)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("delete route to %s: %w", dst, err))
		}
	}
	clear(s.routes)
	return errors.Join(errs...)
}

// sync puts back what the kernel took away with an address or a link, or somebody by hand. What is
// there stays untouched: there may be many.
func (s *steering) sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := []error{s.addRules(), s.readAddresses()}
	present, err := s.present()
	errs = append(errs, err)
	for dst, r := range s.routes {
		if src, ok := present[dst]; !ok || src != s.localAddress(r.from) {
			errs = append(errs, s.install(dst, r.from))
		}
	}
	return errors.Join(errs...)
}

// present are the routes into the TUN that there are, with their sources.
func (s *steering) present() (map[netip.Prefix]netip.Addr, error) {
	like := &netlink.Route{Table: s.table, LinkIndex: s.tun}
	all, err := s.nl.RouteListFiltered(netlink.FAMILY_ALL, like, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
	if err != nil {
		return nil, fmt.Errorf("list routes of table %d: %w", s.table, err)
	}
	present := make(map[netip.Prefix]netip.Addr, len(all))
	for _, r := range all {
		if r.Dst == nil {
			continue
		}
		dst, ok := netip.AddrFromSlice(r.Dst.IP)
		if !ok {
			continue
		}
		bits, _ := r.Dst.Mask.Size()
		src, _ := netip.AddrFromSlice(r.Src)
		present[netip.PrefixFrom(dst, bits)] = src.Unmap()
	}
	return present, nil
}

func (s *steering) install(dst, from netip.Prefix) error {
	route := s.route(dst)
	replace := func() error {
		if src := s.localAddress(from); src.IsValid() {
			route.Src = src.AsSlice()
		}
		return s.nl.RouteReplace(route)
	}
	err := replace()
	if errors.Is(err, unix.EINVAL) && route.Src != nil && s.readAddresses() == nil { // the address has just gone
		route.Src = nil
		err = replace()
	}
	if err != nil {
		return fmt.Errorf("add route to %s in table %d: %w", dst, s.table, err)
	}
	return nil
}

func (s *steering) route(dst netip.Prefix) *netlink.Route {
	return &netlink.Route{
		LinkIndex: s.tun,
		Table:     s.table,
		Dst:       &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
		Scope:     netlink.SCOPE_LINK,
	}
}

// localAddress is an address of this host inside the prefix, if there is one that can be a
// source: of the underlay rather than of another device, and none that is only good on one link
// or in this host. A prefix that leaves everything open leaves it to the kernel.
func (s *steering) localAddress(in netip.Prefix) (found netip.Addr) {
	if !in.IsValid() || in.Bits() == 0 {
		return netip.Addr{}
	}
	for _, a := range s.addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		if !ok || !in.Contains(ip) || ip.IsLoopback() || ip.IsLinkLocalUnicast() || a.Flags&unix.IFA_F_TENTATIVE != 0 {
			continue
		}
		if !found.IsValid() || a.LinkIndex == s.underlay {
			found = ip
		}
		if a.LinkIndex == s.underlay {
			break
		}
	}
	return found
}

func (s *steering) close() error {
	errs := []error{s.clear()}
	for _, family := range families {
		if err := s.nl.RuleDel(s.rule(family)); err != nil && !errors.Is(err, unix.ENOENT) && !withoutIPv6(family, err) {
			errs = append(errs, fmt.Errorf("delete rule `%s`: %w", s.rule(family), err))
		}
	}
	return errors.Join(errs...)
}

// sysctl is a setting of one device under /proc/sys/net.
type sysctl struct{ family, device, name string }

func (c sysctl) path() string {
	return "/proc/sys/net/" + c.family + "/conf/" + c.device + "/" + c.name
}

func (c sysctl) read() (string, error) {
	b, err := os.ReadFile(c.path())
	if err != nil {
		return "", err
	}
	return string(b[:max(0, len(b)-1)]), nil
}

func (c sysctl) write(value string) error { return os.WriteFile(c.path(), []byte(value), 0) }

// routeOptions ask for the route of the underlay's own packets.
func (s *steering) routeOptions() *netlink.RouteGetOptions {
	return &netlink.RouteGetOptions{Mark: s.mark}
}
