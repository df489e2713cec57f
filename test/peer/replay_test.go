package peer

import (
	"fmt"
	"strings"
	"testing"

	"espalier/test/packets"
)

// TestReplay sends numbers that were used before, or are too old.
func TestReplay(t *testing.T) {
	cases := []badCase{
		{name: "number 0", reason: "in-replay", send: func(s *sender) [][]byte {
			return [][]byte{s.Seal(0, packets.UDPProto, s.datagram(0))}
		}},
		{name: "the same packet again", reason: "in-replay", send: func(s *sender) [][]byte {
			first := s.good(s.next())
			return [][]byte{first, first, first}
		}},
		{name: "a used number with other content", reason: "in-replay", send: func(s *sender) [][]byte {
			return [][]byte{s.good(s.next()), s.Seal(s.seq, packets.UDPProto, s.datagram(99))}
		}},
		{name: "forged numbers do not move the window", reason: "in-integrity", send: func(s *sender) [][]byte {
			forged := s.Seal(1<<20, packets.UDPProto, s.datagram(1<<20))
			forged[len(forged)-1] ^= 1
			return [][]byte{forged, s.good(s.next())}
		}},
		{name: "window 0", words: "replay-window 0", send: func(s *sender) [][]byte {
			first := s.good(s.next())
			s.want = append(s.want, s.want[0])
			s.seq += 5000
			return [][]byte{first, first, s.good(s.seq), s.good(2), s.good(1)}
		}},
		{name: "ESN: high half", words: "flag esn replay-window 64 replay-seq 0xfffffff0", reason: "in-integrity", send: acrossHighHalf},
		{name: "ESN: window over the border", words: "flag esn replay-window 64 replay-seq 0xfffffff0", reason: "in-replay", send: func(s *sender) [][]byte {
			const border = 1 << 32
			s.seq = border + 20
			beyond, late := s.good(s.seq), s.good(border-3)
			return [][]byte{beyond, late, s.good(border), late}
		}},
	}
	for _, size := range []uint64{32, 64, 4096} {
		cases = append(cases, badCase{
			name: fmt.Sprintf("older than window %d", size), words: windowWords(size), reason: "in-window",
			send: func(s *sender) [][]byte {
				s.seq = 3 * size
				return [][]byte{s.good(s.seq), s.Seal(s.seq-size, packets.UDPProto, s.datagram(1)), s.good(s.seq - size + 1), s.Seal(1, packets.UDPProto, s.datagram(1))}
			},
		}, badCase{
			name: fmt.Sprintf("replay in window %d", size), words: windowWords(size), reason: "in-replay",
			send: func(s *sender) [][]byte {
				s.seq = 2 * size
				newest, oldest := s.good(s.seq), s.good(s.seq-size+1)
				return [][]byte{newest, oldest, oldest}
			},
		})
	}
	runBad(t, cases, nil)
}

// windowWords: as ip does, a window of more than 32 needs no flag here.
func windowWords(size uint64) string { return fmt.Sprintf("replay-window %d", size) }

// acrossHighHalf goes on past 2^32, where packets carry small numbers again, and then
// sends what a sender without the high half would.
func acrossHighHalf(s *sender) [][]byte {
	const border = 1 << 32
	all := [][]byte{s.good(border - 5), s.good(border - 1), s.good(border), s.good(border + 1)}
	s.seq = border + 10
	wrong := s.Seal(5, packets.UDPProto, s.datagram(5))
	return append(all, wrong)
}

// TestNoWindowWarns: replay protection that is off does not stay unsaid.
func TestNoWindowWarns(t *testing.T) {
	r := newRig(t)
	s := r.newSender(path{}, false)
	r.B.Batch(s.state("replay-window 64"))
	if strings.Contains(r.B.Log(), "anti-replay") {
		t.Error("a warning about an SA with a window")
	}
	s = r.newSender(path{}, false)
	r.B.Batch(s.state("replay-window 0"))
	if want := fmt.Sprintf("spi=0x%08x", s.SPI); !r.B.AwaitLog("without anti-replay", want) {
		t.Errorf("no warning with %s in the log:\n%s", want, r.B.Log())
	}
	r.stop()
}
