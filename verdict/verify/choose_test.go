package verify

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
	"espalier/xfrm"
)

var (
	a4, b4 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	a6, b6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	lan    = netip.MustParseAddr("10.1.0.1")
	own    = []netip.Addr{a4, a6, lan}
)

func state(spi uint32, src, dst netip.Addr, change ...func(*xfrm.State)) *xfrm.State {
	s := &xfrm.State{Src: src, Dst: dst, SPI: ipsec.SPI(spi), Proto: unix.IPPROTO_ESP, Reqid: spi, Mode: xfrm.ModeTransport,
		AEAD: &xfrm.AEAD{Name: xfrm.AEADName, ICVBits: 128}}
	for _, c := range change {
		c(s)
	}
	return s
}

func tunnelMode(s *xfrm.State) { s.Mode = xfrm.ModeTunnel }

// policy is for sending from one prefix to another, by the SA.
func policy(s *xfrm.State, src, dst string, change ...func(*xfrm.Policy)) *xfrm.Policy {
	p := &xfrm.Policy{Dir: xfrm.PolicyOut, Tmpls: []xfrm.Tmpl{{Src: s.Src, Dst: s.Dst, Proto: s.Proto, Mode: s.Mode, Reqid: s.Reqid}}}
	p.Sel.Src, p.Sel.Dst = netip.MustParsePrefix(src), netip.MustParsePrefix(dst)
	for _, c := range change {
		c(p)
	}
	return p
}

func TestChoose(t *testing.T) {
	out, in := state(0x1000, a4, b4), state(0x1001, b4, a4)
	out6 := state(0x2000, a6, b6)
	tunnelled := state(0x3000, a4, b4, tunnelMode)
	hosts := policy(out, "192.0.2.1/32", "192.0.2.2/32")
	hosts6 := policy(out6, "2001:db8::1/128", "2001:db8::2/128")
	networks := policy(tunnelled, "10.1.0.0/16", "10.2.0.0/16")
	protocol := func(n uint8) func(*xfrm.Policy) { return func(p *xfrm.Policy) { p.Sel.Protocol = n } }
	newer := state(0x1002, a4, b4, func(s *xfrm.State) { s.Reqid, s.Current.AddTime = out.Reqid, 7 })
	ofCPU := state(0x1003, a4, b4, func(s *xfrm.State) { s.Reqid, s.PCPU = out.Reqid, new(uint32) })
	to := netip.MustParseAddr("10.2.3.4")
	for _, c := range []struct {
		name     string
		states   []*xfrm.State
		policies []*xfrm.Policy
		wish     Wish
		want     string // SPI, source, destination, protocol, ports
		err      string
	}{
		{name: "the only one", states: []*xfrm.State{out, in}, policies: []*xfrm.Policy{hosts}, want: "0x00001000 192.0.2.1 192.0.2.2 17 0 9"},
		{name: "IPv6", states: []*xfrm.State{out6}, policies: []*xfrm.Policy{hosts6}, want: "0x00002000 2001:db8::1 2001:db8::2 17 0 9"},
		{name: "nothing at all", err: "no SA sends"},
		{name: "only for receiving", states: []*xfrm.State{in}, err: "no SA sends"},
		{name: "inbound by its offload", states: []*xfrm.State{state(0x1000, a4, b4, func(s *xfrm.State) { s.Offload = &xfrm.Offload{Flags: xfrm.OffloadInbound} })}, err: "no SA sends"},
		{name: "inbound by its direction", states: []*xfrm.State{state(0x1000, a4, b4, func(s *xfrm.State) { s.Dir = xfrm.StateDirIn })}, err: "no SA sends"},
		{name: "no policy", states: []*xfrm.State{out}, err: "no policy sends anything"},
		{name: "another's policy", states: []*xfrm.State{out}, policies: []*xfrm.Policy{policy(in, "192.0.2.1/32", "192.0.2.2/32")}, err: "no policy sends anything"},
		{name: "two to choose from", states: []*xfrm.State{out, out6}, policies: []*xfrm.Policy{hosts, hosts6}, err: "2 SAs send"},
		{name: "by SPI", states: []*xfrm.State{out, out6}, policies: []*xfrm.Policy{hosts, hosts6}, wish: Wish{SPI: 0x2000}, want: "0x00002000 2001:db8::1 2001:db8::2 17 0 9"},
		{name: "by peer", states: []*xfrm.State{out, out6}, policies: []*xfrm.Policy{hosts, hosts6}, wish: Wish{Peer: b4}, want: "0x00001000 192.0.2.1 192.0.2.2 17 0 9"},
		{name: "no such SPI", states: []*xfrm.State{out}, policies: []*xfrm.Policy{hosts}, wish: Wish{SPI: 7}, err: "no SA 0x00000007"},
		{name: "no such peer", states: []*xfrm.State{out}, policies: []*xfrm.Policy{hosts}, wish: Wish{Peer: a6}, err: "to 2001:db8::1"},
		{name: "UDP to a port", states: []*xfrm.State{out}, policies: []*xfrm.Policy{policy(out, "192.0.2.1/32", "192.0.2.2/32", protocol(17), func(p *xfrm.Policy) {
			p.Sel.SrcPort, p.Sel.DstPort = ipsec.Port(53), ipsec.Port(4789)
		})}, want: "0x00001000 192.0.2.1 192.0.2.2 17 53 4789"},
		{name: "ICMP only", states: []*xfrm.State{out}, policies: []*xfrm.Policy{policy(out, "192.0.2.1/32", "192.0.2.2/32", protocol(1))}, want: "0x00001000 192.0.2.1 192.0.2.2 1 8 0"},
		{name: "ICMPv6 only", states: []*xfrm.State{out6}, policies: []*xfrm.Policy{policy(out6, "2001:db8::1/128", "2001:db8::2/128", protocol(58))}, want: "0x00002000 2001:db8::1 2001:db8::2 58 128 0"},
		{name: "ICMP, but no echo", states: []*xfrm.State{out}, policies: []*xfrm.Policy{policy(out, "192.0.2.1/32", "192.0.2.2/32", protocol(1), func(p *xfrm.Policy) { p.Sel.SrcPort = ipsec.Port(3) })}, err: "echo request"},
		{name: "TCP only", states: []*xfrm.State{out}, policies: []*xfrm.Policy{policy(out, "192.0.2.1/32", "192.0.2.2/32", protocol(6))}, err: "IP protocol 6"},
		{name: "the SA itself is for TCP", states: []*xfrm.State{state(0x1000, a4, b4, func(s *xfrm.State) { s.Sel.Protocol = 6 })}, policies: []*xfrm.Policy{hosts}, err: "is for it"},
		{name: "marked packets", states: []*xfrm.State{out}, policies: []*xfrm.Policy{policy(out, "192.0.2.1/32", "192.0.2.2/32", func(p *xfrm.Policy) { p.Mark = &xfrm.Mark{Value: 1, Mask: 1} })}, err: "marked"},
		{name: "networks, nobody named", states: []*xfrm.State{tunnelled}, policies: []*xfrm.Policy{networks}, err: "--to"},
		{name: "networks, from an address of this host", states: []*xfrm.State{tunnelled}, policies: []*xfrm.Policy{networks}, wish: Wish{To: to}, want: "0x00003000 10.1.0.1 10.2.3.4 17 0 9"},
		{name: "to outside of the policy", states: []*xfrm.State{tunnelled}, policies: []*xfrm.Policy{networks}, wish: Wish{To: b4}, err: "is for it"},
		{name: "no address of this host is in it", states: []*xfrm.State{tunnelled}, policies: []*xfrm.Policy{policy(tunnelled, "10.9.0.0/16", "10.2.0.0/16")}, wish: Wish{To: to}, err: "--from"},
		{name: "families apart", states: []*xfrm.State{tunnelled}, policies: []*xfrm.Policy{networks}, wish: Wish{To: to, From: a6}, err: "different families"},
		{name: "everything, in a tunnel", states: []*xfrm.State{tunnelled}, policies: []*xfrm.Policy{policy(tunnelled, "0.0.0.0/0", "0.0.0.0/0")}, want: "0x00003000 192.0.2.1 192.0.2.2 17 0 9"},
		{name: "a newer SA takes the traffic", states: []*xfrm.State{out, newer}, policies: []*xfrm.Policy{hosts}, want: "0x00001002 192.0.2.1 192.0.2.2 17 0 9"},
		{name: "of one CPU", states: []*xfrm.State{ofCPU}, policies: []*xfrm.Policy{hosts}, err: "only what CPU 0"},
		{name: "a CPU has one of its own", states: []*xfrm.State{ofCPU, newer}, policies: []*xfrm.Policy{hosts}, wish: Wish{Peer: b4}, err: "carries what CPU 0 sends"},
		{name: "another policy takes the traffic", states: []*xfrm.State{out}, policies: []*xfrm.Policy{
			policy(out, "192.0.2.1/32", "192.0.2.2/32", func(p *xfrm.Policy) { p.Priority = 9 }),
			policy(in, "192.0.2.0/24", "192.0.2.0/24", func(p *xfrm.Policy) { p.Tmpls = nil }),
		}, err: "comes before"},
	} {
		f, err := Choose(c.states, c.policies, own, c.wish)
		if err != nil || c.err != "" {
			if err == nil || c.err == "" || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want something about %q", c.name, err, c.err)
			}
			continue
		}
		if got := describe(f); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
