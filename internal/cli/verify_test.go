package cli

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"espalier/internal/inet"
	"espalier/ipsec"
	"espalier/verdict"
	"espalier/verdict/verify"
	"espalier/xfrm"
)

// report is of 10 probes through an SA whose key is known.
func report(p verdict.Probed) (verify.Flow, verify.Report) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	sa := &xfrm.State{Src: a, Dst: b, SPI: 0x1000, Reqid: 7, AEAD: &xfrm.AEAD{Name: xfrm.AEADName, Key: ipsec.NewKey(bytes.Repeat([]byte{0x5a}, 36))}}
	p.Sent, p.Counted = 10, 10
	return verify.Flow{SA: sa, Src: a, Dst: b, Protocol: inet.ProtoUDP, DstPort: 9},
		verify.Report{Probed: p, Proof: p.Judge(), First: 14, Last: 23, Peer: "storage2"}
}

func TestVerifyShow(t *testing.T) {
	hardware := verdict.Judgement{Verdict: verdict.Hardware, Reason: verdict.Balanced, Why: "p4p1 encrypted 10 packets, every one of the SA's", Unchecked: []string{"whether the NIC's counters are true"}}
	for _, c := range []struct {
		name    string
		p       verdict.Probed
		require string
		code    int
		text    string // the beginning
		json    []string
	}{
		{"proven by the peer", verdict.Probed{Here: hardware, Peer: &verdict.PeerWord{Accepted: 10}}, "hardware", 0,
			"0x00001000 192.0.2.1→192.0.2.2: PROVEN, HARDWARE\n  10 probes (udp 192.0.2.1→192.0.2.2), sequence numbers 14–23\n  the peer took 10",
			[]string{`"ok":true`, `"result":"PROVEN"`, `"verdict":"HARDWARE"`, `"host":"storage2"`, `"decrypts":"cpu"`, `"reason":"balanced"`}},
		{"refuted by the tap", verdict.Probed{Here: hardware, Tap: &verdict.TapWord{ESP: 10, Readable: 10}}, "", 3,
			"0x00001000 192.0.2.1→192.0.2.2: FAILED\n", []string{`"ok":false`, `"result":"FAILED"`, `"verdict":"UNKNOWN"`, `"readable":10`}},
		{"nobody to ask", verdict.Probed{Here: hardware}, "", 3,
			"0x00001000 192.0.2.1→192.0.2.2: UNKNOWN\n", []string{`"ok":false`, `"result":"UNKNOWN"`, `"here":{"verdict":"HARDWARE"`}},
		{"proven, but not what was wanted", verdict.Probed{Here: verdict.Judgement{Verdict: verdict.Software, Why: "no device"}, Peer: &verdict.PeerWord{Accepted: 10, Userspace: true, Offload: ipsec.CryptoOffload}}, "hardware", 3,
			"0x00001000 192.0.2.1→192.0.2.2: PROVEN, SOFTWARE\n", []string{`"ok":false`, `"result":"PROVEN"`, `"decrypts":"userspace"`}},
		{"the peer's NIC takes anything", verdict.Probed{Here: hardware, Peer: &verdict.PeerWord{Accepted: 10, Offload: ipsec.CryptoOffload, Control: verdict.ControlTaken}}, "", 3,
			"0x00001000 192.0.2.1→192.0.2.2: FAILED\n", []string{`"control":"taken"`, `"decrypts":"nic"`}},
	} {
		f, rep := report(c.p)
		var text, data bytes.Buffer
		err := (&verifyRun{stdout: &text, require: c.require}).show(sadChoice{}, f, rep)
		if exitCode(err) != c.code || !strings.HasPrefix(text.String(), c.text) {
			t.Errorf("%s: exit %d, want %d:\n%s", c.name, exitCode(err), c.code, text.String())
		}
		for line := range strings.Lines(text.String()) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > 100 {
				t.Errorf("%s: a line of %d columns: %s", c.name, n, line)
			}
		}
		if err := (&verifyRun{stdout: &data, require: c.require, format: formatJSON}).show(sadChoice{}, f, rep); exitCode(err) != c.code {
			t.Errorf("%s: exit %d as JSON, want %d", c.name, exitCode(err), c.code)
		}
		for _, want := range append(c.json, `"schema":"espalier/verify/v1"`, `"spi":"0x00001000"`, `"sent":10`) {
			if !strings.Contains(data.String(), want) {
				t.Errorf("%s: no %s in %s", c.name, want, data.String())
			}
		}
		if both := text.String() + data.String(); strings.Contains(both, hex.EncodeToString([]byte{0x5a, 0x5a, 0x5a})) || strings.Contains(both, "ZZZ") {
			t.Errorf("%s: the key is shown: %s", c.name, both)
		}
	}
}

func TestVerifyWords(t *testing.T) {
	for _, c := range []struct {
		args     []string
		from, to string
		count    uint64
		want     verify.Wish
		err      string
	}{
		{count: 1},
		{args: []string{"0x1000"}, count: 1, want: verify.Wish{SPI: 0x1000}},
		{args: []string{"4096"}, count: 1, want: verify.Wish{SPI: 0x1000}},
		{args: []string{"192.0.2.2"}, count: 1, want: verify.Wish{Peer: netip.MustParseAddr("192.0.2.2")}},
		{args: []string{"2001:db8::2"}, from: "10.0.0.1", to: "10.0.0.2", count: 1,
			want: verify.Wish{Peer: netip.MustParseAddr("2001:db8::2"), From: netip.MustParseAddr("10.0.0.1"), To: netip.MustParseAddr("10.0.0.2")}},
		{args: []string{"0"}, count: 1, err: "neither an SPI"},
		{args: []string{"0x100000000"}, count: 1, err: "neither an SPI"},
		{args: []string{"host"}, count: 1, err: "neither an SPI"},
		{to: "host", count: 1, err: "--to host: not an IP address"},
		{count: 0, err: "--count 0"},
		{count: 10_001, err: "--count 10001"},
	} {
		r := verifyRun{probes: c.count}
		err := r.parse(c.args, c.from, c.to)
		if err != nil || c.err != "" {
			if err == nil || c.err == "" || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%v %q %q: %v, want something about %q", c.args, c.from, c.to, err, c.err)
			}
			continue
		}
		if r.wish != c.want {
			t.Errorf("%v: %+v, want %+v", c.args, r.wish, c.want)
		}
	}
	if err := (&verifyRun{}).unmet(verify.Report{}); !errors.As(err, new(*exitError)) {
		t.Error("a report of nothing is a proof")
	}
}
