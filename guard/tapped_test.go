package guard

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

const testSPI = 0x10203040

// espTo is the beginning of an ESP packet.
func espTo(spi uint32) []byte {
	return append([]byte{byte(spi >> 24), byte(spi >> 16), byte(spi >> 8), byte(spi)}, make([]byte, 28)...)
}

func tappedLab(t *testing.T) (*lab, *Guard) {
	l := newLab(t)
	g, err := Open(Config{Devices: []string{"p4p1"}, Mark: testMark, Mask: 0xf0, Tap: "p4p1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return l, g
}

// forUs has the device take the frames of the lab for its own.
func (l *lab) forUs() {
	mac, _ := net.ParseMAC("02:00:00:00:00:98")
	ok(netlink.LinkSetHardwareAddr(l.device, mac))
}

var tapped4, tapped6 = Tapped{netip.MustParseAddr("10.0.0.1"), testSPI}, Tapped{netip.MustParseAddr("2001:db8::1"), testSPI}

func TestTapped(t *testing.T) {
	l, g := tappedLab(t)
	from4 := packet{src: "10.0.0.2", dst: "10.0.0.1", proto: unix.IPPROTO_ESP, payload: espTo(testSPI)}
	from6 := packet{src: "2001:db8::2", dst: "2001:db8::1", proto: unix.IPPROTO_ESP, payload: espTo(testSPI)}
	frames, passes := []frame{}, []bool{}
	add := func(pass bool, p packet, tags ...byte) {
		p.id = uint16(2000 + len(frames))
		frames, passes = append(frames, frame{pkt: p.bytes(), tags: tags}), append(passes, pass)
	}
	for _, p := range []packet{from4, from6} {
		add(false, p)
		add(true, with(p, func(p *packet) { p.payload = espTo(testSPI + 1) }))
		add(true, with(p, func(p *packet) { p.payload = espTo(testSPI)[:3] }))
		add(true, with(p, func(p *packet) { p.proto, p.payload = unix.IPPROTO_UDP, espTo(testSPI) }))
		add(true, p, 0x81, 0, 0x20, 0) // VLAN 0
	}
	add(true, with(from4, func(p *packet) { p.dst = "10.0.0.3" }))
	add(false, with(from4, func(p *packet) { p.options = []byte{1, 1, 1, 0} }))
	add(true, with(from4, func(p *packet) { p.more = true }))
	add(true, with(from4, func(p *packet) { p.fragOffset = 8 }))
	add(true, with(from6, func(p *packet) { p.dst = "2001:db8::3" }))
	add(true, behind(from6, unix.IPPROTO_HOPOPTS))
	add(true, fragment(from6, 0, true))

	all := slices.Repeat([]bool{true}, len(frames))
	check := func(when string, want []bool) {
		t.Helper()
		if got := l.crossIn(frames...); !slices.Equal(got, want) {
			t.Errorf("%s: passed %v, want %v\n%s", when, got, want, nft(t, "list", "ruleset"))
		}
	}
	ok(g.AddTapped(tapped4, tapped6))
	check("frames of others", all)
	l.forUs()
	check("tapped", passes)
	ok(g.Apply([]ipsec.Policy{{Direction: ipsec.Inbound, Selector: sel("10.9.0.0/16", "", 0, anyPort, anyPort), Action: ipsec.Discard}}, nil))
	check("with other rules", passes)
	if n, err := g.Counters(); err != nil || n != (Counters{}) {
		t.Errorf("counted %+v, %v: nothing was dropped", n, err)
	}
	ok(g.RemoveTapped(tapped4, tapped6))
	check("removed", all)
	ok(g.AddTapped(tapped6, tapped4, tapped4))
	check("added again", passes)

	// Of an earlier process nothing is left that holds packets back.
	next, err := Open(g.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	check("before Untap", passes)
	ok(next.Untap())
	check("after Untap", all)
}

// A change of one SA is one element, and another device is not concerned.
func TestTappedIsAnElement(t *testing.T) {
	inNamespace(t)
	ok(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "p4p1"}, PeerName: "p4p2"}))
	g, err := Open(Config{Devices: []string{"p4p1", "p4p2"}, Tap: "p4p1"})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ok(g.AddTapped(tapped4))
	before := g.devices[0].layout
	more := Tapped{Dst: tapped4.Dst, SPI: 9}
	ok(g.AddTapped(more))
	ok(g.RemoveTapped(tapped4))
	if g.devices[0].layout != before {
		t.Error("all rules were made anew")
	}
	rules := nft(t, "list", "ruleset")
	if !strings.Contains(rules, "elements = { 10.0.0.1 . 0.0.0.9 }") || strings.Count(rules, "_tapped") != 2 {
		t.Error(rules)
	}
	for _, bad := range []Tapped{{}, {Dst: netip.MustParseAddr("ff02::1")}, {Dst: netip.IPv4Unspecified()}} {
		if err := g.AddTapped(bad); !errors.Is(err, ipsec.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
