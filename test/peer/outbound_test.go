package peer

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"espalier/test/lab"
	"espalier/test/packets"
)

// outSA is an SA by which host B sends; the test is its receiver.
type outSA struct {
	path
	packets.SA
	tunnel bool
	r      *rig
	sink   net.PacketConn // A's kernel puts outer fragments together for us
}

// outbound prepares B to send by a new SA: words are more of the SA, policy is what its
// policy says besides the addresses.
func (r *rig) outbound(p path, tunnel bool, words, policy string) *outSA {
	r.spi++
	o := &outSA{path: p, tunnel: tunnel, r: r, SA: packets.SA{SPI: r.spi, Key: lab.Pair{}.Key(r.spi)}}
	a, b := p.ends()
	mode, encap := "transport", ""
	if tunnel {
		mode = "tunnel"
	}
	if p.udp {
		encap = "encap espinudp 4500 4500 0.0.0.0"
	}
	r.B.Xfrm("policy", "flush")
	r.B.Xfrm("state", "flush")
	r.B.Batch(fmt.Sprintf("ip xfrm state add src %s dst %s proto esp spi %#x reqid %d mode %s aead 'rfc4106(gcm(aes))' 0x%x 128 dir out %s %s\n",
		b, a, o.SPI, reqid, mode, o.Key, encap, words) +
		fmt.Sprintf("ip xfrm policy add src %s dst %s %s dir out tmpl src %s dst %s proto esp reqid %d mode %s\n", b, a, policy, b, a, reqid, mode))
	network, port := map[path]string{{}: "ip4:50", {v6: true}: "ip6:50", {udp: true}: "udp4", {v6: true, udp: true}: "udp6"}[p], ""
	if p.udp {
		port = ":4500"
	}
	o.sink = r.listen(r.A, network, port)
	// What a failed test has left behind is not ours.
	o.sink.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	for err := error(nil); err == nil; {
		_, _, err = o.sink.ReadFrom(make([]byte, 1<<16))
	}
	return o
}

// packet is a UDP datagram from B to A with so many bytes of data.
func (o *outSA) packet(ip packets.IP, size int) []byte {
	ip.Dst, ip.Src = o.ends()
	ip.Proto = packets.UDPProto
	return ip.Packet(packets.UDP(netip.AddrPortFrom(ip.Src, 7000), netip.AddrPortFrom(ip.Dst, goodPort), bytes.Repeat([]byte{'x'}, size)))
}

// sends hands a packet to the device as B's kernel would.
func (o *outSA) sends(t *testing.T, pkt []byte) {
	t.Helper()
	if err := o.r.tun.Send(pkt); err != nil {
		t.Fatal(err)
	}
}

// arrives expects the packet at A as the next ESP packet, and returns its sequence number.
func (o *outSA) arrives(t *testing.T, want []byte, high uint32) uint64 {
	t.Helper()
	buf := make([]byte, 1<<16)
	o.sink.SetReadDeadline(time.Now().Add(patience))
	n, _, err := o.sink.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	seq, _, payload, err := o.Open(buf[:n], high)
	if err != nil {
		t.Fatal(err)
	}
	if !o.tunnel { // without its header
		want = want[max(0, len(want)-len(payload)):]
	}
	if !bytes.Equal(payload, want) {
		t.Fatalf("carried %x, want %x", payload, want)
	}
	return seq
}

// refuses sends bad packets, each of which has to be dropped under reason, and then a good
// one, which has to be the next to arrive.
func (o *outSA) refuses(t *testing.T, reason string, bad ...[]byte) {
	t.Helper()
	before := o.r.B.Drops()
	for _, pkt := range bad {
		o.sends(t, pkt)
	}
	good := o.packet(packets.IP{}, 40+o.r.tick())
	o.sends(t, good)
	o.arrives(t, good, 0)
	o.r.dropped(t, before, reason, len(bad))
}

// tick makes packets differ.
func (r *rig) tick() int {
	r.spi++
	return int(r.spi % 64)
}

func TestTooBig(t *testing.T) {
	r := newRig(t)
	r.B.Must("ip", "link", "set", r.B.TUNName(), "mtu", "9000")
	for _, p := range paths {
		for _, c := range []struct {
			name    string
			tunnel  bool
			df      bool // IPv4; IPv6 has no such flag
			refused bool
			on      func(path) bool
		}{
			{"transport DF", false, true, true, only4},
			{"tunnel DF", true, true, true, only4},
			{"transport", false, false, false, only4},
			{"transport", false, false, true, only6}, // the source is told, and cuts (RFC 8200 §5)
			{"tunnel", true, false, false, only4},
			{"tunnel", true, false, true, only6}, // RFC 2473 §7.1
		} {
			if c.on != nil && !c.on(p) {
				continue
			}
			t.Run(p.String()+"/"+c.name, func(t *testing.T) {
				o := r.outbound(p, c.tunnel, "", "")
				big := o.packet(packets.IP{DF: c.df, ID: 9}, 3000)
				if c.refused {
					o.refuses(t, "out-too-big", big, big)
					return
				}
				before := r.B.Drops()
				o.sends(t, big)
				o.arrives(t, big, 0)
				r.dropped(t, before, "", 0)
			})
		}
	}
	r.stop()
}

// TestSequenceNumbersRunOut: the last number is used, and none comes after it: a wrap would
// use a nonce twice. With ESN it goes on past 2^32.
func TestSequenceNumbersRunOut(t *testing.T) {
	r := newRig(t)
	for _, p := range paths {
		t.Run(p.String(), func(t *testing.T) {
			o := r.outbound(p, false, "replay-oseq 0xfffffffe", "")
			pkt := o.packet(packets.IP{}, 10)
			before := r.B.Drops()
			for range 4 {
				o.sends(t, pkt)
			}
			if seq := o.arrives(t, pkt, 0); seq != 0xffffffff {
				t.Errorf("sequence number %#x", seq)
			}
			o.sends(t, pkt)
			o.silent(t)
			r.dropped(t, before, "out-sequence-exhausted", 4)
		})
		t.Run(p.String()+"/ESN", func(t *testing.T) {
			o := r.outbound(p, false, "flag esn replay-oseq 0xfffffffe", "")
			o.ESN = true
			pkt := o.packet(packets.IP{}, 10)
			before := r.B.Drops()
			for want := uint64(0xffffffff); want <= 0x100000002; want++ {
				o.sends(t, pkt)
				if seq := o.arrives(t, pkt, uint32(want>>32)); seq != want {
					t.Errorf("sequence number %#x, want %#x", seq, want)
				}
			}
			r.dropped(t, before, "", 0)
		})
	}
	r.stop()
}

// silent waits for what must not come.
func (o *outSA) silent(t *testing.T) {
	t.Helper()
	o.sink.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, _, err := o.sink.ReadFrom(make([]byte, 1<<16)); err == nil {
		t.Errorf("a packet of %d bytes left", n)
	}
}

// TestOutbound hands over what cannot be protected; none of it leaves, in whatever form.
func TestOutbound(t *testing.T) {
	r := newRig(t)
	portPolicy := fmt.Sprintf("proto udp dport %d", goodPort)
	for _, p := range paths {
		play := func(name string, on func(path) bool, f func(t *testing.T)) {
			if on == nil || on(p) {
				t.Run(p.String()+"/"+name, f)
			}
		}
		a, b := p.ends()
		play("malformed", nil, func(t *testing.T) {
			o := r.outbound(p, false, "", "")
			long := o.packet(packets.IP{}, 10)
			o.refuses(t, "out-malformed", long[:len(long)-1], long[:30])
		})
		play("jumbogram", only6, func(t *testing.T) {
			o := r.outbound(p, true, "", "")
			jumbo := o.packet(packets.IP{Ext: []packets.Ext{{Kind: packets.HopByHop, Data: []byte{0xc2, 4, 0, 1, 0, 0}}}}, 100)
			jumbo[4], jumbo[5] = 0, 0
			o.refuses(t, "out-jumbogram", jumbo)
		})
		play("no SA", nil, func(t *testing.T) {
			o := r.outbound(p, false, "sel proto udp", "")
			o.refuses(t, "out-no-sa", packets.IP{Src: b, Dst: a, Proto: packets.TCP}.Packet(make([]byte, 20)))
		})
		play("action block", nil, func(t *testing.T) {
			o := r.outbound(p, false, "", "priority 10")
			r.B.Batch(fmt.Sprintf("ip xfrm policy add src %s dst %s proto tcp dir out action block\n", b, a))
			o.refuses(t, "out-discard", packets.IP{Src: b, Dst: a, Proto: packets.TCP}.Packet(make([]byte, 20)))
		})
		for _, where := range []string{"SA", "policy"} {
			play("fragment under the ports of "+where, nil, func(t *testing.T) {
				words, policy := "", portPolicy
				if where == "SA" {
					words, policy = "sel "+portPolicy, ""
				}
				o := r.outbound(p, true, words, policy)
				later := packets.IP{Src: b, Dst: a, Proto: packets.UDPProto, Offset: 64, ID: 3}
				if p.v6 {
					later.Ext = []packets.Ext{{Kind: packets.Fragment, Data: []byte{0, 64, 0, 0, 0, 3}}}
				}
				o.refuses(t, "out-fragment-selector", later.Packet(make([]byte, 32)))
			})
		}
		play("fragments that overlap", only4, func(t *testing.T) {
			o := r.outbound(p, false, "", "")
			first := packets.IP{Src: b, Dst: a, Proto: packets.UDPProto, MF: true, ID: 4}
			before := r.B.Drops()
			o.sends(t, first.Packet(make([]byte, 64))) // waits for its rest
			first.Offset = 32
			o.sends(t, first.Packet(make([]byte, 64)))
			good := o.packet(packets.IP{}, 10)
			o.sends(t, good)
			o.arrives(t, good, 0)
			r.dropped(t, before, "out-reassembly", 1)
		})
		play("extension headers out of order", func(p path) bool { return p.v6 && p.udp }, func(t *testing.T) {
			o := r.outbound(p, false, "", "")
			pad := []byte{1, 4, 0, 0, 0, 0}
			o.refuses(t, "out-extensions", o.packet(packets.IP{Ext: []packets.Ext{{Kind: packets.DestOpts, Data: pad}, {Kind: packets.DestOpts, Data: pad}}}, 10))
		})
	}
	r.stop()
}
