package xfrm

import (
	"strings"
	"testing"
)

// stateOf parses `state add` with the two vendor addresses in front of words.
func stateOf(t *testing.T, words string) *State {
	t.Helper()
	env := Env{Interface: func(string) (int, error) { return 7, nil }}
	words = strings.NewReplacer(
		"KEY16", "0x"+strings.Repeat("ab", 20), "KEY24", "0x"+strings.Repeat("ab", 28), "KEY32", "0x"+strings.Repeat("ab", 36),
		"GCM", AEADName,
	).Replace("state add src 192.168.1.64 dst 192.168.1.65 proto esp spi 0x1000 reqid 1 " + words)
	cmd, err := Parse(strings.Fields(words), env)
	if err != nil {
		t.Fatal(err)
	}
	return cmd.State
}

func TestRefusals(t *testing.T) {
	old, new := Release{6, 1}, Release{6, 12}
	const gcm = "aead GCM KEY32 128 "
	for _, tt := range []struct {
		words   string
		kernels []Release // that refuse it
		reason  string    // how it begins
	}{
		{gcm + "replay-window 64 offload dev p4p1 dir in", nil, ""},
		{gcm + "dir out offload dev p4p1 dir out", nil, ""},
		{gcm + "tfcpad 100", []Release{{}, old, new}, "tfcpad in another mode"},
		{gcm + "mode tunnel tfcpad 100", nil, ""},
		{gcm + "mode tunnel tfcpad 100 offload dev p4p1 dir out", []Release{{}, old, new}, "tfcpad with offload"},
		{gcm + "dir out replay-window 32", []Release{new}, "replay-window with dir out"},
		{gcm + "dir out flag icmp", []Release{new}, "flags decap-dscp"},
		{gcm + "dir out replay-seq 5", []Release{new}, "replay-seq with"},
		{gcm + "dir in replay-window 32 replay-oseq 5", []Release{new}, "replay-oseq with"},
		{gcm + "dir in replay-window 32 flag nopmtudisc", []Release{new}, "flag nopmtudisc"},
		{gcm + "dir in replay-window 32 extra-flag oseq-may-wrap", []Release{new}, "extra flags"},
		{"aead GCM 0xabcd 128", []Release{{}, old, new}, "an AES-GCM key"},
		{"aead GCM KEY32 112", []Release{{}, old, new}, "an AES-GCM ICV"},
		{gcm + "flag esn dir out", []Release{old}, "flag esn without"},
		{gcm + "flag esn replay-window 64", nil, ""},
		{gcm + "offload packet dev p4p1 dir out", []Release{old}, "packet offload"},
		{gcm + "encap espinudp 4500 4500 0.0.0.0 offload dev p4p1 dir out", []Release{old}, "UDP encapsulation"},
		{gcm + "dir out encap espinudp 4500 4500 0.0.0.0 nat-keepalive 20", nil, ""},
		{gcm + "encap espinudp 4500 4500 0.0.0.0 nat-keepalive 20", []Release{new}, "nat-keepalive without"},
		{gcm + "dir out nat-keepalive 20", []Release{new}, "nat-keepalive without"},
		{gcm + "dir in encap espinudp 4500 4500 0.0.0.0 replay-window 32 mapping-maxage 20", nil, ""},
		{gcm + "dir out encap espinudp 4500 4500 0.0.0.0 mapping-maxage 20", []Release{new}, "mapping-maxage with dir out"},
		{gcm + "mapping-maxage 20", []Release{old, new}, "mapping-maxage without"},
	} {
		for _, kernel := range []Release{{}, old, new} {
			want := ""
			for _, k := range tt.kernels {
				if k == kernel {
					want = tt.reason
				}
			}
			got := Refusals(stateOf(t, tt.words), kernel)
			if want == "" && len(got) != 0 || want != "" && (len(got) != 1 || !strings.HasPrefix(got[0].Reason, want)) {
				t.Errorf("%s on %v: %v, want %q", tt.words, kernel, got, want)
			}
		}
	}
}

func TestRefusalOfDirections(t *testing.T) {
	s := stateOf(t, "aead GCM KEY32 128 offload dev p4p1 dir out")
	s.Dir = StateDirIn
	if got := Refusals(s, Release{6, 12}); len(got) != 1 || !strings.HasPrefix(got[0].Reason, "offload in the other") {
		t.Error(got)
	}
}

func TestConnectXRefusal(t *testing.T) {
	const good = "mode transport aead GCM KEY32 128 offload dev p4p1 dir in"
	const packet = "mode transport aead GCM KEY32 128 replay-window 64 offload packet dev p4p1 dir in "
	for _, tt := range []struct{ words, reason string }{
		{good, ""},
		{strings.Replace(good, "KEY32", "KEY16", 1), ""},
		{good + " flag esn replay-window 64", ""},
		{"enc cbc(aes) KEY16 auth hmac(sha1) KEY16 offload dev p4p1 dir in", "authentication apart"},
		{"enc cbc(aes) KEY16 offload dev p4p1 dir in", "other encryption"},
		{strings.Replace(good, " 128 ", " 96 ", 1), "other encryption"},
		{good + " encap espinudp 4500 4500 0.0.0.0", "UDP encapsulation in crypto"},
		{strings.Replace(good, "KEY32", "KEY24", 1), "a key of AES-192"},
		{strings.Replace(good, "transport", "tunnel", 1) + " tfcpad 100", "tfcpad"},
		{good + " sel proto icmp", "a selector"},
		{good + " sel proto udp", ""},
		{strings.Replace(good, "transport", "beet", 1), "another mode"},
		{packet, ""},
		{packet + "encap espinudp 4500 4500 0.0.0.0", ""},
		{strings.Replace(packet, "transport", "tunnel", 1) + "encap espinudp 4500 4500 0.0.0.0", "UDP encapsulation in another"},
		{strings.Replace(packet, "window 64", "window 48", 1), "packet offload with another replay window"},
		{packet + "limit packet-soft 5 limit packet-hard 5", "packet offload with a soft"},
		{packet + "limit packet-hard 5", ""},
		{packet + "limit byte-hard 0", "packet offload with a limit"},
		// Of several reasons the first in the driver's order.
		{strings.Replace(good, " 128 ", " 64 ", 1) + " sel proto icmp", "other encryption"},
	} {
		got := ConnectXRefusal(stateOf(t, tt.words))
		if reason := reasonOf(got); tt.reason == "" && got != nil || !strings.HasPrefix(reason, tt.reason) {
			t.Errorf("%s: %q, want %q", tt.words, reason, tt.reason)
		}
	}
	if r := ConnectXRefusal(stateOf(t, packet+"reqid 0")); reasonOf(r) != "packet offload without a reqid" {
		t.Errorf("reqid 0: %v", r)
	}
}

func reasonOf(r *Refusal) string {
	if r == nil {
		return ""
	}
	return r.Reason
}

func TestParseRelease(t *testing.T) {
	for text, want := range map[string]Release{
		"6.12.117+deb12-amd64": {6, 12}, "6.1.0-56-amd64": {6, 1}, "5.15-rc3": {5, 15}, "": {}, "linux": {},
	} {
		got, err := ParseRelease(text)
		if got != want || (err == nil) != (want != Release{}) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}
