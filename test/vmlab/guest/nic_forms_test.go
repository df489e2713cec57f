package guest

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"testing"

	"github.com/safchain/ethtool"

	"espalier/test/lab"
)

// exchanged is sent over TCP, half of it in each direction.
const exchanged = 256 << 10

// Every form of ESP a ConnectX offloads passes from NIC to NIC, and the NICs' counts are the SAs'
// numbers.
func TestNICForms(t *testing.T) {
	l := newNICLab(t, "p4p1")
	spi := uint32(0x1000)
	for _, v6 := range []bool{false, true} {
		for _, tunnel := range []bool{false, true} {
			for _, bits := range []int{128, 256} {
				p := lab.Pair{V6: v6, Tunnel: tunnel, KeyBits: bits, SPI: spi}
				spi += 0x10
				name := fmt.Sprintf("%s, %s, AES-%d", either(v6, "IPv6", "IPv4"), either(tunnel, "tunnel", "transport"), bits)
				t.Run(name, func(t *testing.T) {
					l.flush(t)
					l.program(t, p)
					l.wantOffloaded(t, p.SAs())
					l.wantOnNIC(t, p)
					if !t.Failed() {
						Tell("From NIC to NIC", name, "ping and TCP pass; the NICs' counts are the SAs' numbers")
					}
				})
			}
		}
	}
}

func either(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}

// wantOnNIC has a ping and TCP pass, cut up by the stack and encrypted by the NIC to the last
// packet.
func (l *nicLab) wantOnNIC(t *testing.T, p lab.Pair) {
	t.Helper()
	_, b := p.Ends()
	before := l.tallies(t, p.SAs())
	dropped := [2]map[string]uint64{l.drops(t, l.A), l.drops(t, l.B)}
	if !l.A.Ping(b, 1) {
		t.Error("ping failed")
	}
	if err := lab.Exchange(l.A, l.B, netip.AddrPortFrom(b, 0), exchanged/2); err != nil {
		t.Errorf("TCP: %v", err)
	}
	for i, after := range l.tallies(t, p.SAs()) {
		got := after.since(before[i])
		n := got.Numbered
		want := tally{Numbered: n, Packets: got.Packets, Encrypted: n, Decrypted: n, Accepted: n}
		if n < exchanged/2/1500 || got != want {
			t.Errorf("of host %s: %+v, want %+v", l.Hosts()[i].Name, got, want)
		}
		if got.Packets >= n {
			t.Errorf("of host %s: %d packets had %d numbers: none was cut up", l.Hosts()[i].Name, got.Packets, n)
		}
		if drops := l.drops(t, l.Hosts()[i]); !maps.Equal(drops, dropped[i]) {
			t.Errorf("host %s dropped %v, and %v before", l.Hosts()[i].Name, drops, dropped[i])
		}
	}
}

// Whether the NIC says that it could cut up large ESP packets makes no difference to what it
// encrypts.
func TestNICSegmentation(t *testing.T) {
	const feature = "tx-esp-segmentation"
	l := newNICLab(t, "p4p1")
	l.program(t, lab.Pair{})
	t.Cleanup(func() { l.setFeature(t, feature, true) })
	for _, on := range []bool{false, true} {
		t.Run(fmt.Sprint(on), func(t *testing.T) {
			l.setFeature(t, feature, on)
			l.wantOnNIC(t, lab.Pair{})
			if !t.Failed() {
				Tell("From NIC to NIC", feature+either(on, " on", " off"), "ping and TCP pass; the NICs' counts are the SAs' numbers")
			}
		})
	}
}

// setFeature is ethtool -K on both hosts.
func (l *nicLab) setFeature(t *testing.T, feature string, on bool) {
	t.Helper()
	for _, h := range l.Hosts() {
		inside(t, h, func() error {
			e, err := ethtool.NewEthtool()
			if err != nil {
				return err
			}
			defer e.Close()
			if err := e.Change(l.Device, map[string]bool{feature: on}); err != nil {
				return err
			}
			features, err := e.Features(l.Device)
			if err == nil && features[feature] != on {
				err = fmt.Errorf("%s stays %v", feature, !on)
			}
			return err
		})
	}
}

// Extended sequence numbers go on past 2^32, within a large packet that the stack cuts up too.
func TestNICExtendedNumbers(t *testing.T) {
	const start = "0xffffffe0"
	l := newNICLab(t, "p4p1")
	p := lab.Pair{ESN: true}
	for _, h := range l.Hosts() {
		l.apply(t, h, strings.Replace(l.Inbound(h, p), "flag esn", "flag esn replay-seq "+start, 1)+
			strings.Replace(l.Outbound(h, p), "flag esn", "flag esn replay-oseq "+start, 1)+l.Policies(h, p))
	}
	l.wantOffloaded(t, p.SAs())
	l.wantOnNIC(t, p)
	for i, sa := range p.SAs() {
		out, in := l.state(t, l.Hosts()[i], sa), l.state(t, l.Hosts()[1-i], sa)
		if out.Replay.OSeqHi != 1 || in.Replay.SeqHi != 1 || in.Replay.Seq != out.Replay.OSeq {
			t.Errorf("sent up to %d·2^32+%d, accepted up to %d·2^32+%d", out.Replay.OSeqHi, out.Replay.OSeq, in.Replay.SeqHi, in.Replay.Seq)
		}
	}
	if !t.Failed() {
		Tell("From NIC to NIC", "ESN, past 2^32", "ping and TCP pass; the NICs' counts are the SAs' numbers")
	}
}
