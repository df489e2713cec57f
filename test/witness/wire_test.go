package witness

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"espalier/internal/wire"
	"espalier/test/lab"
	"espalier/test/tshark"
)

const (
	pings    = 2       // echo requests each way
	tcpBytes = 100_000 // each way, there and back
)

// record sends the same traffic through an SA pair of each kind, and returns the capture of
// the cable and how many ESP packets were on it.
func record(t *testing.T, pairs []lab.Pair) (capture string, esp int) {
	t.Helper()
	l := lab.New(t, "")
	lab.Tools(t, "tshark", "ping")
	capture = filepath.Join(t.TempDir(), "wire.pcap")
	file, err := os.Create(capture)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	save, err := wire.NewPcapWriter(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range l.Hosts() {
		h.StartDevice()
	}
	w := l.Watch(l.A, save)
	for _, p := range pairs {
		for _, h := range l.Hosts() {
			program(l, h, p)
		}
		sendThrough(t, l, p)
	}
	counts, err := w.Stop()
	if err != nil {
		t.Fatal(err)
	}
	if err := save.Flush(); err != nil {
		t.Fatal(err)
	}
	if counts.Dropped != 0 || counts.Cleartext != 0 || counts.ESP == 0 {
		t.Fatalf("on the wire: %+v", counts)
	}
	for _, h := range l.Hosts() {
		h.Stop()
	}
	return capture, int(counts.ESP)
}

// echoID tells the pings of one direction of one pair from all others.
func echoID(spi uint32) int { return int(spi) }

func sendThrough(t *testing.T, l *lab.Lab, p lab.Pair) {
	t.Helper()
	sas := p.SAs()
	for _, d := range []struct {
		from, to *lab.Host
		sa       lab.SA
	}{{l.A, l.B, sas[0]}, {l.B, l.A, sas[1]}} {
		ping(t, d.from, d.sa.Dst, echoID(d.sa.SPI), pings)
		if err := lab.Exchange(d.from, d.to, netip.AddrPortFrom(d.sa.Dst, 0), tcpBytes); err != nil {
			t.Errorf("%s: %v", name(p), err)
		}
	}
}

// checkContent compares what was seen inside of ESP with what was sent.
func checkContent(t *testing.T, p lab.Pair, all map[uint32]*tshark.Seen) {
	t.Helper()
	request, reply := 8, 0
	if p.V6 {
		request, reply = 128, 129
	}
	sas := p.SAs()
	for i, sa := range sas {
		s := all[sa.SPI]
		if s == nil {
			t.Errorf("%s: nothing decrypted under SPI %#x", name(p), sa.SPI)
			continue
		}
		if n := s.Echoes[[2]int{request, echoID(sa.SPI)}]; n != pings {
			t.Errorf("%s: %d of %d echo requests under SPI %#x", name(p), n, pings, sa.SPI)
		}
		if n := s.Echoes[[2]int{reply, echoID(sas[1-i].SPI)}]; n != pings {
			t.Errorf("%s: %d of %d echo replies under SPI %#x", name(p), n, pings, sa.SPI)
		}
		if s.TCP < tcpBytes {
			t.Errorf("%s: %d bytes of TCP under SPI %#x, %d were sent", name(p), s.TCP, sa.SPI, tcpBytes)
		}
		for inner, n := range s.Inner {
			if !expected(p, inner) {
				t.Errorf("%s: %d packets under SPI %#x hold %q", name(p), n, sa.SPI, inner)
			}
		}
	}
}

// expected protocols right inside of ESP: in tunnel mode a whole packet.
func expected(p lab.Pair, inner string) bool {
	switch {
	case p.Tunnel && p.V6:
		return inner == "ipv6"
	case p.Tunnel:
		return inner == "ip"
	case p.V6:
		return inner == "icmpv6" || inner == "tcp"
	}
	return inner == "icmp" || inner == "tcp"
}

// TestTshark: tshark finds every ICV good and inside of each packet what was sent. A flipped
// bit in one key leaves no ICV under this key good, and all others as they were.
func TestTshark(t *testing.T) {
	pairs := cells([]bool{false})
	capture, sent := record(t, pairs)
	sas := sasOf(pairs)
	all, esp := tshark.Tally(tshark.Read(t, capture, tshark.Keys(false, sas...)))
	if esp != sent {
		t.Errorf("tshark sees %d ESP packets of %d", esp, sent)
	}
	for spi, s := range all {
		if s.Good != s.Frames || s.Bad != 0 {
			t.Errorf("SPI %#x: of %d ICVs tshark calls %d good, %d bad", spi, s.Frames, s.Good, s.Bad)
		}
	}
	for _, p := range pairs {
		checkContent(t, p, all)
	}
	t.Logf("%d ESP packets under %d SPIs", esp, len(all))

	wrong := len(sas) / 2
	sas[wrong] = tshark.Spoil(sas[wrong])
	all, _ = tshark.Tally(tshark.Read(t, capture, tshark.Keys(false, sas...)))
	for spi, s := range all {
		// Of a packet whose content makes no sense tshark may leave the ICV unjudged.
		if spi == sas[wrong].SPI && (s.Good != 0 || s.Bad == 0) || spi != sas[wrong].SPI && s.Good != s.Frames {
			t.Errorf("SPI %#x (its key is wrong: %v): of %d ICVs tshark calls %d good, %d bad", spi, spi == sas[wrong].SPI, s.Frames, s.Good, s.Bad)
		}
	}
}

func sasOf(pairs []lab.Pair) (sas []lab.SA) {
	for _, p := range pairs {
		both := p.SAs()
		sas = append(sas, both[:]...)
	}
	return sas
}

// TestTsharkESN: tshark 4.0 leaves the upper half of the numbers out of the ICV and calls each
// one bad, so that only the content is compared here.
func TestTsharkESN(t *testing.T) {
	var pairs []lab.Pair
	for _, p := range cells([]bool{true}) {
		if p.KeyBits == 256 && !p.UDP {
			pairs = append(pairs, p)
		}
	}
	capture, sent := record(t, pairs)
	all, esp := tshark.Tally(tshark.Read(t, capture, tshark.Keys(true, sasOf(pairs)...)))
	if esp != sent {
		t.Errorf("tshark sees %d ESP packets of %d", esp, sent)
	}
	for _, p := range pairs {
		checkContent(t, p, all)
	}
}
