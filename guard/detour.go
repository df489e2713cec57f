package guard

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// Detour is ssh between two hosts that passes in clear, whatever policies say: what else would bring a tunnel back
// that one of them has lost? Only TCP between the two very addresses and the server's port passes, and of what the
// server sends nothing that opens a connection: so nobody comes from that port to other services of its peer.
type Detour struct {
	Local  netip.Addr `json:"local"`
	Remote netip.Addr `json:"remote"`
	Port   uint16     `json:"port"`             // of the server
	Serves bool       `json:"serves,omitempty"` // the server is here
	// Device as in HostPolicy.
	Device string `json:"-"`
}

// Check tells what is wrong with it; errors wrap ipsec.ErrInvalid.
func (d *Detour) Check() error {
	if d.Port == 0 || !d.Local.IsValid() || !d.Remote.IsValid() || d.Local.Is4() != d.Remote.Is4() || d.Local.Zone()+d.Remote.Zone() != "" {
		return fmt.Errorf("%w: ssh between %s and %s, port %d", ipsec.ErrInvalid, d.Local, d.Remote, d.Port)
	}
	return nil
}

// SYN and ACK in the 14th byte of a TCP header (RFC 9293 §3.1).
const (
	tcpFlagsAt = 13
	tcpSYN     = 0x02
	tcpACK     = 0x10
)

// addDetour lets one pass.
func (s *side) addDetour(c *chain, d *Detour) {
	f := &ipv4
	if d.Local.Is6() {
		f = &ipv6
	}
	src, dst, who := d.Remote, d.Local, "from"
	if s.sends {
		src, dst, who = d.Local, d.Remote, "to"
	}
	source, target, _ := portFields(unix.IPPROTO_TCP)
	answers := s.sends == d.Serves // it is from the server
	at := target
	if answers {
		at = source
	}
	begun := f.addresses(f.start(), netip.PrefixFrom(src, src.BitLen()), netip.PrefixFrom(dst, dst.BitLen())).upper(equal, unix.IPPROTO_TCP)
	for i, m := range f.withHeader(begun) {
		m = m.port(equal, at, ipsec.Port(d.Port))
		if answers {
			m = m.load(expr.PayloadBaseTransportHeader, tcpFlagsAt, 1).masked(notEqual, []byte{tcpSYN | tcpACK}, []byte{tcpSYN})
		}
		c.add(m.accept(), fmt.Sprintf("ssh %s %s, port %d of %s%s", who, d.Remote, d.Port, map[bool]string{true: "this host", false: "that host"}[d.Serves], []string{"", ", in fragments"}[i]))
	}
}
