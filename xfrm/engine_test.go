package xfrm

import (
	"math/bits"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// The same numbers in both layouts: bit n of the kernel's old one is the number n below the
// highest.
func TestBitmapLayouts(t *testing.T) {
	for _, c := range []struct{ line, highest, window, ring uint32 }{
		{1, 1, 32, 1},             // only number 1
		{0b101, 3, 32, 0b101},     // 3 and 1
		{0b11, 33, 32, 1 | 1<<31}, // 33 and 32
		{0b101, 40, 32, 1<<7 | 1<<5},
		{0, 0, 32, 0},
	} {
		if got := ringBitmap(c.line, c.highest, c.window); got != c.ring {
			t.Errorf("ring of %b at %d: %b, want %b", c.line, c.highest, got, c.ring)
		}
		if got := lineBitmap(c.ring, c.highest, c.window); got != c.line {
			t.Errorf("line of %b at %d: %b, want %b", c.ring, c.highest, got, c.line)
		}
	}
	for highest := uint32(0); highest < 200; highest++ {
		line := uint32(0xdeadbeef) >> max(0, 32-int(highest))
		if highest == 0 {
			line = 0
		}
		ring := ringBitmap(line, highest, 32)
		if lineBitmap(ring, highest, 32) != line || bits.OnesCount32(ring) != bits.OnesCount32(line) {
			t.Errorf("at %d: %b became %b", highest, line, ring)
		}
	}
}

func TestEngineSARoundTrip(t *testing.T) {
	src, dst := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	live := ipsec.SA{
		Src: src, Dst: dst, SPI: 0x1000, RequestID: 7, ICVBits: 128, Window: 32, Key: ipsec.RandomKey(20), AcquireID: 9,
		Notice: &ipsec.Notice{Every: 4, After: 500 * time.Millisecond},
		Limits: ipsec.Limits{HardPackets: 5},
		Counters: ipsec.Counters{
			Received: 40, Bitmap: []uint32{1<<7 | 1<<5}, Used: time.Unix(1000, 0), LastUsed: time.Unix(2000, 0), Added: time.Unix(500, 0),
		},
	}
	larva := ipsec.SA{
		Src: src, Dst: dst, SPI: 0x2000, RequestID: 7, Mode: ipsec.Tunnel, Larval: true, AcquireID: 9, Direction: ipsec.Inbound,
		Selector: ipsec.Selector{Src: netip.PrefixFrom(src, 32), Dst: netip.PrefixFrom(dst, 32), Protocol: unix.IPPROTO_UDP},
		Limits:   ipsec.Limits{HardTime: 30 * time.Second}, Counters: ipsec.Counters{Added: time.Unix(500, 0)},
	}
	for _, sa := range []ipsec.SA{live, larva} {
		s, err := StateFromEngine(&sa)
		if err != nil {
			t.Fatal(err)
		}
		b, err := EncodeState(s)
		if err != nil {
			t.Fatal(err)
		}
		if s, err = DecodeState(b); err != nil {
			t.Fatal(err)
		}
		got, err := s.EngineSA()
		if err != nil || !got.Key.Equal(sa.Key) {
			t.Fatalf("%+v, %v", got, err)
		}
		got.Key = sa.Key
		if !reflect.DeepEqual(got, sa) {
			t.Errorf("got\n %+v\nwant\n %+v", got, sa)
		}
	}
	s, err := StateFromEngine(&larva)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.RequestedSA(); err == nil {
		t.Error("a request without an algorithm passed for a larval SA")
	}
}

func TestEnginePolicyRoundTrip(t *testing.T) {
	p := ipsec.Policy{
		Selector:  ipsec.Selector{Src: netip.MustParsePrefix("10.1.0.0/16"), Dst: netip.MustParsePrefix("10.2.0.0/16")},
		Direction: ipsec.Outbound, Action: ipsec.Discard, Index: 9,
		Limits: ipsec.Limits{SoftTime: time.Second, HardTime: time.Minute, SoftIdle: time.Hour, HardIdle: 2 * time.Hour},
	}
	xp, err := PolicyFromEngine(&p)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := xp.EnginePolicy(); err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("%+v, %v; want %+v", got, err, p)
	}
}
