package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"espalier/esp"
	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/underlay"
)

// RFC 6040, figure 4, row by row: the inner mark is the row, the outer one the column. -1 is
// "drop".
func TestDecapsulateECN(t *testing.T) {
	const notECT, ect1, ect0, ce, drop = 0, 1, 2, 3, -1
	for inner, row := range map[byte][4]int{ // outer: notECT, ect1, ect0, ce
		notECT: {notECT, notECT, notECT, drop},
		ect0:   {ect0, ect1, ect0, ce},
		ect1:   {ect1, ect1, ect1, ce},
		ce:     {ce, ce, ce, ce},
	} {
		for outer, want := range row {
			for _, v := range []struct{ inner, outer int }{{4, 4}, {4, 6}, {6, 4}, {6, 6}} {
				t.Run(fmt.Sprintf("%d in %d/%d in %d", v.inner, v.outer, inner, outer), func(t *testing.T) {
					pkt := ipHeader(v.inner, 0xb8|inner)
					h, err := inet.Parse(pkt)
					if err != nil {
						t.Fatal(err)
					}
					ok := decapsulateECN(pkt, &h, ipHeader(v.outer, 0x10|byte(outer)))
					if ok != (want != drop) {
						t.Fatalf("passed: %v", ok)
					}
					if !ok {
						return
					}
					after, err := inet.Parse(pkt)
					if err != nil || after.TOS != 0xb8|byte(want) {
						t.Errorf("TOS %#x, want %#x (%v)", after.TOS, 0xb8|want, err)
					}
					if v.inner == 4 && inet.Fold(inet.Sum(pkt, 0)) != 0 {
						t.Error("IPv4 header checksum is wrong")
					}
				})
			}
		}
	}
}

func ipHeader(version int, tos byte) []byte {
	if version == 4 {
		p := make([]byte, 20)
		p[0], p[1], p[8], p[9] = 0x45, tos, 64, 17
		inet.SetLength(p)
		return p
	}
	p := make([]byte, 40)
	binary.BigEndian.PutUint32(p, 6<<28|uint32(tos)<<20)
	p[6], p[7] = 59, 64
	return p
}

func TestTransportKeepsTheHeader(t *testing.T) {
	v4 := append(ipHeader(4, 0x5a), 1, 1, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8)
	v4[0] = 0x46
	copy(v4[4:], []byte{0xab, 0xcd, 0x40})
	inet.SetLength(v4)
	v6 := append(ipHeader(6, 0x5a), 17, 0, 1, 4, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8)
	v6[1] |= 0x0c
	v6[6] = inet.ProtoHopByHop
	inet.SetLength(v6)
	for name, pkt := range map[string][]byte{"IPv4 with options": v4, "IPv6 with a hop-by-hop header": v6} {
		h, err := inet.Parse(pkt)
		if err != nil {
			t.Fatal(err)
		}
		sa := testSA(0x100)
		if h.Version == 6 {
			sa.Src, sa.Dst = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
		}
		w := newWrapper(newState(nil, &sa, time.Time{}), &h, dontFragment(&h, h.Total), new(fragmentIDs))
		out := append(bytes.Clone(pkt[:h.Len]), make([]byte, 40)...)
		w.write(out)
		// The same header again, but for what says that ESP follows, and how much of it.
		want := append([]byte(nil), pkt[:h.Len]...)
		want = append(want, make([]byte, 40)...)
		want[h.ProtocolAt] = inet.ProtoESP
		inet.SetLength(want)
		if !bytes.Equal(out, want) {
			t.Errorf("%s:\ngot  %x\nwant %x", name, out, want)
		}
		if w.nextHeader != 17 {
			t.Errorf("%s: ESP carries %d", name, w.nextHeader)
		}
	}
}

func TestTunnelHeader(t *testing.T) {
	for _, c := range []struct {
		inner, outer int
		df, wantDF   bool
	}{{4, 4, true, true}, {4, 4, false, false}, {6, 4, true, false}, {4, 6, true, false}, {6, 6, true, false}} {
		pkt := ipHeader(c.inner, 0x5b)
		if c.inner == 4 && c.df {
			pkt[6] = dfBit
			inet.SetLength(pkt)
		}
		h, err := inet.Parse(pkt)
		if err != nil {
			t.Fatal(err)
		}
		sa := testSA(0x100)
		sa.Mode = ipsec.Tunnel
		if c.outer == 6 {
			sa.Src, sa.Dst = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
		}
		w := newWrapper(newState(nil, &sa, time.Time{}), &h, dontFragment(&h, h.Total), new(fragmentIDs))
		out := make([]byte, w.payloadAt()-esp.HeaderLen-esp.IVLen+36)
		w.write(out)
		got, err := inet.Parse(out)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if got.Src != sa.Src || got.Dst != sa.Dst || got.Protocol != inet.ProtoESP || got.TTL != outerTTL || got.TOS != 0x5b {
			t.Errorf("%+v: %+v", c, got)
		}
		if c.outer == 4 {
			if got.DontFragment != c.wantDF {
				t.Errorf("%+v: DF %v", c, got.DontFragment)
			}
			if inet.Fold(inet.Sum(out[:20], 0)) != 0 {
				t.Errorf("%+v: checksum", c)
			}
		}
		if want := map[int]uint8{4: 4, 6: 41}[c.inner]; w.nextHeader != want {
			t.Errorf("%+v: next header %d", c, w.nextHeader)
		}
	}
}

func TestExtensionsForTheSocket(t *testing.T) {
	header := func(kinds ...byte) []byte {
		p := ipHeader(6, 0)
		at := 6
		for i, k := range kinds {
			p[at] = k
			at = len(p)
			p = append(p, 17, 0, 1, 4, 0, 0, 0, byte(i))
		}
		return p
	}
	for _, c := range []struct {
		kinds []byte
		ok    bool
	}{
		{nil, true}, {[]byte{0}, true}, {[]byte{0, 43, 60}, true}, {[]byte{43}, true}, {[]byte{0, 60}, true},
		{[]byte{60, 43}, false}, {[]byte{60, 60}, false}, {[]byte{43, 0}, false},
	} {
		w := wrapper{original: header(c.kinds...)}
		var m underlay.Message
		if ok := w.extensions(&m); ok != c.ok {
			t.Errorf("%v: %v", c.kinds, ok)
		}
		if n := len(m.HopByHop) + len(m.Routing) + len(m.Destination); c.ok && n != 8*len(c.kinds) {
			t.Errorf("%v: %d bytes handed over", c.kinds, n)
		}
	}
}
