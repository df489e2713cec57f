package peer

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"espalier/test/packets"
)

// TestUnusual sends what is rare but legal. All of it is delivered, or ignored without being
// counted as a drop.
func TestUnusual(t *testing.T) {
	cases := []badCase{
		{name: "empty payload", send: func(s *sender) [][]byte {
			return [][]byte{s.upper(packets.TCP, nil), s.upper(packets.UDPProto, nil), s.upper(253, nil)}
		}},
		{name: "UDP without data", send: func(s *sender) [][]byte {
			return [][]byte{s.upper(packets.UDPProto, []byte{0x1b, 0x58, 0x1e, 0x61, 0, 8, 0, 0})}
		}},
		{name: "dummy packets", send: dummies},
		{name: "dummy packets in a tunnel", tunnel: true, send: dummies},
		{name: "TFC padding of UDP", send: withTFC},
		{name: "TFC padding in a tunnel", tunnel: true, send: withTFC},
		{name: "as much padding as there can be", send: func(s *sender) [][]byte {
			s.good(1) // only what it expects counts
			pad := make([]byte, 0, 255)
			for i := range 255 {
				pad = append(pad, byte(i+1))
			}
			text := append(s.datagram(1), pad[:255-(len(s.datagram(1))+255+2)%4]...)
			n := byte(len(text) - len(s.datagram(1)))
			return [][]byte{s.SealText(s.next(), append(text, n, packets.UDPProto))}
		}},
		{name: "padding beyond need", send: func(s *sender) [][]byte {
			s.good(1)
			text := packets.Trail(s.datagram(1), 0)
			text = text[:len(text)-2]
			have := byte(len(text) - len(s.datagram(1)))
			return [][]byte{s.SealText(s.next(), append(text, have+1, have+2, have+3, have+4, have+4, packets.UDPProto))}
		}},
		{name: "192-bit key", words: "192", send: oneGood},
		{name: "128-bit key", words: "128", send: oneGood},
		{name: "ICV of 96 bits", words: "ICV 96", send: oneGood},
		{name: "ICV of 96 bits in a tunnel", tunnel: true, words: "ICV 96", send: oneGood},
		{name: "ICV of 64 bits", words: "ICV 64", send: oneGood},
		{name: "ICV of 64 bits in a tunnel", tunnel: true, words: "ICV 64", send: oneGood},
		{name: "selector that fits", words: fmt.Sprintf("sel proto udp dport %d", goodPort), send: oneGood},
		{name: "IPv6 options behind ESP", on: only6, send: func(s *sender) [][]byte {
			options := []byte{packets.UDPProto, 0, 1, 4, 0, 0, 0, 0}
			return [][]byte{s.upper(packets.DestOpts, append(options, s.datagram(1)...))}
		}},
		{name: "a fragment that is whole", on: only6, send: func(s *sender) [][]byte { // RFC 6946
			fragment := []byte{packets.UDPProto, 0, 0, 0, 0, 0, 0, 9}
			return [][]byte{s.upper(packets.Fragment, append(fragment, s.datagram(1)...))}
		}},
		{name: "IP in IP in transport mode", send: func(s *sender) [][]byte {
			_, _, inner := s.carry(packets.UDPProto, s.datagram(1))
			next := byte(packets.IPIP)
			if s.v6 {
				next = packets.IPv6
			}
			return [][]byte{s.upper(next, inner)}
		}},
	}
	runBad(t, cases, inPolicies)
}

func oneGood(s *sender) [][]byte { return [][]byte{s.good(s.next())} }

// upper is an ESP packet of any upper-layer protocol, to be delivered.
func (s *sender) upper(proto byte, payload []byte) []byte {
	text, next, whole := s.carry(proto, payload)
	s.want = append(s.want, whole)
	return s.Seal(s.next(), next, text)
}

// dummies are RFC 4303 §2.6: anything may be in them.
func dummies(s *sender) [][]byte {
	return [][]byte{
		s.Seal(s.next(), packets.NoNext, nil),
		s.Seal(s.next(), packets.NoNext, bytes.Repeat([]byte{0xa5}, 1000)),
		s.SealText(s.next(), []byte{9, 9, 9, 9, 9, 200, 99, packets.NoNext}), // padding is not looked at
	}
}

// withTFC are packets with RFC 4303 §2.7 padding, which has to be taken off.
func withTFC(s *sender) [][]byte {
	var all [][]byte
	for _, tfc := range []int{1, 2, 100, 1000} {
		s.good(s.next()) // only what it expects counts
		text, next, _ := s.carry(packets.UDPProto, s.datagram(s.seq))
		all = append(all, s.Seal(s.seq, next, append(bytes.Clone(text), bytes.Repeat([]byte{0xee}, tfc)...)))
	}
	return all
}

// TestFragmentedESP: outer fragments are put together before ESP is looked at (RFC 4303
// §3.4.1), and a guard that is closed for cleartext lets all of them in.
func TestFragmentedESP(t *testing.T) {
	r := newRig(t)
	for _, p := range paths {
		for _, tunnel := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/tunnel=%v", p, tunnel), func(t *testing.T) {
				s := r.newSender(p, tunnel)
				r.B.Xfrm("policy", "flush")
				r.B.Batch(s.state("") + inPolicies(p.v6))
				s.good(s.next())
				text, next, _ := s.carry(packets.UDPProto, s.datagram(1))
				whole := p.wrap(s.Seal(s.seq, next, text))
				before := r.B.Drops()
				for _, f := range cut(p, whole) {
					r.send(t, f)
				}
				r.delivered(t, s.want)
				r.dropped(t, before, "", 0)
			})
		}
	}
	r.stop()
}

// cut makes two fragments of a packet without options.
func cut(p path, whole []byte) [][]byte {
	const at = 48
	ip := p.ip()
	if p.udp {
		ip.Proto = packets.UDPProto
	}
	first, last := ip, ip
	first.MF, last.Offset = true, at
	body := whole[20:]
	if p.v6 {
		body = whole[40:]
		first.Ext = []packets.Ext{{Kind: packets.Fragment, Data: []byte{0, 1, 0, 0, 0, 77}}}
		last.Ext = []packets.Ext{{Kind: packets.Fragment, Data: []byte{0, at, 0, 0, 0, 77}}}
	}
	return [][]byte{first.Packet(body[:at]), last.Packet(body[at:])}
}

// TestAdd: what the device does not do, it says when the SA is added.
func TestAdd(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		name, words string
		icv         int
		want        string // part of the refusal; "" accepts
	}{
		{"ICV 64", "", 8, ""},
		{"window 31", "replay-window 31", 16, "window"},
		{"window 5000", "replay-window 5000", 16, "window"},
		{"window 32", "replay-window 32", 16, ""},
		{"window 4096", "replay-window 4096", 16, ""},
		{"ESN without window", "flag esn replay-window 0 dir in", 16, "replay-window"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := r.newSender(path{}, false)
			s.ICVLen = c.icv
			args := splitCommand(s.state(c.words))
			got := r.B.Xfrm(args...)
			switch {
			case c.want == "" && got.Code != 0:
				t.Errorf("refused: %s", got.Stderr)
			case c.want != "" && (got.Code == 0 || !strings.Contains(got.Stderr, c.want)):
				t.Errorf("exit %d, %q: want a refusal with %q", got.Code, got.Stderr, c.want)
			}
			listed := strings.Contains(r.B.Xfrm("state", "list").Stdout, fmt.Sprintf("spi 0x%08x", s.SPI))
			if listed != (c.want == "") {
				t.Errorf("listed: %v", listed)
			}
		})
	}
	r.stop()
}

// splitCommand are the words behind `ip xfrm`.
func splitCommand(line string) []string {
	return strings.Fields(strings.ReplaceAll(line, "'", ""))[2:]
}
