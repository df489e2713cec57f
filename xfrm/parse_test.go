package xfrm

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"espalier/ipsec"
)

// testEnv knows the interfaces lo (1) and p4p1 (4) and one key file.
var testEnv = Env{
	Interface: func(name string) (int, error) {
		switch name {
		case "lo":
			return 1, nil
		case "p4p1", "enp4s0":
			return 4, nil
		}
		return 0, errors.New("no such device")
	},
	KeyFile: func(path string) ([]byte, error) {
		if path != "/etc/key" {
			return nil, errors.New("no such file")
		}
		return []byte("# made by hand\n0x" + hexKey + "\n"), nil
	},
}

const hexKey = "492e8ffe718a95a00c1893ea61afc64997f4732848ccfe6ea07db483175cb18de9ae411a"

var compareKeys = cmp.Comparer(func(a, b ipsec.Key) bool {
	return string(a.ExposeSecretBytes()) == string(b.ExposeSecretBytes())
})

var compareAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	compareKeys,
}

// splitLine splits a command as a shell does.
func splitLine(t testing.TB, line string) []string {
	t.Helper()
	lines, err := ParseScript(strings.NewReader(line))
	if err != nil || len(lines) != 1 {
		t.Fatalf("ParseScript(%q) = %v, %v", line, lines, err)
	}
	return lines[0].Words
}

func parse(t testing.TB, line string) *Command {
	t.Helper()
	cmd, err := Parse(splitLine(t, line), testEnv)
	if err != nil {
		t.Fatalf("Parse(%q): %v", line, err)
	}
	return cmd
}

func TestParseState(t *testing.T) {
	got := parse(t, `state add src 192.168.1.64/24 dst 192.168.1.65/24 proto esp spi 0x28f39549 reqid 0x28f39549 mode transport aead 'rfc4106(gcm(aes))' 0x`+hexKey+` 128 offload dev p4p1 dir out sel src 192.168.1.64 dst 192.168.1.65`)
	key, _ := parseHexKey(hexKey)
	want := &State{
		Src: netip.MustParseAddr("192.168.1.64"), Dst: netip.MustParseAddr("192.168.1.65"), Proto: 50,
		SPI: 0x28f39549, Reqid: 0x28f39549, Limits: NoLimits, Dir: StateDirOut,
		AEAD:    &AEAD{Name: AEADName, Key: key, KeyBits: 288, ICVBits: 128},
		Offload: &Offload{Ifindex: 4},
		Sel: Selector{Family: unix.AF_INET, Selector: ipsec.Selector{
			Src: netip.MustParsePrefix("192.168.1.64/32"), Dst: netip.MustParsePrefix("192.168.1.65/32")}},
	}
	if diff := cmp.Diff(want, got.State, compareAddrs); diff != "" {
		t.Error(diff)
	}
	if got.Device != "p4p1" || !got.KeyTyped || got.KeyFiles != nil {
		t.Errorf("Device %q, KeyTyped %v, KeyFile %q", got.Device, got.KeyTyped, got.KeyFiles)
	}
}

// addState is a command that the variants of TestParseStateWords complete.
const addState = `state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 1 aead 'rfc4106(gcm(aes))' @/etc/key 128 `

func TestParseStateWords(t *testing.T) {
	tests := []struct {
		words string
		want  func(*State)
	}{
		{"mode tunnel", func(s *State) { s.Mode = ModeTunnel }},
		{"mode beet", func(s *State) { s.Mode = ModeBeet }},
		{"reqid 010", func(s *State) { s.Reqid = 8 }},
		{"reqid 1 reqid 0x10", func(s *State) { s.Reqid = 16 }},
		{"seq 7", func(s *State) { s.Seq = swapSeq(7) }},
		{"dir in", func(s *State) { s.Dir = StateDirIn }},
		{"replay-window 32", func(s *State) { s.ReplayWindow = 32 }},
		{"replay-window 64 flag esn", func(s *State) { s.ReplayWindow, s.Flags = 64, FlagESN }},
		{"flag esn dir out", func(s *State) { s.Flags, s.Dir = FlagESN, StateDirOut }},
		{"flag noecn align4 mode tunnel", func(s *State) { s.Flags, s.Mode = FlagNoECN|FlagAlign4, ModeTunnel }},
		{"flag 0x21", func(s *State) { s.Flags = FlagNoECN | FlagAFUnspec }},
		{"extra-flag oseq-may-wrap dont-encap-dscp", func(s *State) { s.ExtraFlags = 3 }},
		{"extra-flag 0x80000000", func(s *State) { s.ExtraFlags = 1 << 31 }},
		{"replay-seq 5 replay-oseq 6", func(s *State) { s.Replay = &ReplayState{Seq: 5, OSeq: 6} }},
		{"replay-seq-hi 5 replay-oseq-hi 6 flag esn replay-window 4", func(s *State) {
			s.Replay, s.Flags, s.ReplayWindow = &ReplayState{SeqHi: 5, OSeqHi: 6}, FlagESN, 4
		}},
		{"limit byte-soft 0x10 limit packet-hard 7 limit time-use-hard 9", func(s *State) {
			s.Limits.SoftBytes, s.Limits.HardPackets, s.Limits.HardUse = 16, 7, 9
		}},
		{"encap espinudp 4500 4501 0.0.0.0", func(s *State) {
			s.Encap = &EncapTmpl{Type: EncapESPInUDP, SrcPort: 4500, DstPort: 4501, OA: netip.IPv4Unspecified()}
		}},
		{"offload crypto dev lo dir in", func(s *State) {
			s.Offload, s.Dir = &Offload{Ifindex: 1, Flags: OffloadInbound}, StateDirIn
		}},
		{"dir out offload packet dev lo dir out", func(s *State) {
			s.Offload, s.Dir = &Offload{Ifindex: 1, Flags: OffloadPacket}, StateDirOut
		}},
		{"flag esn replay-window 64 offload dev lo dir out", func(s *State) {
			s.Flags, s.ReplayWindow, s.Offload = FlagESN, 64, &Offload{Ifindex: 1}
		}},
		{"mark 3 output-mark 0x7 mask 0xf", func(s *State) {
			s.Mark, s.OutputMark = &Mark{3, ^uint32(0)}, &Mark{7, 15}
		}},
		{"if_id 9 tfcpad 100", func(s *State) { s.IfID, s.TFCPad = 9, 100 }},
		{"sel dev lo", func(s *State) { s.Sel.Interface = 1 }},
		{"sel src 10.1/16 proto icmp type 8 code 0", func(s *State) {
			s.Sel = Selector{Family: unix.AF_INET, Selector: ipsec.Selector{
				Src: netip.MustParsePrefix("10.1.0.0/16"), Dst: netip.MustParsePrefix("0.0.0.0/0"),
				Protocol: 1, SrcPort: ipsec.Port(8), DstPort: ipsec.Port(0)}}
		}},
		{"sel dst 2001:db8::1/64 proto gre key 1.2.3.4 reqid 3", func(s *State) {
			s.Reqid = 3
			s.Sel = Selector{Family: unix.AF_INET6, Selector: ipsec.Selector{
				Src: netip.MustParsePrefix("::/0"), Dst: netip.MustParsePrefix("2001:db8::1/64"),
				Protocol: 47, SrcPort: ipsec.Port(0x0102), DstPort: ipsec.Port(0x0304)}}
		}},
	}
	for _, tt := range tests {
		want := *parse(t, addState).State
		tt.want(&want)
		if diff := cmp.Diff(&want, parse(t, addState+tt.words).State, compareAddrs); diff != "" {
			t.Errorf("%s: %s", tt.words, diff)
		}
	}
}

func TestParsePolicy(t *testing.T) {
	got := parse(t, `policy update src 192.168.1.64 dst 192.168.1.0/255.255.255.0 proto tcp dport 0x50 dir fwd mark 3 mask 0xff index 10 ptype sub action block priority 7 flag localok icmp if_id 4 limit byte-hard 9 offload packet dev p4p1 tmpl src 1.1.1.1/24 dst 2.2.2.2/24 proto esp spi 5 reqid 9 mode tunnel level use tmpl proto ah`)
	all := ^uint32(0)
	limits := NoLimits
	limits.HardBytes = 9
	want := &Policy{
		Sel: Selector{Family: unix.AF_INET, Selector: ipsec.Selector{
			Src: netip.MustParsePrefix("192.168.1.64/32"), Dst: netip.MustParsePrefix("192.168.1.0/24"),
			Protocol: 6, DstPort: ipsec.Port(80)}},
		Dir: PolicyFwd, Mark: &Mark{3, 255}, Index: 10, Type: PolicySub, Action: PolicyBlock, Priority: 7,
		Flags: PolicyLocalOK | PolicyICMP, IfID: 4, Limits: limits,
		Offload: &Offload{Ifindex: 4, Flags: OffloadPacket},
		Tmpls: []Tmpl{
			{Src: netip.MustParseAddr("1.1.1.1"), Dst: netip.MustParseAddr("2.2.2.2"), Proto: 50, SPI: 5, Reqid: 9,
				Family: unix.AF_INET, Mode: ModeTunnel, Optional: true, AAlgos: all, EAlgos: all, CAlgos: all},
			{Proto: 51, Family: unix.AF_INET, AAlgos: all, EAlgos: all, CAlgos: all},
		},
	}
	if got.Verb != VerbUpdate {
		t.Errorf("verb %v", got.Verb)
	}
	if diff := cmp.Diff(want, got.Policy, compareAddrs); diff != "" {
		t.Error(diff)
	}
}

func TestParseVerbs(t *testing.T) {
	tests := []struct {
		words  string
		object Object
		verb   Verb
	}{
		{"s", ObjectState, VerbList}, {"p", ObjectPolicy, VerbList}, {"state s", ObjectState, VerbList},
		{"state ls", ObjectState, VerbList}, {"pol l", ObjectPolicy, VerbList}, {"st sh", ObjectState, VerbList},
		{"state f", ObjectState, VerbFlush}, {"state dela", ObjectState, VerbDeleteAll},
		{"state deletea", ObjectState, VerbDeleteAll}, {"policy c", ObjectPolicy, VerbCount},
		{"policy d index 8 dir in", ObjectPolicy, VerbDelete}, {"policy g dst 1.1.1.1 dir out", ObjectPolicy, VerbGet},
		{"state del dst 1.1.1.1 proto esp spi 3", ObjectState, VerbDelete},
		{"policy a dir in", ObjectPolicy, VerbAdd}, {"policy u dir in", ObjectPolicy, VerbUpdate},
	}
	for _, tt := range tests {
		if cmd := parse(t, tt.words); cmd.Object != tt.object || cmd.Verb != tt.verb {
			t.Errorf("%s: %s %s", tt.words, cmd.Object, cmd.Verb)
		}
	}
}

func TestParseQueries(t *testing.T) {
	s := parse(t, addState+"reqid 5 flag noecn").State
	for query, want := range map[string]bool{
		"": true, "nokeys": true, "src 10.0.0.0/8": true, "src 10.0.0.3": false, "dst 10.0.0.2": true, "spi 1": true,
		"spi 2": false, "proto ah": false, "proto ipsec-any": true, "reqid 5": true, "reqid 6": false,
		"mode transport": true, "mode tunnel": false, "flag noecn": true, "flag esn": false, "src ::/0": false,
	} {
		q := parse(t, "state list "+query).StateFilter
		if got := q.Match(s); got != want {
			t.Errorf("state list %s: %v", query, got)
		}
	}
	p := parse(t, "policy add src 10.0.0.0/24 proto tcp dport 80 dir out index 9 priority 3 action block").Policy
	for query, want := range map[string]bool{
		"": true, "src 10.0.0.0/8": true, "src 10.0.0.0/25": false, "dir out": true, "dir in": false, "index 9": true,
		"index 1": false, "proto tcp": true, "proto udp": false, "proto tcp dport 80": true, "dport 81": false, "action block": true,
		"action allow": false, "priority 3": true, "ptype sub": false, "flag icmp": false, "nosock": true,
	} {
		q := parse(t, "policy list "+query).PolicyQuery
		if got := q.Match(p); got != want {
			t.Errorf("policy list %s: %v", query, got)
		}
	}
	socket := *p
	socket.Dir = 4
	for query, want := range map[string]bool{"": true, "nosock": false, "dir out": false} {
		q := parse(t, "policy list "+query).PolicyQuery
		if got := q.Match(&socket); got != want {
			t.Errorf("policy list %s of a socket's policy: %v", query, got)
		}
	}
}

func TestParseErrors(t *testing.T) {
	const id = "state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 1 "
	tests := []struct {
		words string
		want  string // part of the text
		typ   any
		index int // for a *SyntaxError
	}{
		{"", "nothing to do", &SyntaxError{}, 0},
		{"stat3", `did you mean "state"?`, &SyntaxError{}, 0},
		{"monitor nokeys SA bogus", `monitor: "bogus" is not a group of events`, &SyntaxError{}, 3},
		{"monitor file", `"file" needs a value`, &SyntaxError{}, 1},
		{"state ad", "", nil, 0},
		{"state bogus", `state: "bogus" is not a command; expected add, update`, &SyntaxError{}, 1},
		{"state allocspi", "which one?", &SemanticError{}, 0},
		{"state allocspi proto esp spi 3", "spi is what allocspi finds", &SemanticError{}, 0},
		{"state allocspi proto esp min 3", "max is missing", &SemanticError{}, 0},
		{"state allocspi proto esp min 3 max 2", "min is larger than max", &SemanticError{}, 0},
		{"state set", `"set" is not a command`, &SyntaxError{}, 1},
		{"policy set hthresh4 1 33", `"33" is longer than an address`, &SyntaxError{}, 4},
		{"policy setdefault in drop", `"drop" is not a default; expected accept, block or allow`, &SyntaxError{}, 3},
		{id + "modee transport", `state add: "modee" is not a word here; did you mean "mode"?`, &SyntaxError{}, 10},
		{id + "mode transprot", `"transprot" is not a mode; did you mean "transport"?`, &SyntaxError{}, 11},
		{id + "mode", `"mode" needs a value`, &SyntaxError{}, 10},
		{id + "reqid 5k", `"5k" is not a reqid: a number without a unit goes here`, &SyntaxError{}, 11},
		{id + "reqid 09", "octal", &SyntaxError{}, 11},
		{id + "reqid -1", `"-1" is not a reqid`, &SyntaxError{}, 11},
		{id + "reqid 0x1_0", "is not a reqid", &SyntaxError{}, 11},
		{id + "reqid 0x100000000", "does not fit in 32 bits", &SyntaxError{}, 11},
		{id + "src 10.0.0.3", "", nil, 0},
		{id + "mode tunnel src 10.0.0.3", "must stand together", &SyntaxError{}, 12},
		{id, "a key is missing", &SemanticError{}, 0},
		{"state add src 10.0.0.1 dst 10.0.0.2 spi 1", "proto is missing", &SyntaxError{}, 8},
		{"state add src 10.0.0.1 dst ::2 proto esp", "different address families", &SyntaxError{}, 7},
		{"state add proto 50", `"50" is not an IPsec protocol`, &SyntaxError{}, 3},
		{"state add proto ah", "proto ah requires auth NAME KEY", &SemanticError{}, 0},
		{"state add proto ah enc a 0x00", "proto ah takes auth or auth-trunc only", &SemanticError{}, 0},
		{"state add proto comp", "proto comp requires comp NAME", &SemanticError{}, 0},
		{"state add proto comp comp a auth b 0x00", "proto comp takes comp only", &SemanticError{}, 0},
		{"state add proto comp spi 0x10000", "16 bits", &SemanticError{}, 0},
		{"state add proto hao spi 1", "proto hao has no spi", &SemanticError{}, 0},
		{"state add proto hao", "mode is required with proto hao", &SemanticError{}, 0},
		{"state add proto hao mode ro", "coa is required with proto hao", &SemanticError{}, 0},
		{"state add src ::1 proto hao mode ro coa 1.2.3.4", "of the other family", &SemanticError{}, 0},
		{"state add proto hao mode tunnel", "mode tunnel does not go with proto hao", &SemanticError{}, 0},
		{"state add proto ipsec-any enc a 0x00", "proto ipsec-any takes no algorithm", &SemanticError{}, 0},
		{addState + "coa 1.1.1.1", "coa does not go with proto esp", &SemanticError{}, 0},
		{addState + "comp a", "does not compress", &SemanticError{}, 0},
		{"state add src any proto esp", `"any" does not say which address family`, &SyntaxError{}, 3},
		{"state add src 1.2.3.4/33", `"1.2.3.4/33" is not an address: the prefix length goes from 0 to 32`, &SemanticError{}, 3},
		{"state add src 1.2.3.4/255.0.255.0", "the netmask has holes", &SemanticError{}, 3},
		{"state add src fe80::1%lo", "zone", &SemanticError{}, 3},
		{id + "enc aes 0x00 enc aes 0x00", `"enc" does not go with the algorithm before it`, &SyntaxError{}, 13},
		{id + "auth-trunc sha 0x00", `auth-trunc needs the length of the ICV in bits`, &SyntaxError{}, 13},
		{id + "aead", "needs a value", &SyntaxError{}, 10},
		{id + "aead 'rfc4106(gcm(aes))'", "needs a key", &SyntaxError{}, 11},
		{id + "aead x @/nowhere 128", "the key of aead (word 13) cannot be read: no such file", &SyntaxError{}, 12},
		{addState + "aead x 0x00 128", `"aead" does not go with the algorithm before it`, &SyntaxError{}, 14},
		{addState + "flag esn", "flag esn needs a replay-window", &SyntaxError{}, 16},
		{addState + "replay-window 4097", "4096 packets are the most", &SyntaxError{}, 16},
		{addState + "flag bogus", `"bogus" is not a word here`, &SyntaxError{}, 15},
		{addState + "flag noec", `did you mean "noecn"?`, &SyntaxError{}, 15},
		{addState + "flag 0x100", "does not fit in 8 bits", &SyntaxError{}, 15},
		{addState + "replay-seq-hi 1", "go with flag esn", &SemanticError{}, 0},
		{addState + "offload p4p1", `"p4p1" is not a word here; expected dev`, &SyntaxError{}, 15},
		{addState + "offload dev p4p1", "needs dir after it", &SyntaxError{}, 16},
		{addState + "offload dev nope dir in", `"nope" is not an interface of this host: no such device`, &SyntaxError{}, 16},
		{addState + "dir in offload dev p4p1 dir out", "dir in contradicts", &SemanticError{}, 0},
		{addState + "sel", `"sel" needs a selector`, &SyntaxError{}, 14},
		{addState + "sel src 1.1.1.1 dprt 5", `did you mean "dport"?`, &SyntaxError{}, 17},
		{addState + "sel proto udp type 8", "type and code go with proto icmp, ipv6-icmp or mobility-header, not with udp", &SemanticError{}, 0},
		{addState + "sel proto nope", "is not an IP protocol", &SyntaxError{}, 16},
		{addState + "limit bytes-soft 5", `did you mean "byte-soft"?`, &SyntaxError{}, 15},
		{addState + "encap espinudp 4500", `"4500" needs a value`, &SyntaxError{}, 16},
		{addState + "ctx a ctx b", `"ctx" is given twice`, &SyntaxError{}, 16},
		{"state delete", "which one?", &SemanticError{}, 0},
		{"state flush proto x", "is not an IPsec protocol", &SyntaxError{}, 3},
		{"state count x", `"x" is not a word here`, &SyntaxError{}, 2},
		{"policy add src 1.1.1.1", "dir in, out or fwd is missing", &SemanticError{}, 0},
		{"policy add dir in dir out", `"dir" is given twice`, &SyntaxError{}, 4},
		{"policy add src 1.1.1.1 dir in dst 2.2.2.2", "must stand together", &SyntaxError{}, 6},
		{"policy add dir in tmpl", `"tmpl" needs a template`, &SyntaxError{}, 4},
		{"policy add dir in tmpl proto esp reqdi 5", `"reqdi" is not a word here; did you mean "reqid"?`, &SyntaxError{}, 7},
		{"policy add dir in tmpl src 1.1.1.1", "proto is missing", &SyntaxError{}, 7},
		{"policy add dir in offload dev lo", "expected packet", &SyntaxError{}, 5},
		{"policy delete dir in", "a selector or an index is missing", &SemanticError{}, 0},
		{"policy delete dir in index 3 src 1.1.1.1", "name two policies", &SyntaxError{}, 8},
		{"policy delete index 3", "dir in, out or fwd is missing", &SemanticError{}, 0},
	}
	for _, tt := range tests {
		var w []string
		if tt.words != "" {
			w = splitLine(t, strings.Replace(tt.words, "stat3", "state", 1))
			if strings.HasPrefix(tt.words, "stat3") {
				w[0] = "stat3"
			}
		}
		_, err := Parse(w, testEnv)
		if tt.typ == nil { // only that the words are understood
			var syntax *SyntaxError
			if errors.As(err, &syntax) && !strings.Contains(err.Error(), "proto is missing") {
				t.Errorf("%q: %v", tt.words, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || fmt.Sprintf("%T", err) != fmt.Sprintf("%T", tt.typ) {
			t.Errorf("%q: got %T %v, want %T with %q", tt.words, err, err, tt.typ, tt.want)
			continue
		}
		if syntax, ok := err.(*SyntaxError); ok && syntax.Index != tt.index {
			t.Errorf("%q: index %d, want %d", tt.words, syntax.Index, tt.index)
		}
	}
}

// A key can stand in any place by mistake; no error may repeat it.
func TestErrorsHideKeys(t *testing.T) {
	const id = "state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 1 "
	for _, line := range []string{
		id + "aead 'rfc4106(gcm(aes))' 0x" + hexKey + "zz 128",
		id + "aead 'rfc4106(gcm(aes))' 0x" + hexKey + " 1x",
		id + "aead 'rfc4106(gcm(aes))' 128 0x" + hexKey,
		id + "aead 0x" + hexKey + " 128",
		id + "aead 0x" + hexKey[:40] + " 128 128",
		id + "0x" + hexKey + " 128",
		id + "0x" + hexKey[:40],
		id + "reqid 0x" + hexKey,
		id + "mode 0x" + hexKey,
		"0x" + hexKey,
		"state 0x" + hexKey,
		"policy add dir in priority 0x" + hexKey,
		"policy add dir in tmpl proto esp level 0x" + hexKey,
		"state add src 0x" + hexKey,
		id + "enc 'cbc(aes)' 0x" + hexKey + " auth 0x" + hexKey + " 128",
		id + "enc 'cbc(aes)' 0x" + hexKey + " auth 'hmac(sha256)' 0x" + hexKey + " 96",
		id + "auth-trunc 'hmac(sha256)' 96 0x" + hexKey,
		"monitor 0x" + hexKey,
		addState + "offload dev 0x" + hexKey + " dir in",
	} {
		script := strings.TrimPrefix(line, "0x"+hexKey)
		var w []string
		if script == "" {
			w = []string{line}
		} else {
			w = splitLine(t, line)
		}
		_, err := Parse(w, testEnv)
		if err == nil {
			t.Errorf("accepted: %s", strings.ReplaceAll(line, hexKey, "KEY"))
		} else if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), hexKey[:20]) {
			t.Errorf("the key is in the error for %s", strings.ReplaceAll(line, hexKey, "KEY"))
		}
	}
}

func TestParseKeys(t *testing.T) {
	const id = "state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 1 aead a "
	for in, want := range map[string]string{
		"0xabc":     "\x0a\xbc",
		"0x00FF":    "\x00\xff",
		"secret":    "secret",
		"0Xab":      "0Xab",
		"@/etc/key": "\x49\x2e\x8f",
	} {
		cmd := parse(t, id+in+" 128")
		if got := string(cmd.State.AEAD.Key.ExposeSecretBytes()); !strings.HasPrefix(got, want) || in[0] != '@' && got != want {
			t.Errorf("%s: %q", in, got)
		}
		if cmd.KeyTyped == (in[0] == '@') || (cmd.KeyFiles["aead"] != "") != (in[0] == '@') {
			t.Errorf("%s: KeyTyped %v, KeyFiles %q", in, cmd.KeyTyped, cmd.KeyFiles)
		}
	}
	for content, want := range map[string]string{
		"":             "must hold one line",
		"abc":          "must hold one line",
		"0x\n":         "has no digits",
		"0x12\n0x34\n": "more than one line",
		"0xzz":         "is not hexadecimal",
	} {
		env := testEnv
		env.KeyFile = func(string) ([]byte, error) { return []byte(content), nil }
		if _, err := Parse(splitLine(t, id+"@f 128"), env); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("key file %q: %v, want %q", content, err, want)
		}
	}
}

// The vendor's published set-up, as it is typed on two servers.
func TestParseVendorScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.xfrm.sh")
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		lines, err := ParseScript(f)
		f.Close()
		if err != nil || len(lines) < 2 {
			t.Fatalf("%s: %d lines, %v", file, len(lines), err)
		}
		for _, line := range lines {
			cmd, err := Parse(line.Words, testEnv)
			if err != nil {
				t.Errorf("%s:%d: %v", file, line.Number, err)
				continue
			}
			if s := cmd.State; s != nil && (s.AEAD.Key.Len() != 36 || s.Offload == nil || s.Dir == 0 || !s.Sel.Src.IsSingleIP()) {
				t.Errorf("%s:%d: %+v", file, line.Number, s)
			}
			if p := cmd.Policy; p != nil && (len(p.Tmpls) != 1 || p.Tmpls[0].Reqid == 0) {
				t.Errorf("%s:%d: %+v", file, line.Number, p)
			}
		}
	}
}
