package dataplane

import (
	"bytes"
	"net/netip"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"espalier/esp"
	"espalier/ipsec"
	"espalier/underlay"
)

// sealed is what the other end sends: n ESP packets of 100 bytes of payload each.
func sealed(t *testing.T, sa ipsec.SA, n int) []underlay.Datagram {
	t.Helper()
	payloads := make([][]byte, n)
	for i := range payloads {
		payloads[i] = make([]byte, 100)
	}
	return sealAll(t, sa, payloads, 6, make([]byte, 20))
}

// sealAll is what the other end of sa sends with these payloads inside.
func sealAll(t rapid.TB, sa ipsec.SA, payloads [][]byte, nextHeader uint8, header []byte) []underlay.Datagram {
	t.Helper()
	out, err := esp.NewOutbound(&sa)
	if err != nil {
		t.Fatal(err)
	}
	n := len(payloads)
	first, err := out.Reserve(n)
	if err != nil {
		t.Fatal(err)
	}
	packets := make([][]byte, n)
	datagrams := make([]underlay.Datagram, n)
	for i, payload := range payloads {
		packets[i] = make([]byte, out.Len(len(payload)))
		copy(packets[i][esp.HeaderLen+esp.IVLen:], payload)
		out.Lay(packets[i], len(payload), first+uint64(i), nextHeader)
		datagrams[i] = underlay.Datagram{
			Payload: packets[i], Header: bytes.Clone(header), ProtocolAt: 9,
			Local: netip.AddrPortFrom(hostB, 0), Remote: netip.AddrPortFrom(hostA, 0),
		}
	}
	if err := out.Seal(new(esp.Batch), packets, first); err != nil {
		t.Fatal(err)
	}
	return datagrams
}

// A batch is opened as far as the limits allow, and no packet further.
func TestInboundLimits(t *testing.T) {
	for _, c := range []struct {
		name            string
		limits          ipsec.Limits
		packets, passed int
		events          []string
	}{
		{"none", ipsec.Limits{}, 10, 10, nil},
		{"packets, in the middle of a batch", ipsec.Limits{HardPackets: 6}, 10, 6, []string{"hard"}},
		{"packets, not reached", ipsec.Limits{HardPackets: 10}, 10, 10, nil},
		{"bytes", ipsec.Limits{HardBytes: 250}, 10, 3, []string{"hard"}},
		{"soft", ipsec.Limits{SoftPackets: 6}, 10, 10, []string{"soft"}},
		{"soft, not reached", ipsec.Limits{SoftPackets: 10}, 10, 10, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			d, l := keptDevice(t)
			sa := testSA(0x100)
			sa.Direction, sa.Limits = ipsec.Inbound, c.limits
			sa.Key = ipsec.NewKey(bytes.Repeat([]byte{5}, 20))
			peer := sa
			peer.Direction, peer.Key = ipsec.Outbound, ipsec.NewKey(bytes.Repeat([]byte{5}, 20))
			if err := d.AddSA(t.Context(), sa); err != nil {
				t.Fatal(err)
			}
			a := d.sad.inbound(sa.ID())
			newInbound(d, false, nil).handle(sealed(t, peer, c.packets))
			if got := a.packets.Load(); got != uint64(c.passed) || a.bytes.Load() != 100*got || a.in.Highest() != got {
				t.Errorf("%s: %d packets of %d bytes up to number %d passed, want %d", c.name, got, a.bytes.Load(), a.in.Highest(), c.passed)
			}
			if got := d.drops[InExpired].Load(); got != uint64(c.packets-c.passed) {
				t.Errorf("%s: %d dropped", c.name, got)
			}
			l.want(t, c.name, c.events...)
		})
	}
}

// A larval SA's SPI is known, and that nothing may come by it.
func TestLarvalSAReceivesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := keptDevice(t)
		r := spiRequest(0x100, 0x100)
		if _, err := d.AllocateSPI(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		sa := testSA(0x100)
		datagrams := sealed(t, sa, 1)
		if _, reason, ok := newInbound(d, false, nil).find(&datagrams[0]); ok || reason != InLarval {
			t.Errorf("%v %v", reason, ok)
		}
	})
}
