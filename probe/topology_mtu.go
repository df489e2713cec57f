package probe

import "fmt"

// What ESP with AES-GCM and a 128-bit ICV adds (RFC 4303, RFC 4106), in bytes.
const (
	espHeader  = 4 + 4     // SPI, sequence number
	gcmIV      = 8         // explicit IV
	gcmICV     = 16        // of 128 bits
	espTrailer = 1 + 1     // pad length, next header; padding aligns them to four bytes
	udpEncap   = 8         // RFC 3948
	ipv4Header = 20        // without options
	ipv6Header = 40        // without extension headers
	ipv6Least  = 1280      // RFC 8200: no link may have a smaller MTU
	jumbo      = 1500 + 18 // anything above is no Ethernet of the standard
)

// room is the longest IP packet that fits through ESP on a link, with its own IP header (transport
// mode) or as the payload of another (tunnel mode).
func room(mtu, header int, tunnel, encap bool) int {
	space := mtu - header - espHeader - gcmIV - gcmICV
	if encap {
		space -= udpEncap
	}
	space = space/4*4 - espTrailer
	if !tunnel {
		space += header
	}
	return max(space, 0)
}

// mtuCheck computes what fits, and looks for neighbours above and below that disagree.
func (s *survey) mtuCheck(d *device) Check {
	c := Check{
		ID: "topology.mtu", Title: "MTU", Weight: Warns, Answer: Yes,
		Evidence: []Evidence{{"ip link show " + d.Name, fmt.Sprintf("mtu %d", d.MTU)}},
		Why: fmt.Sprintf("%d: packets of %d bytes fit in transport mode, of %d in a tunnel, of %d in one over UDP",
			d.MTU, room(d.MTU, ipv4Header, false, false), room(d.MTU, ipv4Header, true, false), room(d.MTU, ipv4Header, true, true)),
	}
	problem := func(why, fix string, e ...Evidence) {
		if c.Answer == No {
			return // the first will do
		}
		c.Answer, c.Why, c.Fix = No, why, fix
		c.Evidence = append(c.Evidence, e...)
	}
	if left := room(d.MTU, ipv6Header, true, false); left < ipv6Least {
		problem(fmt.Sprintf("MTU %d: a tunnel leaves %d bytes, less than the %d that IPv6 asks for", d.MTU, left, ipv6Least),
			fmt.Sprintf("ip link set %s mtu 1500, if everything on its network takes that", d.Name))
	}
	links, _ := s.links()
	for i := range links {
		l := &links[i]
		shown := Evidence{"ip link show " + l.Name, fmt.Sprintf("mtu %d", l.MTU)}
		switch {
		case l.Lower == d.Index && !l.Elsewhere && l.Kind == "xfrm" && l.MTU > room(d.MTU, ipv4Header, true, false):
			fits := room(d.MTU, ipv4Header, true, false)
			problem(fmt.Sprintf("%s, the IPsec interface on it, has MTU %d: what is longer than %d is fragmented or lost", l.Name, l.MTU, fits),
				fmt.Sprintf("ip link set %s mtu %d", l.Name, fits), shown)
		case l.Lower == d.Index && !l.Elsewhere && l.Kind == "vlan" && l.MTU > d.MTU:
			problem(fmt.Sprintf("MTU %d, but %s, a VLAN on it, has %d", d.MTU, l.Name, l.MTU), fmt.Sprintf("ip link set %s mtu %d", l.Name, d.MTU), shown)
		case d.Master != 0 && l.Index == d.Master && l.MTU > d.MTU:
			problem(fmt.Sprintf("MTU %d, but %s, whose port it is, has %d", d.MTU, l.Name, l.MTU), fmt.Sprintf("ip link set %s mtu %d", d.Name, l.MTU), shown)
		case s.sameNetwork(d, l) && (l.MTU > jumbo) != (d.MTU > jumbo):
			problem(fmt.Sprintf("MTU %d, but %s on the same network has %d: one of them sends what others cannot receive", d.MTU, l.Name, l.MTU),
				"Jumbo frames must be taken by every device of a network, switches included: give both the same MTU. ping -M do -s 8972 PEER tells whether 9000 bytes come through.", shown)
		}
	}
	return c
}

// sameNetwork: two devices of hardware with addresses of one network are on one, or should be.
func (s *survey) sameNetwork(d *device, l *Link) bool {
	if l.Index == d.Index || l.Kind != "" || l.Loopback || !l.Up || l.Master != d.Master {
		return false
	}
	for _, a := range d.Addresses {
		for _, b := range l.Addresses {
			if a.Bits() == b.Bits() && !a.IsSingleIP() && !a.Addr().IsLinkLocalUnicast() && a.Masked() == b.Masked() {
				return true
			}
		}
	}
	return false
}
