package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
	"espalier/underlay"
)

// refusing is a Wire whose packets are all too long.
type refusing struct{}

func (refusing) Send(packets [][]byte) (int, error) {
	e := new(underlay.SendError)
	for i := range packets {
		e.Failed = append(e.Failed, underlay.Failure{Index: i, Err: unix.EMSGSIZE})
	}
	return 0, e
}
func (refusing) SendUDP(*underlay.Message) error { return nil }

// probes makes the prober of a device send to a recorder.
func probes(d *Device) (*prober, *recorder) {
	wire := new(recorder)
	d.paths.prober = newProber(d, wire)
	return d.paths.prober, wire
}

// A probe has exactly its size on the wire, must not be cut, and goes beyond the path MTU if need be.
func TestProbeHasItsSize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawForm(t)
		least := minPathMTU4
		if f.outer6 {
			least = minPathMTU6
		}
		size := rapid.IntRange(least, 9200).Draw(t, "size") &^ 3
		d, a := formDevice(t, f, 9200)
		p, wire := probes(d)
		d.closerLook(a, 0)
		size = min(size, a.longest(size))
		d.lower(a, least, hostB)
		if !p.send(a, size, time.Now()) {
			t.Fatal("cannot be asked")
		}
		if !slices.Equal(wire.sizes, []int{size}) || wire.mayCut {
			t.Fatalf("sent %d, want %d", wire.sizes, size)
		}
		for _, pkt := range wire.whole {
			if h, err := inet.Parse(pkt); err != nil || !h.DontFragment {
				t.Fatalf("%+v, %v", h, err)
			}
		}
	})
}

// What does not carry packets between its ends is not asked; nor is what is not the SA they would take.
func TestProbesStayInsideOfTheSA(t *testing.T) {
	f := pathForm{mode: ipsec.Tunnel, keyBits: 128, icv: 128}
	for name, change := range map[string]func(*Device, *association){
		"no policy": func(d *Device, _ *association) { d.spd.flush() },
		"discard": func(d *Device, _ *association) {
			d.spd.put(d.spd.prepare(&ipsec.Policy{Direction: ipsec.Outbound, Action: ipsec.Discard, Priority: 0, Selector: ipsec.Selector{Protocol: inet.ProtoICMP}}, nil), nil)
			for _, p := range d.spd.newestFirst() {
				if p.Action == ipsec.Protect {
					d.spd.drop(p)
				}
			}
		},
		"a newer SA": func(d *Device, a *association) {
			sa := a.sa.read()
			sa.SPI, sa.Key = 0x2000, ipsec.NewKey(bytes.Repeat([]byte{3}, 20))
			if _, err := d.sad.add(sa, nil, nil); err != nil {
				t.Fatal(err)
			}
		},
	} {
		d, a := formDevice(t, f, 1500)
		p, wire := probes(d)
		if change(d, a); p.send(a, 1500, time.Now()) || len(wire.sizes) > 0 {
			t.Errorf("%s: asked with %v", name, wire.sizes)
		}
	}
}

// reply makes the answer of the other end's host out of a request.
func reply(request []byte) []byte {
	pkt := bytes.Clone(request)
	h, err := inet.Parse(pkt)
	if err != nil {
		panic(err)
	}
	addressed(pkt, h.Dst.String(), h.Src.String())
	pkt[h.Len] = echoReply[h.Version]
	binary.BigEndian.PutUint16(pkt[h.Len+2:], 0)
	sumICMP(pkt, h.Len, h.Dst, h.Src)
	return pkt
}

// The answer is taken out on its way in and goes on with the round; another ping's answer is delivered.
func TestAnswersAreTakenOut(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		d, a := formDevice(t, pathForm{mode: ipsec.Tunnel, outer6: v6, inner6: v6, keyBits: 128, icv: 128}, 1500)
		p, _ := probes(d)
		d.closerLook(a, 0)
		d.closerLook(a, largeEnough)
		send, _ := a.probe(time.Now(), &d.paths.times)
		if len(send) != 2 {
			t.Fatalf("to be sent: %v", send)
		}
		var delivered int
		in := newInbound(d, false, func(_ tun.VirtioHeader, _ []byte, packets int) { delivered += packets })
		sa := ipsec.SA{SPI: 0x3000, Mode: ipsec.Tunnel, Key: ipsec.NewKey(bytes.Repeat([]byte{9}, 20)), ICVBits: 128, Direction: ipsec.Inbound}
		sa.Dst, sa.Src = pair(v6)
		back, err := d.sad.add(sa, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		d.locals.replace(map[netip.Addr]struct{}{sa.Dst: {}})
		d.spd.put(d.spd.prepare(&ipsec.Policy{Direction: ipsec.Inbound, Action: ipsec.Protect, Processing: []ipsec.Processing{{Mode: ipsec.Tunnel}}}, nil), nil)
		deliver := func(pkt []byte) {
			h, err := inet.Parse(pkt)
			if err != nil {
				t.Fatal(err)
			}
			in.deliver(back, &parcel{buf: append(make([]byte, tun.HeaderLen), pkt...), header: h, outer: ipHeader(int(h.Version), 0)})
			in.tun.Flush()
		}
		size := send[1]
		largest := p.request(a, size, time.Now())
		h, _ := inet.Parse(largest)
		text := largest[h.Len:]
		for name, c := range map[string]struct {
			pkt   []byte
			taken bool
		}{
			"request":          {changed(reply(largest), v6, 0, echoReply[largest[0]>>4]^echoRequest[largest[0]>>4]), false},
			"another's answer": {changed(reply(largest), v6, echoHeaderLen, 0xff), false},
			"another id":       {changed(reply(largest), v6, 4, 0xff), false},
			"another SA":       {changed(reply(largest), v6, echoHeaderLen+probeSPIAt, 0xff), true},
			"too short":        {reply(largest)[:len(largest)-len(text)+echoHeaderLen+probeDataLen-1], false},
			"answer":           {reply(largest), true},
		} {
			if name == "too short" {
				inet.SetLength(c.pkt)
			}
			before := delivered
			if deliver(c.pkt); (delivered == before) != c.taken {
				t.Errorf("IPv6 %v, %s: delivered %v", v6, name, delivered > before)
			}
		}
		if a.path.probing.passed != size || !a.path.errand.asked.Load() || a.path.probing.rtt <= 0 {
			t.Errorf("IPv6 %v: %+v", v6, a.path.probing)
		}
		if n := d.drops[InPolicyMismatch].Load() + d.drops[InNoPolicy].Load(); n > 0 {
			t.Errorf("%d were not admitted", n)
		}
	}
}

// An answer in fragments is one, and none of its fragments are the host's.
func TestAnswerInFragments(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		d, a := formDevice(t, pathForm{mode: ipsec.Tunnel, outer6: v6, inner6: v6, keyBits: 128, icv: 128}, 1500)
		p, _ := probes(d)
		d.closerLook(a, 0)
		d.closerLook(a, largeEnough)
		a.probe(time.Now(), &d.paths.times)
		size := a.path.probing.round[1]
		whole := reply(p.request(a, size, time.Now()))
		if !v6 {
			whole[6] = 0
			binary.BigEndian.PutUint16(whole[4:], 7)
			inet.SetLength(whole)
		}
		h, err := inet.Parse(whole)
		if err != nil {
			t.Fatal(err)
		}
		take := func(pkt []byte) bool {
			h, err := inet.Parse(pkt)
			if err != nil {
				t.Fatal(err)
			}
			return p.takes(pkt, &h)
		}
		all := inet.Fragment(nil, whole, &h, 600, 7)
		if take(all[1]) {
			t.Errorf("IPv6 %v: a fragment of nothing is taken", v6)
		}
		for i, f := range all {
			if !take(f) {
				t.Errorf("IPv6 %v: fragment %d is not taken", v6, i)
			}
		}
		other := inet.Fragment(nil, whole, &h, 600, 8)[1]
		if binary.BigEndian.PutUint16(other[4:], 8); v6 {
			inet.SetLength(other)
		}
		if take(other) {
			t.Errorf("IPv6 %v: a fragment of another packet is taken", v6)
		}
		if a.path.probing.passed != size {
			t.Errorf("IPv6 %v: %d passed of %d", v6, a.path.probing.passed, size)
		}
	}
}

// A tunnel is not asked for more than its TUN hands over: what comes back would be fragments.
func TestTunnelProbesFitTheTUN(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawForm(t)
		f.mode = ipsec.Tunnel
		f.inner6 = f.outer6
		link := rapid.IntRange(1600, 9000).Draw(t, "link")
		d, a := formDevice(t, f, link)
		p, _ := probes(d)
		d.closerLook(a, 0)
		size := a.longest(link)
		if n := len(p.request(a, size, time.Now())); n != tunMTU(link) {
			t.Fatalf("%d bytes inside, the TUN has %d", n, tunMTU(link))
		}
	})
}

// changed has another byte at an offset of the ICMP message.
func changed(pkt []byte, v6 bool, at int, x byte) []byte {
	if v6 {
		at += inet.IPv6Len
	} else {
		at += inet.IPv4Len
	}
	pkt[at] ^= x
	return pkt
}

// Whatever comes in as an answer, nothing breaks.
func FuzzAnswer(f *testing.F) {
	d, a := formDevice(f, pathForm{mode: ipsec.Tunnel, keyBits: 128, icv: 128}, 1500)
	p, _ := probes(d)
	d.closerLook(a, 0)
	f.Add(reply(p.request(a, 1500, time.Now())))
	f.Add(reply(p.request(a, 576, time.Now())))
	f.Fuzz(func(t *testing.T, pkt []byte) {
		h, err := inet.Parse(pkt)
		if err != nil {
			return
		}
		p.takes(pkt, &h)
		if passed := a.path.probing.passed; passed != 0 {
			t.Errorf("%d passed, and nothing was asked", passed)
		}
	})
}
