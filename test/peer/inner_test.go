package peer

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"espalier/test/packets"
)

// Inner addresses in tunnel mode, by the policy that speaks of them.
const (
	plain     = iota // a policy that asks for these SAs
	noPolicy         // none
	blocked          // action block
	otherSA          // one that asks for another request id
	otherMode        // one that asks for transport mode
	otherEnds        // one that asks for another tunnel
	bypass           // one that asks for no SA
	ports            // one with ports
)

// inPolicies are host B's. They have lowest priority first, as in Linux.
func inPolicies(v6 bool) (script string) {
	a, b := path{v6: v6}.ends()
	tunnel := fmt.Sprintf("tmpl src %s dst %s proto esp reqid %d mode tunnel", a, b, reqid)
	for net, rule := range map[int]string{
		plain:     tunnel,
		blocked:   "action block",
		otherSA:   fmt.Sprintf("tmpl src %s dst %s proto esp reqid %d mode tunnel", a, b, reqid+1),
		otherMode: fmt.Sprintf("tmpl proto esp reqid %d mode transport", reqid),
		otherEnds: fmt.Sprintf("tmpl src %s dst %s proto esp reqid %d mode tunnel", b, a, reqid),
		bypass:    "action allow",
		ports:     tunnel,
	} {
		in := inside(net, v6)
		sel := ""
		if net == ports {
			sel = fmt.Sprintf("proto udp dport %d", goodPort)
		}
		script += fmt.Sprintf("ip xfrm policy add src %s dst %s %s dir in %s\n", in[0], in[1], sel, rule)
	}
	return script
}

// TestInner sends good ESP around bad inner packets, and inner packets that SA or policy do
// not let in.
func TestInner(t *testing.T) {
	portSelector := fmt.Sprintf("sel proto udp dport %d", goodPort)
	tcpSelector := "sel proto tcp"
	cases := []badCase{
		// What the mode allows.
		{name: "TCP in a tunnel", reason: "in-next-header", tunnel: true, send: func(s *sender) [][]byte {
			return [][]byte{s.Seal(s.next(), packets.TCP, make([]byte, 40))}
		}},
		{name: "next header of the other family", reason: "in-next-header", tunnel: true, send: func(s *sender) [][]byte {
			inner, next, _ := s.carry(packets.UDPProto, s.datagram(1))
			return [][]byte{s.Seal(s.next(), next^packets.IPIP^packets.IPv6, inner)}
		}},
		{name: "fragment header in transport mode", reason: "in-next-header", on: only6, send: func(s *sender) [][]byte {
			first := append([]byte{packets.UDPProto, 0, 0, 1, 0, 0, 0, 7}, s.datagram(1)...)
			later := append([]byte{packets.UDPProto, 0, 0, 8, 0, 0, 0, 7}, s.datagram(1)...)
			return [][]byte{s.Seal(s.next(), packets.Fragment, first), s.Seal(s.next(), packets.Fragment, later)}
		}},

		// Lengths.
		{name: "inner longer than it is", reason: "in-length", tunnel: true, send: func(s *sender) [][]byte {
			return [][]byte{s.tunnelled(s.resized(1)), s.tunnelled(s.resized(1000))}
		}},
		{name: "inner shorter than its header", reason: "in-length", tunnel: true, on: only4, send: func(s *sender) [][]byte {
			_, _, inner := s.carry(packets.UDPProto, s.datagram(1))
			return [][]byte{s.tunnelled(s.resized(19 - len(inner))), s.tunnelled(s.resized(-len(inner)))}
		}},
		{name: "inner header cut", reason: "in-length", tunnel: true, send: func(s *sender) [][]byte {
			_, _, inner := s.carry(packets.UDPProto, s.datagram(1))
			return [][]byte{s.tunnelled(inner[:19]), s.tunnelled(inner[:1]), s.tunnelled(nil)}
		}},
		{name: "inner header length below 5", reason: "in-length", tunnel: true, on: only4, send: func(s *sender) [][]byte {
			_, _, inner := s.carry(packets.UDPProto, s.datagram(1))
			inner[0] = 0x44
			return [][]byte{s.tunnelled(inner)}
		}},
		{name: "jumbogram", reason: "in-length", tunnel: true, on: only6, send: func(s *sender) [][]byte {
			a, b := s.inner()
			inner := packets.IP{Src: a, Dst: b, Proto: packets.UDPProto, Ext: []packets.Ext{{Kind: packets.HopByHop, Data: []byte{0xc2, 4, 0, 1, 0, 0}}}}.Packet(s.datagram(1))
			binary.BigEndian.PutUint16(inner[4:], 0)
			return [][]byte{s.tunnelled(inner)}
		}},
		{name: "extension header longer than the packet", reason: "in-malformed", tunnel: true, on: only6, send: func(s *sender) [][]byte {
			a, b := s.inner()
			inner := packets.IP{Src: a, Dst: b, Proto: packets.NoNext, Ext: []packets.Ext{{Kind: packets.DestOpts, Data: []byte{1, 4, 0, 0, 0, 0}}}}.Packet(nil)
			inner[41] = 9
			return [][]byte{s.tunnelled(inner)}
		}},
		{name: "transport: extension header longer than the packet", reason: "in-malformed", on: only6, send: func(s *sender) [][]byte {
			return [][]byte{s.Seal(s.next(), packets.DestOpts, []byte{packets.NoNext, 9, 1, 4, 0, 0, 0, 0})}
		}},

		// The SA's selector.
		{name: "UDP for an SA of TCP", reason: "in-selector", words: tcpSelector, foreign: true, send: oneGoodLooking},
		{name: "TCP for an SA of ports", reason: "in-selector", words: portSelector, send: func(s *sender) [][]byte {
			return [][]byte{s.Seal(s.next(), packets.TCP, make([]byte, 20))}
		}},
		{name: "other port", reason: "in-selector", words: portSelector, send: func(s *sender) [][]byte {
			a, b := s.inner()
			return [][]byte{s.Seal(s.next(), packets.UDPProto, packets.UDP(netip.AddrPortFrom(a, 1), netip.AddrPortFrom(b, goodPort+1), nil))}
		}},
		{name: "inner fragments for an SA of ports", reason: "in-fragment-selector", tunnel: true, words: portSelector, send: fragments},

		// The policies.
		{name: "no policy", reason: "in-no-policy", tunnel: true, net: noPolicy, foreign: true, send: oneTunnelled},
		{name: "addresses of nobody", reason: "in-no-policy", tunnel: true, send: func(s *sender) [][]byte {
			a, _ := s.inner()
			elsewhere := netip.MustParseAddr("10.99.0.1")
			if s.v6 {
				elsewhere = netip.MustParseAddr("fd99::1")
			}
			return [][]byte{s.tunnelled(packets.IP{Src: a, Dst: elsewhere, Proto: packets.UDPProto}.Packet(s.datagram(1)))}
		}},
		{name: "action block", reason: "in-policy-discard", tunnel: true, net: blocked, foreign: true, send: oneTunnelled},
		{name: "policy of another request id", reason: "in-policy-mismatch", tunnel: true, net: otherSA, foreign: true, send: oneTunnelled},
		{name: "policy of another mode", reason: "in-policy-mismatch", tunnel: true, net: otherMode, foreign: true, send: oneTunnelled},
		{name: "policy of another tunnel", reason: "in-policy-mismatch", tunnel: true, net: otherEnds, foreign: true, send: oneTunnelled},
		{name: "policy that asks for no SA", reason: "in-policy-mismatch", tunnel: true, net: bypass, foreign: true, send: oneTunnelled},
		{name: "inner fragments under a policy of ports", reason: "in-fragment-selector", tunnel: true, net: ports, send: fragments},
	}
	runBad(t, cases, inPolicies)
}

// tunnelled seals an inner packet, whatever it is.
func (s *sender) tunnelled(inner []byte) []byte {
	next := byte(packets.IPIP)
	if s.v6 {
		next = packets.IPv6
	}
	return s.Seal(s.next(), next, inner)
}

// resized is an inner packet that says of itself that it is so much longer.
func (s *sender) resized(by int) []byte {
	_, _, inner := s.carry(packets.UDPProto, s.datagram(1))
	at := 2
	if s.v6 {
		at = 4
	}
	binary.BigEndian.PutUint16(inner[at:], uint16(int(binary.BigEndian.Uint16(inner[at:]))+by))
	return inner
}

func oneTunnelled(s *sender) [][]byte {
	_, _, inner := s.carry(packets.UDPProto, s.datagram(1))
	return [][]byte{s.tunnelled(inner)}
}

// fragments are a first and a last one.
func fragments(s *sender) [][]byte {
	a, b := s.inner()
	d := append(s.datagram(1), make([]byte, 64)...)
	first, last := packets.IP{Src: a, Dst: b, Proto: packets.UDPProto, ID: 7}, packets.IP{Src: a, Dst: b, Proto: packets.UDPProto, ID: 7}
	first.MF, last.Offset = true, 32
	if s.v6 {
		first.Ext = []packets.Ext{{Kind: packets.Fragment, Data: []byte{0, 1, 0, 0, 0, 7}}}
		last.Ext = []packets.Ext{{Kind: packets.Fragment, Data: []byte{0, 32, 0, 0, 0, 7}}}
	}
	return [][]byte{s.tunnelled(first.Packet(d[:32])), s.tunnelled(last.Packet(d[32:]))}
}

// TestECN: a congestion mark that the inner packet's transport would not understand means
// that the packet has to go (RFC 6040 figure 4); marks it understands are carried over.
func TestECN(t *testing.T) {
	const notECT, ect1, ect0, ce, gone = 0, 1, 2, 3, 255
	r := newRig(t)
	for _, p := range paths {
		s := r.newSender(p, true)
		r.B.Batch(inPolicies(p.v6) + s.state(""))
		for _, c := range []struct{ outer, inner, want byte }{
			{notECT, notECT, notECT}, {ect0, notECT, notECT}, {ect1, notECT, notECT}, {ce, notECT, gone},
			{notECT, ect0, ect0}, {ect0, ect0, ect0}, {ect1, ect0, ect1}, {ce, ect0, ce},
			{notECT, ect1, ect1}, {ect0, ect1, ect1}, {ect1, ect1, ect1}, {ce, ect1, ce},
			{notECT, ce, ce}, {ect0, ce, ce}, {ect1, ce, ce}, {ce, ce, ce},
		} {
			t.Run(fmt.Sprintf("%v/outer %d inner %d", p, c.outer, c.inner), func(t *testing.T) {
				t.Cleanup(func() {
					if t.Failed() {
						r.drain()
					}
				})
				before := r.B.Drops()
				a, b := s.inner()
				inner := packets.IP{Src: a, Dst: b, Proto: packets.UDPProto, TOS: 0x28 | c.inner}
				outer := p.ip()
				outer.TOS = c.outer
				datagram := s.datagram(s.seq)
				r.send(t, p.wrapIn(outer, s.tunnelled(inner.Packet(datagram))))
				s.want = nil
				r.send(t, p.wrap(s.good(s.next())))
				want, lost := s.want, 1
				if c.want != gone {
					inner.TOS = 0x28 | c.want
					want, lost = append([][]byte{inner.Packet(datagram)}, want...), 0
				}
				r.delivered(t, want)
				r.dropped(t, before, "in-ecn", lost)
			})
		}
		r.B.Xfrm("policy", "flush")
	}
	r.stop()
}
