package sequence

import (
	"slices"
	"testing"
)

func TestSequences(t *testing.T) {
	for _, c := range []struct {
		name string
		seen []uint32
		want Totals
	}{
		{"nothing", nil, Totals{}},
		{"in order", []uint32{1, 2, 3}, Totals{1, 3, 0, 0, 0}},
		{"the first is missing", []uint32{2, 3}, Totals{1, 2, 1, 0, 0}},
		{"a gap", []uint32{1, 2, 5, 6}, Totals{1, 4, 2, 0, 0}},
		{"two gaps", []uint32{1, 3, 4, 6}, Totals{1, 4, 2, 0, 0}},
		{"late, so nothing is missing", []uint32{1, 3, 2, 4}, Totals{1, 4, 0, 1, 0}},
		{"late once, then again", []uint32{1, 3, 2, 2}, Totals{1, 4, 0, 1, 1}},
		{"again", []uint32{1, 2, 2, 1}, Totals{1, 4, 0, 0, 2}},
		{"a number that none has", []uint32{1, 0}, Totals{1, 2, 0, 0, 1}},
		{"more missing than is remembered", []uint32{1, 2 + rememberMissing + 10, 3}, Totals{1, 3, rememberMissing + 9, 1, 0}},
		{"up to the end", []uint32{1, 1<<32 - 1}, Totals{1, 2, 1<<32 - 3, 0, 0}},
	} {
		s := make(sequences)
		for _, n := range c.seen {
			s.see(7, n)
		}
		if got := s.totals(); got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestSPIsCountByThemselves(t *testing.T) {
	s := make(sequences)
	for n := range uint32(100) {
		s.see(1, n+1)
		if n != 50 {
			s.see(2, n+1)
		}
	}
	want := Totals{SPIs: 2, Seen: 199, Missing: 1}
	if got := s.totals(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// header is an ESP header, and what is behind it.
func header(spi, number byte, behind int) []byte {
	return append([]byte{0, 0, 0, spi, 0, 0, 0, number}, make([]byte, behind)...)
}

// packet is an IPv4 packet of a length that may be more than what there is of it.
func packet(protocol byte, length int, upper ...byte) []byte {
	p := make([]byte, 20, 20+len(upper))
	p[0], p[2], p[3], p[9] = 0x45, byte(length>>8), byte(length), protocol
	return append(p, upper...)
}

func udp(port uint16, segments ...[]byte) []byte {
	u := []byte{0x11, 0x94, byte(port >> 8), byte(port), 0, 0, 0, 0}
	return slices.Concat(append([][]byte{u}, segments...)...)
}

func TestESPHeaders(t *testing.T) {
	three := udp(4500, header(1, 1, 92), header(1, 2, 92), header(1, 3, 12))
	options := append([]byte{0x46}, packet(50, 32, append(make([]byte, 4), header(1, 9, 0)...)...)[1:]...)
	fragmented := packet(50, 120, header(1, 1, 92)...)
	fragmented[6] = 0x20
	for _, c := range []struct {
		name   string
		packet []byte
		gso    int
		want   []uint32 // numbers
		fails  bool
	}{
		{name: "protocol 50", packet: packet(50, 120, header(1, 4, 92)...), want: []uint32{4}},
		{name: "cut short by the capture", packet: packet(50, 1400, header(1, 4, 0)...), want: []uint32{4}},
		{name: "IP options", packet: options, want: []uint32{9}},
		{name: "ESP cut off", packet: packet(50, 27, header(1, 4, 0)[:7]...), fails: true},
		{name: "one in UDP", packet: packet(17, 128, udp(4500, header(1, 5, 92))...), want: []uint32{5}},
		{name: "a super packet", packet: packet(17, 248, three...), gso: 100, want: []uint32{1, 2, 3}},
		{name: "a super packet cut short by the capture", packet: packet(17, 248, three[:150]...), gso: 100, want: []uint32{1, 2}, fails: true},
		{name: "without its segment size", packet: packet(17, 248, three...), want: []uint32{1}},
		{name: "another port", packet: packet(17, 128, udp(53, header(1, 5, 92))...)},
		{name: "TCP", packet: packet(6, 128, header(1, 5, 100)...)},
		{name: "a fragment", packet: fragmented, fails: true},
		{name: "nothing"},
		{name: "IPv6", packet: append([]byte{0x60}, make([]byte, 60)...)},
		{name: "header too short", packet: append([]byte{0x44}, packet(50, 120, header(1, 4, 92)...)[1:]...), fails: true},
		{name: "UDP cut off", packet: packet(17, 128, 1, 2, 3), fails: true},
		{name: "UDP without payload", packet: packet(17, 28, udp(4500)...)},
	} {
		var got []uint32
		ok := espHeaders(c.packet, c.gso, func(spi, number uint32) {
			if spi != 1 {
				t.Errorf("%s: SPI %#x", c.name, spi)
			}
			got = append(got, number)
		})
		if !slices.Equal(got, c.want) || ok == c.fails {
			t.Errorf("%s: got %v, %v, want %v", c.name, got, ok, c.want)
		}
	}
}
