package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"espalier/ipsec"
	"espalier/lint"
	"espalier/verdict"
	"espalier/verdict/observe"
	"espalier/xfrm"
	"espalier/xfrm/pair"
)

// noon is when the tests look.
var noon = time.Unix(1_800_000_000, 0)

func named(index int) string { return fmt.Sprintf("p4p%d", index-1) }

// observed is an observation of a second: a pair in hardware on a NIC that somebody trusts, with limits
// near and packets dropped, an SA for sending that is alone, in software, and a policy that nothing serves.
func observed() *observe.Observation {
	a, b, c := netip.MustParseAddr("192.168.1.64"), netip.MustParseAddr("192.168.1.65"), netip.MustParseAddr("fd00::66")
	v6 := netip.MustParseAddr("fd00::64")
	aead := &xfrm.AEAD{Name: xfrm.AEADName, KeyBits: 288, ICVBits: 128, Key: ipsec.RandomKey(36)}
	added := uint64(noon.Unix()) - 3*3600 - 12*60
	out := &xfrm.State{Src: a, Dst: b, Proto: 50, SPI: 0x28f39549, Reqid: 0x28f39549, Mode: xfrm.ModeTransport, AEAD: aead, Dir: xfrm.StateDirOut,
		Offload: &xfrm.Offload{Ifindex: 2}, Limits: xfrm.NoLimits, LastUsed: uint64(noon.Unix()),
		Current: xfrm.LifetimeCurrent{Bytes: 3 << 40, Packets: 400_000_000, AddTime: added, UseTime: added}, Replay: &xfrm.ReplayState{OSeq: 2_147_483_648}}
	in := &xfrm.State{Src: b, Dst: a, Proto: 50, SPI: 0x622a73b4, Reqid: 0x622a73b4, Mode: xfrm.ModeTransport, AEAD: aead, Dir: xfrm.StateDirIn,
		Offload: &xfrm.Offload{Ifindex: 2, Flags: xfrm.OffloadInbound}, Limits: xfrm.NoLimits, ReplayWindow: 64,
		Current: xfrm.LifetimeCurrent{Bytes: 5 << 20, Packets: 1000, AddTime: added, UseTime: added}, Replay: &xfrm.ReplayState{Seq: 1003},
		Stats: xfrm.StateStats{Replay: 3, IntegrityFailed: 1}}
	in.Limits.SoftAdd, in.Limits.HardAdd = 14_400, 18_000
	alone := &xfrm.State{Src: v6, Dst: c, Proto: 50, SPI: 0x1000, Reqid: 7, Mode: xfrm.ModeTunnel, AEAD: aead, Dir: xfrm.StateDirOut, Flags: xfrm.FlagESN,
		Limits: xfrm.NoLimits, Current: xfrm.LifetimeCurrent{Bytes: 1500, Packets: 1, AddTime: added}, Replay: &xfrm.ReplayState{OSeq: 1}}
	policy := func(dir xfrm.PolicyDir, src, dst netip.Addr, reqid uint32) *xfrm.Policy {
		sel := ipsec.Selector{Src: netip.PrefixFrom(src, src.BitLen()), Dst: netip.PrefixFrom(dst, dst.BitLen())}
		return &xfrm.Policy{Sel: xfrm.Selector{Selector: sel}, Dir: dir, Tmpls: []xfrm.Tmpl{{Src: src, Dst: dst, Proto: 50, Reqid: reqid}}}
	}
	o := &observe.Observation{
		Took: time.Second, States: []*xfrm.State{out, in, alone},
		Policies: []*xfrm.Policy{policy(xfrm.PolicyOut, a, b, 0x28f39549), policy(xfrm.PolicyIn, b, a, 0x622a73b4), policy(xfrm.PolicyOut, a, a, 9)},
	}
	o.Matching = pair.Match(o.States, o.Policies, nil)
	o.Findings = lint.Check(o.States, o.Policies, o.Matching, nil)
	moved := func(i int, numbers, packets, bytes uint64) {
		s, d := o.States[i], o.Matching.Directions[i]
		sa := verdict.SA{Direction: d, After: verdict.Counts{Packets: s.Current.Packets, Bytes: s.Current.Bytes,
			Replayed: uint64(s.Stats.Replay), Forged: uint64(s.Stats.IntegrityFailed), Sequence: uint64(s.Replay.OSeq | s.Replay.Seq)}}
		if s.Offload != nil {
			sa.Offload = ipsec.Offload{Mode: ipsec.CryptoOffload, Interface: 2, Direction: d}
		}
		sa.Before = sa.After
		sa.Before.Sequence, sa.Before.Packets, sa.Before.Bytes = sa.After.Sequence-numbers, sa.After.Packets-packets, sa.After.Bytes-bytes
		o.Evidence.SAs = append(o.Evidence.SAs, sa)
	}
	moved(0, 833_112, 20_000, 1_176_000_000)
	moved(1, 12, 12, 1200)
	moved(2, 1, 1, 1500)
	d := verdict.Device{Index: 2, Name: "p4p1", Driver: "mlx5_core", Up: true, Carrier: true, Counts: true, ESP: [2]verdict.Feature{verdict.FeatureOn, verdict.FeatureOn}}
	for i := 2; i < 4; i++ {
		d.Readings[i].Sent.ESP, d.Readings[i].Received.ESP = 833_112, 12
	}
	o.Evidence.Devices = []verdict.Device{d}
	o.Evidence.Interval = o.Took
	o.Evidence.Gone = []verdict.Gone{{Device: 9, Direction: ipsec.Outbound}, {Device: 9, Direction: ipsec.Inbound}}
	o.Judgements = verdict.Judge(o.Evidence)
	o.Drops = []observe.Drop{
		{DropCount: ipsec.DropCount{Reason: "XfrmInTmplMismatch", Counter: "XfrmInTmplMismatch", Packets: 17}, Moved: 3},
		{DropCount: ipsec.DropCount{Reason: "XfrmInNoStates", Counter: "XfrmInNoStates", Packets: 5}},
		{DropCount: ipsec.DropCount{Reason: "XfrmInError", Counter: "XfrmInError"}},
	}
	return o
}

// golden compares with a file in testdata; UPDATE=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n%s\nwant:\n%s", name, got, want)
	}
}

func TestStatusText(t *testing.T) {
	var text, wide bytes.Buffer
	v := newStatusView(observed(), noon, named)
	if err := writeStatus(&text, screen{width: 100}, v); err != nil {
		t.Fatal(err)
	}
	golden(t, "status.txt", text.String())
	for line := range strings.Lines(text.String()) {
		if n := columns(strings.TrimSuffix(line, "\n")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if err := writeWide(&wide, v); err != nil {
		t.Fatal(err)
	}
	golden(t, "status-wide.txt", wide.String())
}

// The document has everything that the text has, its schema, and no key.
func TestStatusDocument(t *testing.T) {
	o := observed()
	v := newStatusView(o, noon, named)
	v.SAD, v.Kernel = "kernel", "6.12.0"
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "status.json", string(b)+"\n")
	if v.Schema != "espalier/status/v1" || v.Verdict != verdict.Mixed {
		t.Errorf("%s, %s", v.Schema, v.Verdict)
	}
}

// --require is met only if every SA shown has the verdict.
func TestStatusAll(t *testing.T) {
	v := newStatusView(observed(), noon, named)
	if why := v.unmet(verdict.Hardware); !strings.Contains(why, "SA 0x00001000 fd00::64→fd00::66 is SOFTWARE, no-offload") {
		t.Errorf("an SA in software passes for hardware, or is not named: %q", why)
	}
	v.limit([]string{"p4p1"})
	if len(v.Pairs) != 1 || v.Verdict != verdict.Hardware || v.unmet(verdict.Hardware) != "" {
		t.Errorf("of p4p1: %d pairs, %s", len(v.Pairs), v.Verdict)
	}
	v.Pairs[0].In.Verdict = verdict.Idle
	if v.unmet(verdict.Hardware) == "" {
		t.Error("an idle SA passes for hardware")
	}
	v.limit([]string{"p4p2"})
	if len(v.Pairs) != 0 || v.unmet(verdict.Hardware) == "" {
		t.Error("of p4p2: there is none")
	}
}

func TestBudgets(t *testing.T) {
	s := &xfrm.State{AEAD: &xfrm.AEAD{Name: xfrm.AEADName}, Limits: xfrm.NoLimits}
	s.Current = xfrm.LifetimeCurrent{Bytes: 900, Packets: 10, AddTime: uint64(noon.Unix()) - 100, UseTime: uint64(noon.Unix()) - 50}
	s.Limits.SoftBytes, s.Limits.HardBytes, s.Limits.HardPackets = 1000, 2000, 10
	s.Limits.SoftAdd, s.Limits.HardUse = 3700, 40
	e := &verdict.SA{Direction: ipsec.Outbound, After: verdict.Counts{Sequence: math.MaxUint32 - 3000}}
	never := math.Inf(1)
	want := []struct {
		what string
		hard bool
		left float64
	}{
		{"sequence", true, 30}, {"bytes", false, 2}, {"bytes", true, 22}, {"packets", true, 0}, {"age", false, 3600}, {"use", true, 0},
	}
	got := budgets(s, e, 100, 50, 0, noon)
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, w := range want {
		b := got[i]
		left := never
		if b.Left != nil {
			left = *b.Left
		}
		if b.What != w.what || b.Hard != w.hard || left != w.left {
			t.Errorf("%+v in %v s, want %+v", b, left, w)
		}
	}
	if b := soonest(got, true); b.What != "packets" {
		t.Errorf("ends first: %s", b.What)
	}
	// Without traffic nothing but time ends; with ESN there are 2^32 times as many numbers.
	s.Flags |= xfrm.FlagESN
	for _, b := range budgets(s, e, 0, 0, 0, noon) {
		if b.What == "bytes" && b.Left != nil {
			t.Errorf("%+v ends without traffic", b)
		}
		if b.What == "sequence" && (b.Limit != math.MaxUint64 || b.Left != nil) {
			t.Errorf("%+v", b)
		}
	}
	// On a NIC the lower half of ESN is to be told of, until it has gone.
	e.Offload.Mode = ipsec.CryptoOffload
	if b := budgets(s, e, 100, 0, 0, noon)[1]; b.What != "low-half" || b.Hard || *b.Left != 30 {
		t.Errorf("%+v", b)
	}
	e.After.Sequence += 5000
	if b := budgets(s, e, 100, 0, 0, noon)[1]; b.What != "bytes" {
		t.Errorf("%+v", b)
	}
	e.After.Sequence -= 5000
	// Numbers that wrap do not end the SA, and its nonces come again.
	s.Flags, s.ExtraFlags = 0, xfrm.ExtraOSeqMayWrap
	if b := budgets(s, e, 100, 0, 0, noon)[0]; b.What != "nonces" || b.Hard || *b.Left != 30 {
		t.Errorf("%+v", b)
	}
	e.Direction = ipsec.Inbound
	if b := budgets(s, e, 0, 0, 0, noon); b[0].What == "sequence" {
		t.Error("a receiver has no numbers to use up")
	}
}

// An SA that was added within the interval has its rates of the time since then.
func TestLived(t *testing.T) {
	for _, c := range []struct {
		changed     bool
		added, want time.Duration // ago
	}{
		{false, time.Hour, 10 * time.Second}, {true, 4 * time.Second, 4 * time.Second}, {true, 10 * time.Second, 10 * time.Second},
		{true, 11 * time.Second, 10 * time.Second}, {true, 12 * time.Second, 0}, {true, time.Hour, 0},
	} {
		s := &xfrm.State{Current: xfrm.LifetimeCurrent{AddTime: uint64(noon.Add(-c.added).Unix())}}
		if got := lived(s, &verdict.SA{Changed: c.changed}, 10*time.Second, noon); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestQuantities(t *testing.T) {
	for want, got := range map[string]string{
		"0 s": lasting(0), "41 s": lasting(41.9), "3 h 12 min": lasting(11520), "3 h": lasting(10_800), "2 d 4 h": lasting(187_200),
		"1 y 346 d": lasting(31557600 + 346*86400), "centuries": lasting(math.MaxFloat64), "1 min 1 s": lasting(61),
		"999 B": amount(999), "1.00 KiB": amount(1024), "1.20 GiB": amount(1.2 * (1 << 30)), "16.0 EiB": amount(math.MaxUint64),
		"9.41 Gb/s": bitRate(9.41e9), "": bitRate(0), "833 k packets/s": packetRate(833_112), "12 packets/s": packetRate(12),
		"1 policy": plural(1, "policy"), "2 policies": plural(2, "policy"), "0 SA pairs": plural(0, "SA pair"),
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A frame has as many lines as the screen, and leaves nothing of the one before.
func TestFrame(t *testing.T) {
	text := "1\n2\n3\n4\n"
	if got := frame(text, 80, 3); got != home+"1"+clearLine+"\r\n2"+clearLine+"\r\n… (more than fits)"+clearLine+clearBelow {
		t.Errorf("%q", got)
	}
	if got := frame(text, 80, 4); strings.Count(got, "\n") != 3 || !strings.HasSuffix(got, "4"+clearLine+clearBelow) {
		t.Errorf("%q", got)
	}
}

// A line wider than the screen does not take two rows, and keeps its colours.
func TestCut(t *testing.T) {
	for line, want := range map[string]string{
		"abc": "abc", "abcdef": "abcd", "↔↔↔↔↔": "↔↔↔↔", "\x1b[32mabcdef\x1b[0mgh": "\x1b[32mabcd\x1b[0m",
	} {
		if got := cut(line, 4); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// However many pairs there are, the status fits one screen, and has those that are an exception.
func TestStatusMany(t *testing.T) {
	v := newStatusView(observed(), noon, named)
	hardware, software := v.Pairs[0], v.Pairs[1]
	v.Pairs = nil
	for range 3000 {
		v.Pairs = append(v.Pairs, hardware)
	}
	v.Pairs = append(v.Pairs, software)
	var text bytes.Buffer
	if err := writeStatus(&text, screen{width: 100}, v); err != nil {
		t.Fatal(err)
	}
	golden(t, "status-many.txt", text.String())
	if n := strings.Count(text.String(), "\n"); n > 50 {
		t.Errorf("%d lines", n)
	}
}

// BenchmarkStatus is what ten thousand SAs and as many policies cost behind the reading of them.
func BenchmarkStatus(b *testing.B) {
	here := netip.MustParseAddr("10.0.0.1")
	o := &observe.Observation{Took: time.Second}
	aead := &xfrm.AEAD{Name: xfrm.AEADName, KeyBits: 288, ICVBits: 128}
	for i := range 5000 {
		peer := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		for _, d := range []xfrm.StateDir{xfrm.StateDirOut, xfrm.StateDirIn} {
			src, dst, dir, flags := here, peer, xfrm.PolicyOut, xfrm.OffloadFlag(0)
			if d == xfrm.StateDirIn {
				src, dst, dir, flags = peer, here, xfrm.PolicyIn, xfrm.OffloadInbound
			}
			o.States = append(o.States, &xfrm.State{Src: src, Dst: dst, Proto: 50, SPI: ipsec.SPI(1000 + i), Reqid: uint32(i), AEAD: aead, Dir: d,
				ReplayWindow: 64, Limits: xfrm.NoLimits, Offload: &xfrm.Offload{Ifindex: 2, Flags: flags}, Replay: &xfrm.ReplayState{}})
			sel := ipsec.Selector{Src: netip.PrefixFrom(src, 32), Dst: netip.PrefixFrom(dst, 32)}
			o.Policies = append(o.Policies, &xfrm.Policy{Sel: xfrm.Selector{Selector: sel}, Dir: dir, Tmpls: []xfrm.Tmpl{{Proto: 50, Reqid: uint32(i)}}})
			o.Evidence.SAs = append(o.Evidence.SAs, verdict.SA{})
		}
	}
	for b.Loop() {
		o.Matching = pair.Match(o.States, o.Policies, nil)
		o.Findings = lint.Check(o.States, o.Policies, o.Matching, nil)
		o.Judgements = verdict.Judge(o.Evidence)
		v := newStatusView(o, noon, named)
		if len(v.Findings) > 0 {
			b.Fatal(v.Findings[0])
		}
		if err := writeStatus(io.Discard, screen{width: 100}, v); err != nil {
			b.Fatal(err)
		}
	}
}
