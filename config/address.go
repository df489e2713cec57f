package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// parseAddress reads an address that a host can have and ESP can go to.
func parseAddress(text string) (netip.Addr, error) {
	if before, _, found := strings.Cut(text, "/"); found {
		if _, err := netip.ParseAddr(before); err == nil {
			return netip.Addr{}, &wrong{fmt.Sprintf("address %s has a prefix length", quoted(text)), "write " + before}
		}
	}
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, &wrong{fmt.Sprintf("%s is no address", quoted(text)), "write one such as 192.168.1.64 or 2001:db8::64; names are not looked up"}
	case a.Is4In6():
		return netip.Addr{}, &wrong{fmt.Sprintf("address %s is IPv4 in IPv6", a), "write " + a.Unmap().String()}
	case a.Zone() != "" || a.IsLinkLocalUnicast():
		return netip.Addr{}, &wrong{fmt.Sprintf("address %s is link-local", a), "use one that is known beyond the link"}
	}
	if kind := notUnicast(a); kind != "" {
		return netip.Addr{}, &wrong{fmt.Sprintf("address %s is %s", a, kind), "write the address of the host's device"}
	}
	return a, nil
}

// parseSubnet reads a network of hosts.
func parseSubnet(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		if a, err := netip.ParseAddr(text); err == nil {
			return netip.Prefix{}, &wrong{fmt.Sprintf("subnet %s has no prefix length", a), fmt.Sprintf("write %s/%d for this address alone", a, a.BitLen())}
		}
		return netip.Prefix{}, &wrong{fmt.Sprintf("%s is no subnet", quoted(text)), "write one such as 10.1.0.0/16 or 2001:db8:1::/48"}
	}
	switch {
	case p.Addr().Is4In6():
		return netip.Prefix{}, &wrong{fmt.Sprintf("subnet %s is IPv4 in IPv6", p), "write it as IPv4"}
	case p != p.Masked():
		return netip.Prefix{}, &wrong{fmt.Sprintf("subnet %s has bits behind its prefix length", p), "write " + p.Masked().String()}
	case p.Bits() == 0:
		return p, nil // all addresses
	case p.Addr().IsLinkLocalUnicast() && p.Bits() >= 10:
		return netip.Prefix{}, &wrong{fmt.Sprintf("subnet %s is link-local", p), "leave it out: it is not routed"}
	}
	if kind := notUnicast(p.Addr()); kind != "" && (p.Bits() >= 8 || p.Bits() >= 4 && p.Addr().IsMulticast()) {
		return netip.Prefix{}, &wrong{fmt.Sprintf("subnet %s is %s", p, kind), "leave it out: no host has such an address"}
	}
	return p, nil
}

// notUnicast says why no host on a network has the address a; "" if one may have it.
func notUnicast(a netip.Addr) string {
	switch {
	case a.IsUnspecified():
		return "no address of a host"
	case a.IsLoopback():
		return "of the loopback device"
	case a.IsMulticast():
		return "multicast"
	case a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "broadcast"
	}
	return ""
}
