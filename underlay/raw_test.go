package underlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/internal/inet"
)

const (
	testTOS  = 0xb9 // EF, ECT(1)
	testTTL  = 77
	testFlow = 0xabcde
)

// IPv6 options of type 0x1e, which is for experiments (RFC 4727) and skipped by nodes
// that do not know it.
var (
	hopByHop     = []byte{0, 0, 0x1e, 4, 1, 2, 3, 4}
	destination6 = []byte{0, 1, 0x1e, 12, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 1, 2}
	noOperations = []byte{1, 1, 1, 0}
)

// espPacket is an IP packet of protocol 50 from a to b with options: of IPv4 as they are,
// for IPv6 hopByHop and destination6 if any are given.
func espPacket(p *pair, v6 bool, options []byte, size, number int) []byte {
	var b []byte
	if v6 {
		b = make([]byte, 40)
		binary.BigEndian.PutUint32(b, 6<<28|testTOS<<20|testFlow)
		b[6], b[7] = inet.ProtoESP, testTTL
		s, d := p.src(true).As16(), p.dst(true).As16()
		copy(b[8:], s[:])
		copy(b[24:], d[:])
		if options != nil {
			b[6] = inet.ProtoHopByHop
			b = append(append(b, hopByHop...), destination6...)
			b[40], b[48] = inet.ProtoDestOpts, inet.ProtoESP
		}
		b = append(b, payload(number, size)...)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		return b
	}
	b = make([]byte, 20)
	b[0] = 0x40 | uint8(20+len(options))/4
	b[1], b[8], b[9] = testTOS, testTTL, inet.ProtoESP
	binary.BigEndian.PutUint16(b[4:], uint16(1000+number))
	b[6] = 0x40
	s, d := p.src(false).As4(), p.dst(false).As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	b = append(append(b, options...), payload(number, size)...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	inet.SetIPv4Checksum(b)
	return b
}

func TestRawCarriesTheHeader(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		r, s := listenRaw(t, p.b, v6), newSender(t, p.a, Config{})
		for _, options := range [][]byte{nil, noOperations} {
			pkt := espPacket(p, v6, options, 1000, 3)
			if n, err := s.Send([][]byte{pkt}); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			d := collect(t, r, 1)[0]
			if d.Remote != netip.AddrPortFrom(p.src(v6), 0) || d.Local != netip.AddrPortFrom(p.dst(v6), 0) {
				t.Errorf("from %v to %v", d.Remote, d.Local)
			}
			h, err := inet.Parse(pkt)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(d.Payload, pkt[h.Len:]) {
				t.Errorf("payload differs: %d bytes, want %d", len(d.Payload), len(pkt)-h.Len)
			}
			want := pkt[:h.Len]
			if v6 {
				clear(want[4:6]) // the kernel does not tell the length
			}
			if !bytes.Equal(d.Header, want) || d.ProtocolAt != h.ProtocolAt {
				t.Errorf("header, protocol at %d:\n% x\nwant, protocol at %d:\n% x", d.ProtocolAt, d.Header, h.ProtocolAt, want)
			}
		}
	})
}

func TestRawReceivesReassembled(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		r, s := listenRaw(t, p.b, v6), newSender(t, p.a, Config{})
		pkt := espPacket(p, v6, noOperations, 4000, 5)
		if !v6 {
			pkt[6] = 0
		}
		frags := fragment(pkt, v6)
		if n, err := s.Send(frags); n != len(frags) || err != nil {
			t.Fatal(n, err)
		}
		d := collect(t, r, 1)[0]
		h, _ := inet.Parse(pkt)
		if !bytes.Equal(d.Payload, pkt[h.Len:]) {
			t.Errorf("payload differs: %d bytes, want %d", len(d.Payload), len(pkt)-h.Len)
		}
		got := d.Header
		if !v6 {
			inet.SetIPv4Checksum(pkt)
			if total := int(binary.BigEndian.Uint16(got[2:])); total != len(pkt) || got[6]&0x20 != 0 {
				t.Errorf("header of a fragment: % x", got)
			}
		} else {
			clear(pkt[4:6])
		}
		if d.ProtocolAt != h.ProtocolAt || got[d.ProtocolAt] != inet.ProtoESP || len(got) != h.Len {
			t.Errorf("header, protocol at %d: % x", d.ProtocolAt, got)
		}
		if v6 && !bytes.Equal(got, pkt[:h.Len]) {
			t.Errorf("header\n% x, want\n% x", got, pkt[:h.Len])
		}
	})
}

// fragment cuts a packet in two. IPv6 hop-by-hop options stay in front of the fragment
// header, destination options follow it.
func fragment(pkt []byte, v6 bool) [][]byte {
	if !v6 {
		h := int(pkt[0]&15) * 4
		first := append([]byte(nil), pkt[:h+1400]...)
		second := append(append([]byte(nil), pkt[:h]...), pkt[h+1400:h+2800]...)
		third := append(append([]byte(nil), pkt[:h]...), pkt[h+2800:]...)
		first[6] = 0x20
		binary.BigEndian.PutUint16(second[6:], 0x2000|1400/8)
		binary.BigEndian.PutUint16(third[6:], 2800/8)
		return [][]byte{first, second, third}
	}
	const head = 48 // fixed header, hop-by-hop options
	var out [][]byte
	for at := head; at < len(pkt); at += 1400 {
		end := min(at+1400, len(pkt))
		f := append([]byte(nil), pkt[:head]...)
		f[40] = inet.ProtoFragment
		more := uint16(0)
		if end < len(pkt) {
			more = 1
		}
		f = append(f, inet.ProtoDestOpts, 0, 0, 0, 0, 0, 0, 42)
		binary.BigEndian.PutUint16(f[head+2:], uint16(at-head)|more)
		f = append(f, pkt[at:end]...)
		binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
		out = append(out, f)
	}
	return out
}

func TestRawManyPackets(t *testing.T) {
	p := newPair(t)
	r4, r6, s := listenRaw(t, p.b, false), listenRaw(t, p.b, true), newSender(t, p.a, Config{})
	var pkts [][]byte
	for i := range 600 { // families in runs and mixed, more than a system call takes
		pkts = append(pkts, espPacket(p, i%200 >= 100 && i%3 > 0, nil, 100+i, i))
	}
	if n, err := s.Send(pkts); n != len(pkts) || err != nil {
		t.Fatal(n, err)
	}
	var want4, want6 [][]byte
	for _, b := range pkts {
		if b[0]>>4 == 4 {
			want4 = append(want4, b[20:])
		} else {
			want6 = append(want6, b[40:])
		}
	}
	for _, x := range []struct {
		r    *Receiver
		want [][]byte
	}{{r4, want4}, {r6, want6}} {
		for i, d := range collect(t, x.r, len(x.want)) {
			if !bytes.Equal(d.Payload, x.want[i]) {
				t.Fatalf("packet %d differs or is out of order", i)
			}
		}
	}
}

func TestFailuresDoNotHoldUpOthers(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		r, s := listenRaw(t, p.b, v6), newSender(t, p.a, Config{})
		good := func(i int) []byte { return espPacket(p, v6, nil, 200, i) }
		nowhere := good(1)
		if v6 {
			copy(nowhere[24:], "\x20\x01\x0d\xb8")
		} else {
			copy(nowhere[16:], []byte{203, 0, 113, 1})
		}
		pkts := [][]byte{
			espPacket(p, v6, nil, 1600, 0), good(1), {0x99}, good(3), nowhere,
			espPacket(p, v6, nil, 9000, 5), good(6), nil,
		}
		for range 2 {
			n, err := s.Send(pkts)
			var failed *SendError
			if n != 3 || !errors.As(err, &failed) {
				t.Fatalf("sent %d, error %v", n, err)
			}
			want := []Failure{{0, unix.EMSGSIZE}, {2, unix.EINVAL}, {4, unix.ENETUNREACH}, {5, unix.EMSGSIZE}, {7, unix.EINVAL}}
			if len(failed.Failed) != len(want) {
				t.Fatalf("failures %v, want %v", failed.Failed, want)
			}
			for i, f := range failed.Failed {
				if f != want[i] {
					t.Errorf("failure %v, want %v", f, want[i])
				}
			}
			if !errors.Is(err, unix.EMSGSIZE) || !strings.Contains(err.Error(), "5 packets") {
				t.Errorf("error reads %q", err)
			}
			got := collect(t, r, 3)
			for i, number := range []int{1, 3, 6} {
				if !bytes.Equal(got[i].Payload, payload(number, 200)) {
					t.Errorf("datagram %d is not packet %d", i, number)
				}
			}
		}
	})
}

// TestFirewallRefusal also shows that the packets carry the mark.
func TestFirewallRefusal(t *testing.T) {
	p := newPair(t)
	nft, err := exec.LookPath("nft")
	if err != nil && os.Getenv("CI") == "" {
		t.Skip("needs nft: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
	r, s := listenRaw(t, p.b, false), newSender(t, p.a, Config{})
	in(t, p.a, func() error {
		cmd := exec.Command(nft, "-f", "-")
		cmd.Stdin = strings.NewReader("table ip t { chain c { type filter hook output priority 0;\n" +
			"meta mark " + strconv.Itoa(testMark) + " ip length 121 drop; meta mark != " + strconv.Itoa(testMark) + " drop\n}\n}\n")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Logf("nft: %s", out)
		}
		return err
	})
	pkts := [][]byte{espPacket(p, false, nil, 100, 0), espPacket(p, false, nil, 101, 1), espPacket(p, false, nil, 102, 2)}
	n, err := s.Send(pkts)
	var failed *SendError
	if n != 2 || !errors.As(err, &failed) || len(failed.Failed) != 1 || failed.Failed[0] != (Failure{1, unix.EPERM}) {
		t.Fatalf("sent %d, error %v", n, err)
	}
	collect(t, r, 2)
}

func TestLinkLocal(t *testing.T) {
	p := newPair(t)
	local := [2]netip.Addr{netip.MustParseAddr("fe80::a1"), netip.MustParseAddr("fe80::b2")}
	in(t, p.a, func() error { return addLinkLocal(local[0]) })
	in(t, p.b, func() error { return addLinkLocal(local[1]) })
	scope, peerScope := uint32(wireIndex(t, p.a)), strconv.Itoa(wireIndex(t, p.b))
	p.srcs[1], p.dsts[1] = local[0], local[1]

	r, s := listenRaw(t, p.b, true), newSender(t, p.a, Config{Scope: scope})
	if _, err := s.Send([][]byte{espPacket(p, true, nil, 10, 0)}); err != nil {
		t.Fatal(err)
	}
	d := collect(t, r, 1)[0]
	if d.Remote.Addr() != local[0].WithZone(peerScope) || d.Local.Addr() != local[1].WithZone(peerScope) {
		t.Errorf("raw: from %v to %v", d.Remote, d.Local)
	}

	ur, us := listenUDP(t, p.b, Config{}, true, 4500), listenUDP(t, p.a, Config{}, true, 4500)
	dst := netip.AddrPortFrom(local[1].WithZone(strconv.Itoa(int(scope))), 4500)
	if err := us.Send(Message{Src: netip.AddrPortFrom(local[0], 0), Dst: dst, Payloads: [][]byte{{1, 2}}}); err != nil {
		t.Fatal(err)
	}
	d = collect(t, ur, 1)[0]
	if d.Remote != netip.AddrPortFrom(local[0].WithZone(peerScope), 4500) {
		t.Errorf("UDP: from %v", d.Remote)
	}
	named := netip.AddrPortFrom(local[1].WithZone("wire0"), 4500)
	if err := us.Send(Message{Dst: named, Payloads: [][]byte{{1}}}); err == nil || !strings.Contains(err.Error(), "interface index") {
		t.Errorf("zone by name: %v", err)
	}
}

func addLinkLocal(a netip.Addr) error {
	l, err := netlink.LinkByName("wire0")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(a.String() + "/64")
	if err != nil {
		return err
	}
	addr.Flags = unix.IFA_F_NODAD
	return netlink.AddrAdd(l, addr)
}
