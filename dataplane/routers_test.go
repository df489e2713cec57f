package dataplane

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/tun"
	"espalier/underlay"
)

// said is what a router says of a packet of the SA 0x1000 of a form.
func said(f pathForm, mtu int, seq uint32) *underlay.TooBig {
	m := &underlay.TooBig{From: hostB, MTU: mtu, Protocol: inet.ProtoESP}
	m.Src, m.Dst = pair(f.outer6)
	m.Payload = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 0x1000), seq)
	if f.udp {
		m.Protocol = inet.ProtoUDP
		m.Payload = append([]byte{4500 >> 8, 4500 & 255, 4501 >> 8, 4501 & 255, 0, 0, 0, 0}, m.Payload...)
	}
	return m
}

// A router is believed if it quotes what was sent lately, and no further than a path may be narrow.
func TestHear(t *testing.T) {
	const sent, present = 100_000, 1500
	for _, f := range []pathForm{
		{mode: ipsec.Transport, keyBits: 128, icv: 128},
		{mode: ipsec.Tunnel, keyBits: 128, icv: 128, outer6: true},
		{mode: ipsec.Tunnel, keyBits: 128, icv: 128, udp: true},
		{mode: ipsec.Transport, keyBits: 128, icv: 128, udp: true, outer6: true, inner6: true},
	} {
		least := minPathMTU4
		if f.outer6 {
			least = minPathMTU6
		}
		other := InTooBigUnknown
		if !f.udp {
			other = reasons // from a port that no SA sends from: another program's
		}
		for _, c := range []struct {
			name   string
			change func(*underlay.TooBig)
			want   int // path MTU
			reason Reason
		}{
			{"genuine", func(*underlay.TooBig) {}, 1400, reasons},
			{"the last number", func(m *underlay.TooBig) { *m = *said(f, 1400, sent) }, 1400, reasons},
			{"an old number", func(m *underlay.TooBig) { *m = *said(f, 1400, sent-lately+1) }, 1400, reasons},
			{"a number too old", func(m *underlay.TooBig) { *m = *said(f, 1400, sent-lately) }, present, InTooBigRefused},
			{"the next number", func(m *underlay.TooBig) { *m = *said(f, 1400, sent+1) }, present, InTooBigRefused},
			{"the least", func(m *underlay.TooBig) { m.MTU = least }, least, reasons},
			{"too little", func(m *underlay.TooBig) { m.MTU = least - 1 }, present, InTooBigRefused},
			{"nothing", func(m *underlay.TooBig) { m.MTU = 0 }, present, InTooBigRefused},
			{"no less", func(m *underlay.TooBig) { m.MTU = present }, present, reasons},
			{"more", func(m *underlay.TooBig) { m.MTU = 9000 }, present, reasons},
			{"another SPI", func(m *underlay.TooBig) { m.Payload[len(m.Payload)-5]++ }, present, InTooBigUnknown},
			{"another source", func(m *underlay.TooBig) { m.Src = m.Src.Next() }, present, InTooBigUnknown},
			{"another destination", func(m *underlay.TooBig) { m.Dst = m.Dst.Next() }, present, InTooBigUnknown},
			{"cut short", func(m *underlay.TooBig) { m.Payload = m.Payload[:7] }, present, InTooBigUnknown},
			{"nothing quoted", func(m *underlay.TooBig) { m.Payload = nil }, present, InTooBigUnknown},
			{"TCP", func(m *underlay.TooBig) { m.Protocol = inet.ProtoTCP }, present, reasons},
			{"the other encapsulation", func(m *underlay.TooBig) {
				if f.udp {
					m.Protocol, m.Payload = inet.ProtoESP, m.Payload[udpLen:]
				} else {
					m.Protocol, m.Payload = inet.ProtoUDP, append(make([]byte, udpLen), m.Payload...)
				}
			}, present, other},
		} {
			d, a := formDevice(t, f, present)
			d.closerLook(a, 0)
			if _, err := a.out.Reserve(sent); err != nil {
				t.Fatal(err)
			}
			m := said(f, 1400, sent-10)
			c.change(m)
			before := dropped(d)
			d.hear(m)
			if got := int(a.pmtu.value.Load()); got != c.want || int(a.pmtu.look.Load()) > got {
				t.Errorf("%+v, %s: path MTU %d, want %d", f, c.name, got, c.want)
			}
			for r, n := range dropped(d) {
				if counted := n > before[r]; counted != (Reason(r) == c.reason) {
					t.Errorf("%+v, %s: %s counted %v", f, c.name, Reason(r), counted)
				}
			}
		}
	}
}

// Nothing was sent, so that nobody can answer it.
func TestHearBeforeAnythingIsSent(t *testing.T) {
	for _, f := range []pathForm{{mode: ipsec.Tunnel, keyBits: 128, icv: 128}, {mode: ipsec.Tunnel, keyBits: 128, icv: 128, udp: true}} {
		for _, short := range []bool{false, f.udp} {
			d, a := formDevice(t, f, 1500)
			d.closerLook(a, 0)
			m := said(f, 1400, 0)
			if short {
				m.Payload = m.Payload[:udpLen]
			}
			if d.hear(m); a.pmtu.value.Load() != 1500 {
				t.Errorf("%+v: believed", f)
			}
		}
	}
}

// Where only the ports are quoted, all SAs between them are meant, and no others; not too often.
func TestHearOfPortsOnly(t *testing.T) {
	f := pathForm{mode: ipsec.Tunnel, keyBits: 128, icv: 128, udp: true}
	d, a := formDevice(t, f, 1500)
	var all []*association
	for i, ports := range []ipsec.Encap{{SrcPort: 4500, DstPort: 4501}, {SrcPort: 4500, DstPort: 4502}} {
		sa := ipsec.SA{Src: hostA, Dst: hostB, SPI: ipsec.SPI(0x2000 + i), RequestID: 2, Mode: ipsec.Tunnel, Key: ipsec.NewKey(append(make([]byte, 19), byte(i+1))), ICVBits: 128, Direction: ipsec.Outbound, Encap: &ports}
		b, err := d.sad.add(sa, d.encapsulationOf(&sa), nil)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	for _, a := range append(all, a) {
		d.closerLook(a, 0)
		if _, err := a.out.Reserve(1); err != nil {
			t.Fatal(err)
		}
	}
	m := said(f, 1400, 1)
	m.Payload = m.Payload[:udpLen]
	theirs := *m // about another program's packet
	theirs.Payload = bytes.Clone(m.Payload)
	theirs.Payload[1]++
	if d.hear(&theirs); d.drops[InTooBigUnknown].Load() != 0 || a.pmtu.value.Load() != 1500 {
		t.Error("a message about another program's packet was counted or believed")
	}
	d.hear(m)
	if a.pmtu.value.Load() != 1400 || all[0].pmtu.value.Load() != 1400 || all[1].pmtu.value.Load() != 1500 {
		t.Errorf("%d, %d, and to another port %d", a.pmtu.value.Load(), all[0].pmtu.value.Load(), all[1].pmtu.value.Load())
	}
	d.paths.short = bucket{burst: 1, every: time.Hour}
	m.MTU = 1390
	d.hear(m)
	m.MTU = 1380
	if d.hear(m); a.pmtu.value.Load() != 1390 || d.drops[InTooBigRefused].Load() != 1 {
		t.Errorf("%d, %d refused", a.pmtu.value.Load(), d.drops[InTooBigRefused].Load())
	}
}

// What a router said is forgotten by itself after a while, and survives the SA: the next one between the
// same ends has the same path.
func TestLearnedAgesAndIsInherited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := keptDevice(t)
		d.link.mtu.Store(1500)
		d.paths.times.interval = -1
		add := func(spi ipsec.SPI, src, dst netip.Addr) *association {
			sa := testSA(spi)
			sa.Src, sa.Dst, sa.Direction, sa.Window = src, dst, ipsec.Outbound, 0
			sa.Key = ipsec.NewKey(append(make([]byte, 18), byte(spi>>8), byte(spi)))
			if err := d.AddSA(t.Context(), sa); err != nil {
				t.Fatal(err)
			}
			a := d.sad.inbound(sa.ID())
			d.closerLook(a, 0)
			return a
		}
		first := add(0x100, hostA, hostB)
		if !d.lower(first, 1400, hostB) {
			t.Fatal("refused")
		}
		time.Sleep(d.paths.times.age / 2)
		second, other := add(0x200, hostA, hostB), add(0x300, hostB, hostB)
		if err := d.DeleteSA(t.Context(), first.id); err != nil {
			t.Fatal(err)
		}
		want := func(when string, mtu uint32) {
			t.Helper()
			if got := second.pmtu.value.Load(); got != mtu || second.pmtu.look.Load() != mtu {
				t.Errorf("%s: path MTU %d, want %d", when, got, mtu)
			}
		}
		want("inherited", 1400)
		if got := other.pmtu.value.Load(); got != 1500 {
			t.Errorf("another path: %d", got)
		}
		time.Sleep(d.paths.times.age/2 - time.Second)
		want("not yet", 1400)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		want("after its time", 1500)

		d.link.mtu.Store(1300)
		d.followLink()
		want("with the link", 1300)
		d.link.mtu.Store(9000)
		d.followLink()
		want("with the link", 9000)
	})
}

// What the socket refuses for its length makes the keeper look up the route.
func TestRefusedForLength(t *testing.T) {
	d, a := formDevice(t, pathForm{mode: ipsec.Tunnel, keyBits: 128, icv: 128}, 1500)
	o := newOutbound(d, refusing{})
	d.closerLook(a, 0) // which looks up the route as well
	a.path.stale.Store(false)
	a.path.errand.asked.Store(false)
	o.handle([]tun.Frame{{Packet: plain(false, 1400, true)}})
	if !a.path.stale.Load() || !a.path.errand.asked.Load() || d.drops[OutTooBig].Load() != 1 {
		t.Errorf("stale %v, asked %v, %d drops", a.path.stale.Load(), a.path.errand.asked.Load(), d.drops[OutTooBig].Load())
	}
}
