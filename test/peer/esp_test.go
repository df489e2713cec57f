package peer

import (
	"bytes"
	"testing"

	"espalier/test/packets"
)

// TestESP sends packets whose ESP is bad, in transport mode.
func TestESP(t *testing.T) {
	runBad(t, []badCase{
		{name: "wrong key", reason: "in-integrity", send: func(s *sender) [][]byte {
			other := s.SA
			other.Key = bytes.Repeat([]byte{1}, len(s.Key))
			return [][]byte{other.Seal(s.next(), packets.UDPProto, s.datagram(1))}
		}},
		{name: "wrong salt", reason: "in-integrity", send: func(s *sender) [][]byte {
			other := s.SA
			other.Key = bytes.Clone(s.Key)
			other.Key[len(s.Key)-1] ^= 1
			return [][]byte{other.Seal(s.next(), packets.UDPProto, s.datagram(1))}
		}},
		{name: "one bit changed", reason: "in-integrity", send: func(s *sender) [][]byte {
			var all [][]byte
			whole := s.Seal(s.next(), packets.UDPProto, s.datagram(1))
			for _, at := range []int{4, 7, 8, 15, 16, len(whole) / 2, len(whole) - 17, len(whole) - 16, len(whole) - 1} {
				pkt := bytes.Clone(whole)
				pkt[at] ^= 0x10
				all = append(all, pkt)
			}
			return all
		}},
		{name: "ICV of 96 bits for 128", reason: "in-integrity", send: func(s *sender) [][]byte {
			other := s.SA
			other.ICVLen = 12
			return [][]byte{other.Seal(s.next(), packets.UDPProto, s.datagram(1))}
		}},
		{name: "cut behind the trailer", reason: "in-integrity", send: func(s *sender) [][]byte {
			whole := s.Seal(s.next(), packets.UDPProto, s.datagram(1))
			return [][]byte{whole[:len(whole)-1], whole[:len(whole)-4], whole[:len(whole)-16], whole[:34]}
		}},
		{name: "truncated", reason: "in-truncated", send: func(s *sender) [][]byte {
			var all [][]byte
			whole := s.Seal(s.next(), packets.UDPProto, s.datagram(1))
			for _, n := range []int{1, 3, 4, 7, 8, 15, 16, 17, 32, 33} {
				all = append(all, whole[:n])
			}
			return all
		}},
		{name: "empty", reason: "in-truncated", on: onlyRaw, send: func(*sender) [][]byte { return [][]byte{{}} }},
		{name: "keepalive of two bytes", reason: "in-truncated", send: func(*sender) [][]byte { return [][]byte{{0xff, 0xff}} }},
		{name: "keepalive", on: onlyUDP, send: func(*sender) [][]byte { return [][]byte{{0xff}} }},
		{name: "empty keepalive", on: onlyUDP, send: func(*sender) [][]byte { return [][]byte{{}} }},
		{name: "non-ESP marker", reason: "in-not-esp", on: onlyUDP, send: func(*sender) [][]byte {
			return [][]byte{make([]byte, 4), append(make([]byte, 4), bytes.Repeat([]byte{0x2e}, 28)...)}
		}},
		{name: "SPI 0", reason: "in-no-sa", on: onlyRaw, send: func(*sender) [][]byte { return [][]byte{make([]byte, 64)} }},
		{name: "unknown SPI", reason: "in-no-sa", send: func(s *sender) [][]byte {
			other := s.SA
			other.SPI = 0xdeadbeef
			return [][]byte{other.Seal(1, packets.UDPProto, s.datagram(1))}
		}},
		{name: "an SA for sending", reason: "in-direction", words: "dir out", foreign: true, send: oneGoodLooking},
		{name: "UDP for an SA without", reason: "in-encapsulation", words: "no-encap", on: onlyUDP, foreign: true, send: oneGoodLooking},
		{name: "bare for an SA with UDP", reason: "in-encapsulation", words: "encap espinudp 4500 4500 0.0.0.0", on: onlyRaw, foreign: true, send: oneGoodLooking},
		{name: "padding of other bytes", reason: "in-padding", send: func(s *sender) [][]byte {
			d := s.datagram(1)
			return [][]byte{
				s.SealText(s.next(), append(bytes.Clone(d), 0, 0, 2, packets.UDPProto)),
				s.SealText(s.next(), append(bytes.Clone(d), 1, 2, 4, 3, 4, packets.UDPProto)),
				s.SealText(s.next(), append(bytes.Clone(d), 2, 1, packets.UDPProto)),
			}
		}},
		{name: "padding longer than the text", reason: "in-padding", send: func(s *sender) [][]byte {
			return [][]byte{
				s.SealText(s.next(), []byte{1, packets.UDPProto}),
				s.SealText(s.next(), []byte{1, 2, 3, packets.UDPProto}),
				s.SealText(s.next(), []byte{1, 2, 255, packets.UDPProto}),
			}
		}},
		{name: "UDP shorter than its header", reason: "in-length", send: func(s *sender) [][]byte {
			return [][]byte{s.Seal(s.next(), packets.UDPProto, make([]byte, 1)), s.Seal(s.next(), packets.UDPProto, make([]byte, 7))}
		}},
		{name: "UDP length beyond the payload", reason: "in-length", send: func(s *sender) [][]byte {
			d := s.datagram(1)
			d[5]++
			return [][]byte{s.Seal(s.next(), packets.UDPProto, d)}
		}},
		{name: "UDP length below its header", reason: "in-length", send: func(s *sender) [][]byte {
			d := s.datagram(1)
			d[4], d[5] = 0, 7
			return [][]byte{s.Seal(s.next(), packets.UDPProto, d)}
		}},
	}, nil)
}

// oneGoodLooking is a packet that only the SA's use makes bad.
func oneGoodLooking(s *sender) [][]byte {
	return [][]byte{s.Seal(s.next(), packets.UDPProto, s.datagram(1))}
}
