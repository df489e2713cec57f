package underlay

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestShare sends packets of many SPIs to several sockets: each gets those that fall to it, in their
// order, and nobody gets one twice.
func TestShare(t *testing.T) {
	const sockets, packets = 3, 300
	families(t, func(t *testing.T, p *pair, v6 bool) {
		cfg := Config{Mark: testMark, Share: sockets}
		var raw []*Receiver
		var udp []*UDP
		in(t, p.b, func() (err error) {
			if raw, err = ListenRaw(cfg, v6); err == nil {
				udp, err = ListenUDP(cfg, v6, testPort)
			}
			return err
		})
		var byRaw, byUDP []receiver
		for i := range sockets {
			byRaw, byUDP = append(byRaw, raw[i]), append(byUDP, udp[i])
			t.Cleanup(func() { raw[i].Close(); udp[i].Close() })
		}
		if err := p.b.Do(func() error { _, err := ListenUDP(cfg, v6, testPort); return err }); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("the port was shared with somebody else: %v", err)
		}

		sender := listenUDP(t, p.a, Config{}, v6, testPort)
		var whole [][]byte
		for i := range packets {
			esp := payload(i, 100)
			binary.BigEndian.PutUint32(esp, uint32(0x1000+i%7))
			binary.BigEndian.PutUint32(esp[4:], uint32(i))
			if err := sender.Send(udpMessage(p, v6, [][]byte{esp})); err != nil { // one by one: what is sent as one stays so
				t.Fatal(err)
			}
			pkt := espPacket(p, v6, nil, 100, i)
			copy(pkt[len(pkt)-100:], esp)
			whole = append(whole, pkt)
		}
		if _, err := newSender(t, p.a, Config{}).Send(whole); err != nil {
			t.Fatal(err)
		}
		for name, receivers := range map[string][]receiver{"raw": byRaw, "UDP": byUDP} {
			for i, r := range receivers {
				var want, got []uint32
				for k := range packets {
					if (0x1000+k%7)%sockets == i {
						want = append(want, uint32(k))
					}
				}
				for _, d := range collect(t, r, len(want)) {
					got = append(got, binary.BigEndian.Uint32(d.Payload[4:]))
				}
				if !slices.Equal(got, want) {
					t.Errorf("%s socket %d got %v, want %v", name, i, got, want)
				}
				if n, err := r.(interface {
					TryReceive([]Datagram) (int, error)
				}).TryReceive(make([]Datagram, 1)); !errors.Is(err, unix.EAGAIN) {
					t.Errorf("%s socket %d has %d more: %v", name, i, n, err)
				}
			}
		}
	})
}
