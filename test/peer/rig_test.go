package peer

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"espalier/internal/inet"
	"espalier/test/lab"
	"espalier/test/packets"
)

// patience is how long a packet may take through a device under the race detector.
const patience = 20 * time.Second

// rig is host B with a device, and the test in the place of host A.
type rig struct {
	*lab.Lab
	t    *testing.T
	wire *packets.Link // A's end of the cable
	tun  *packets.Link // B's TUN
	spi  uint32        // the last one given out

	sockets map[string]net.PacketConn
}

// newRig starts the device. Somebody listens for what is delivered: the kernel's error messages
// would only be noise.
func newRig(t *testing.T) *rig {
	l := lab.New(t, "")
	lab.Tools(t, "ip", "ethtool")
	for net := range insides {
		for _, v6 := range []bool{false, true} {
			b := inside(net, v6)[1]
			l.B.Must("ip", "addr", "add", netip.PrefixFrom(b, b.BitLen()).String(), "dev", "lo", "nodad")
		}
	}
	l.B.StartDevice()
	r := &rig{Lab: l, t: t, wire: l.Wire(l.A), tun: l.B.TUN(), spi: 0x10000, sockets: make(map[string]net.PacketConn)}
	r.listen(l.B, "udp", fmt.Sprintf(":%d", goodPort))
	return r
}

// listen opens a socket on a host, once.
func (r *rig) listen(h *lab.Host, network, address string) net.PacketConn {
	key := h.Name + network + address
	if c := r.sockets[key]; c != nil {
		return c
	}
	var c net.PacketConn
	err := h.Do(func() (err error) {
		c, err = net.ListenPacket(network, address)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	r.sockets[key] = c
	return c
}

// stop ends the device: it must have survived all it was sent.
func (r *rig) stop() {
	if code := r.B.Stop(); code != 0 {
		r.t.Errorf("the device ended with %d", code)
	}
}

// path is how ESP travels from A to B.
type path struct{ v6, udp bool }

var paths = []path{{false, false}, {false, true}, {true, false}, {true, true}}

func (p path) String() string {
	return map[bool]string{false: "v4", true: "v6"}[p.v6] + map[bool]string{false: "", true: "-udp"}[p.udp]
}

func (p path) ends() (a, b netip.Addr) { return lab.Pair{V6: p.v6}.Ends() }

// ip is the outer header.
func (p path) ip() packets.IP {
	a, b := p.ends()
	return packets.IP{Src: a, Dst: b, Proto: packets.ESP}
}

// wrap puts the outer headers before an ESP packet.
func (p path) wrap(esp []byte) []byte { return p.wrapIn(p.ip(), esp) }

func (p path) wrapIn(ip packets.IP, esp []byte) []byte {
	if !p.udp {
		return ip.Packet(esp)
	}
	ip.Proto = packets.UDPProto
	return ip.Packet(packets.UDP(netip.AddrPortFrom(ip.Src, 4500), netip.AddrPortFrom(ip.Dst, 4500), esp))
}

// insides are how many pairs of inner addresses there are for tunnel mode, so that each can
// have policies of its own.
const insides = 9

func inside(net int, v6 bool) [2]netip.Addr {
	f := "10.9.%d.%d"
	if v6 {
		f = "fd09:0:0:%d::%d"
	}
	return [2]netip.Addr{netip.MustParseAddr(fmt.Sprintf(f, net, 1)), netip.MustParseAddr(fmt.Sprintf(f, net, 2))}
}

// goodPort takes what is delivered.
const goodPort = 7777

// sender is the test as the sender of one SA.
type sender struct {
	path
	packets.SA
	tunnel bool
	net    int // tunnel mode: the inner addresses
	seq    uint64
	want   [][]byte // inner packets that the device is to deliver
}

// newSender makes up an SA; state tells host B of it.
func (r *rig) newSender(p path, tunnel bool) *sender {
	r.spi++
	return &sender{path: p, tunnel: tunnel, SA: packets.SA{SPI: r.spi, Key: lab.Pair{}.Key(r.spi)}}
}

// state is the command that adds the SA on host B; words are more of it.
func (s *sender) state(words string) string {
	a, b := s.ends()
	mode, icv := "transport", 128
	if s.tunnel {
		mode = "tunnel"
	}
	if s.ICVLen != 0 {
		icv = 8 * s.ICVLen
	}
	cmd := fmt.Sprintf("ip xfrm state add src %s dst %s proto esp spi %#x reqid %d mode %s aead 'rfc4106(gcm(aes))' 0x%x %d", a, b, s.SPI, reqid, mode, s.Key, icv)
	if !strings.Contains(words, "replay-window") && !strings.Contains(words, "dir out") {
		words += " replay-window 64"
	}
	if s.udp && !strings.Contains(words, "no-encap") {
		words += " encap espinudp 4500 4500 0.0.0.0"
	}
	return cmd + " " + strings.TrimSpace(strings.ReplaceAll(words, "no-encap", "")) + "\n"
}

const reqid = 1

// inner are the addresses of what ESP carries.
func (s *sender) inner() (a, b netip.Addr) {
	if s.tunnel {
		in := inside(s.net, s.v6)
		return in[0], in[1]
	}
	return s.ends()
}

// next is a fresh sequence number.
func (s *sender) next() uint64 {
	s.seq++
	return s.seq
}

// datagram is a UDP datagram between the inner addresses; no two are alike.
func (s *sender) datagram(seq uint64) []byte {
	a, b := s.inner()
	return packets.UDP(netip.AddrPortFrom(a, 7000), netip.AddrPortFrom(b, goodPort), fmt.Appendf(nil, "SPI %#x packet %d", s.SPI, seq))
}

// good is an ESP packet that the device is to deliver.
func (s *sender) good(seq uint64) []byte {
	text, next, whole := s.carry(packets.UDPProto, s.datagram(seq))
	s.want = append(s.want, whole)
	return s.Seal(seq, next, text)
}

// carry is what ESP carries of an upper-layer packet, its next header, and the packet as the
// device would deliver it.
func (s *sender) carry(proto byte, upper []byte) (text []byte, next byte, whole []byte) {
	a, b := s.inner()
	// A UDP socket does not tell DF and identification of the outer header: in transport mode
	// the packet gets DF, with which the identification 0 means nothing (RFC 6864 §4).
	df := s.udp && !s.tunnel
	whole = packets.IP{Src: a, Dst: b, Proto: proto, DF: df}.Packet(upper)
	switch {
	case !s.tunnel:
		return upper, proto, whole
	case s.v6:
		return whole, packets.IPv6, whole
	}
	return whole, packets.IPIP, whole
}

// delivered compares what the device has put into the TUN, in order.
func (r *rig) delivered(t *testing.T, want [][]byte) {
	t.Helper()
	for i, w := range want {
		got, err := r.tun.Next(patience)
		if err != nil {
			t.Fatalf("packet %d of %d: %v", i+1, len(want), err)
		}
		if !bytes.Equal(numbered(got, w), w) {
			t.Fatalf("packet %d of %d:\n%x delivered,\n%x expected", i+1, len(want), got, w)
		}
	}
}

// numbered gives an IPv4 packet with DF the identification of another: it means nothing (RFC 6864 §4),
// and those of packets that were joined count upwards. Its header's checksum must be right.
func numbered(pkt, like []byte) []byte {
	const df = 0x40
	if len(pkt) != len(like) || len(pkt) < inet.IPv4Len || pkt[0] != 0x45 || pkt[6]&df == 0 || inet.Fold(inet.Sum(pkt[:inet.IPv4Len], 0)) != 0 {
		return pkt
	}
	pkt = bytes.Clone(pkt)
	copy(pkt[4:6], like[4:6])
	inet.SetIPv4Checksum(pkt)
	return pkt
}

// drain forgets what a failed test has left behind.
func (r *rig) drain() {
	for err := error(nil); err == nil; {
		_, err = r.tun.Next(100 * time.Millisecond)
	}
}

func (r *rig) send(t *testing.T, pkt []byte) {
	t.Helper()
	if err := r.wire.Send(pkt); err != nil {
		t.Fatal(err)
	}
}

// dropped compares the drops since before.
func (r *rig) dropped(t *testing.T, before map[string]uint64, reason string, n int) {
	t.Helper()
	want := make(map[string]uint64)
	if n > 0 {
		want[reason] = uint64(n)
	} else {
		time.Sleep(20 * time.Millisecond) // in which one that is not wanted would be counted
	}
	var got map[string]uint64
	r.B.AwaitDrops(func(now map[string]uint64) bool {
		got = make(map[string]uint64)
		for k, v := range now {
			if v > before[k] {
				got[k] = v - before[k]
			}
		}
		return maps.Equal(got, want) || n == 0
	})
	if !maps.Equal(got, want) {
		t.Errorf("drops %v, want %v", got, want)
	}
}
