package underlay

import (
	"testing"
	"time"
)

func TestPacketPathAllocatesNothing(t *testing.T) {
	families(t, func(t *testing.T, p *pair, v6 bool) {
		raw, sender := listenRaw(t, p.b, v6), newSender(t, p.a, Config{})
		a, b := listenUDP(t, p.a, Config{}, v6, testPort), listenUDP(t, p.b, Config{}, v6, testPort)
		batch := make([]Datagram, batchLen)
		pkts := [][]byte{espPacket(p, v6, nil, 1000, 0), espPacket(p, v6, noOperations, 1000, 1), {0}}
		m := udpMessage(p, v6, [][]byte{payload(0, 1000), payload(1, 1000), payload(2, 999)})
		if v6 {
			m.HopByHop = hopByHop
		} else {
			m.Options = noOperations
		}
		guard := time.AfterFunc(time.Minute, func() {
			raw.Close()
			b.Close()
		})
		defer guard.Stop()
		receive := func(r receiver, n int) {
			for n > 0 {
				k, err := r.Receive(batch)
				if err != nil {
					t.Fatalf("%d packets are missing: %v", n, err)
				}
				n -= k
			}
		}
		if n := testing.AllocsPerRun(100, func() {
			if n, err := sender.Send(pkts); n != 2 || err == nil {
				t.Fatal(n, err)
			}
			receive(raw, 2)
		}); n != 0 {
			t.Errorf("raw: %v allocations a round", n)
		}
		if n := testing.AllocsPerRun(100, func() {
			if err := a.Send(m); err != nil {
				t.Fatal(err)
			}
			receive(b, 3)
		}); n != 0 {
			t.Errorf("UDP: %v allocations a round", n)
		}
	})
}
