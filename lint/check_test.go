package lint_test

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/ipsec"
	"espalier/lint"
	"espalier/xfrm"
	"espalier/xfrm/pair"
)

const (
	ours   = "192.168.1.65"
	theirs = "192.168.1.64"
)

// script parses lines of `ip xfrm`. OUT and IN are SAs that are right but for what follows, KEY is a key.
func script(t *testing.T, text string) (states []*xfrm.State, policies []*xfrm.Policy) {
	t.Helper()
	text = strings.NewReplacer(
		"OUT", "ip xfrm state add src "+ours+" dst "+theirs+" proto esp spi 0x1001 mode transport aead 'rfc4106(gcm(aes))' KEY 128 dir out",
		"IN", "ip xfrm state add src "+theirs+" dst "+ours+" proto esp spi 0x1002 mode transport aead 'rfc4106(gcm(aes))' KEY 128 dir in",
		"POLOUT", "ip xfrm policy add src "+ours+" dst "+theirs+" dir out tmpl src "+ours+" dst "+theirs+" proto esp mode transport",
		"POLIN", "ip xfrm policy add src "+theirs+" dst "+ours+" dir in tmpl src "+theirs+" dst "+ours+" proto esp mode transport",
	).Replace(text)
	text = strings.ReplaceAll(text, "KEY", "0x"+strings.Repeat("ab", 36))
	lines, err := xfrm.ParseScript(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	env := xfrm.Env{Interface: func(string) (int, error) { return 2, nil }}
	for _, l := range lines {
		cmd, err := xfrm.Parse(l.Words, env)
		if err != nil {
			t.Fatalf("line %d: %v", l.Number, err)
		}
		if cmd.State != nil {
			states = append(states, cmd.State)
		} else {
			policies = append(policies, cmd.Policy)
		}
	}
	return states, policies
}

func check(t *testing.T, text string) []lint.Finding {
	t.Helper()
	states, policies := script(t, text)
	local := func(a netip.Addr) bool { return a == netip.MustParseAddr(ours) }
	return lint.Check(states, policies, pair.Match(states, policies, local), nil)
}

const good = `OUT reqid 1
IN reqid 2 replay-window 64
POLOUT reqid 1
POLIN reqid 2
`

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string // ID, then part of what is said
	}{
		{"nothing at all", "", nil},
		{"as it should be", good, nil},
		{"as it should be, with a window of the ESN kind", "OUT reqid 1\nIN reqid 2 replay-window 128 flag esn\nPOLOUT reqid 1\nPOLIN reqid 2\n", nil},
		{"a wildcard in the template for receiving", "OUT reqid 1\nIN reqid 2 replay-window 64\nPOLOUT reqid 1\nPOLIN\n", nil},
		{"a policy that lets pass and one that blocks", good +
			"ip xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 dir out\nip xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 dir in action block\n", nil},
		{"during a rekey", good + strings.Replace("OUT reqid 1\n", "OUT", "ip xfrm state add src "+ours+" dst "+theirs+" proto esp spi 0x2001 mode transport aead 'rfc4106(gcm(aes))' KEY 128 dir out", 1), nil},
		{"no window", "OUT reqid 1\nIN reqid 2\nPOLOUT reqid 1\nPOLIN reqid 2\n", []string{"window-0: replay-window 0"}},
		{"other reqid, out", strings.Replace(good, "POLOUT reqid 1", "POLOUT reqid 7", 1),
			[]string{"reqid-mismatch: wants reqid 7, but the SA between its addresses has 1: nothing is sent (XfrmOutNoStates)"}},
		{"reqid 0 of an out template is no wildcard", strings.Replace(good, "POLOUT reqid 1", "POLOUT", 1), []string{"reqid-mismatch: wants reqid 0"}},
		{"other reqid, in", strings.Replace(good, "POLIN reqid 2", "POLIN reqid 7", 1),
			[]string{"reqid-mismatch: wants reqid 7, but the SA between its addresses has 2: nothing is accepted (XfrmInTmplMismatch)"}},
		{"policies only", "POLOUT reqid 1\nPOLIN reqid 2\n",
			[]string{"policy-without-sa: no SA with reqid 1 serves it: nothing is sent", "policy-without-sa: no SA with reqid 2 serves it: nothing is accepted"}},
		{"policies only, optional", "POLOUT reqid 1 level use\nPOLIN reqid 2 level use\n",
			[]string{"policy-without-sa: no SA with reqid 1 serves it: everything is sent in clear", "level-use: its template is optional (level use): cleartext is accepted",
				"policy-without-sa: no SA with reqid 2 serves it: cleartext is accepted (level use)", "level-use: its template is optional (level use): packets leave in clear as long as"}},
		{"optional, in", strings.Replace(good, "POLIN reqid 2", "POLIN reqid 2 level use", 1), []string{"level-use: its template is optional (level use): cleartext is accepted"}},
		{"optional, in, with another reqid", strings.Replace(good, "POLIN reqid 2", "POLIN reqid 3 level use", 1),
			[]string{"level-use: its template is optional (level use): cleartext is accepted", "reqid-mismatch: wants reqid 3, but the SA between its addresses has 2: cleartext is accepted (level use)"}},
		{"optional IPComp alone is as it should be", strings.Replace(good, "POLIN reqid 2", "POLIN reqid 2 tmpl src 192.168.1.64 dst 192.168.1.65 proto comp reqid 2 mode transport level use", 1), nil},
		{"another if_id", strings.Replace(good, "OUT reqid 1", "OUT reqid 1 if_id 7", 1),
			[]string{"template-mismatch: wants no if_id, but SA 0x00001001 has if_id 7: nothing is sent (XfrmOutNoStates)"}},
		{"another mode and reqid", strings.Replace(good, "IN reqid 2", strings.Replace("IN reqid 5", "IN", "ip xfrm state add src "+theirs+" dst "+ours+" proto esp spi 0x1002 mode tunnel aead 'rfc4106(gcm(aes))' KEY 128 dir in", 1), 1),
			[]string{"template-mismatch: wants reqid 2 and mode transport, but SA 0x00001002 has reqid 5 and mode tunnel: nothing is accepted (XfrmInTmplMismatch)"}},
		{"a selector of the SA that leaves all out", strings.Replace(good, "OUT reqid 1", "OUT reqid 1 sel src 10.0.0.1 dst 10.0.0.2", 1), []string{"sa-selector: its own selector, 10.0.0.1→10.0.0.2, leaves out all"}},
		{"SAs of two hosts, each with its selector, for one policy", strings.NewReplacer("OUT reqid 1", "OUT reqid 1 sel src "+ours+" dst "+theirs,
			"POLOUT reqid 1", "ip xfrm policy add src "+ours+" dst 192.168.1.0/24 dir out tmpl proto esp reqid 1 mode transport\nip xfrm policy add dst "+ours+" src 192.168.1.0/24 dir in priority 9 action block").Replace(good), nil},
		{"optional", strings.Replace(good, "POLOUT reqid 1", "POLOUT reqid 1 level use", 1), []string{"level-use: its template is optional"}},
		{"SAs only", "OUT reqid 1\nIN reqid 2 replay-window 64\n",
			[]string{"sa-without-policy: no out policy asks for its reqid 1", "sa-without-policy: no in policy asks for its reqid 2"}},
		{"no in policy", "OUT reqid 1\nIN reqid 2 replay-window 64\nPOLOUT reqid 1\n",
			[]string{"missing-in-policy: no in policy covers the way back, 192.168.1.64→192.168.1.65: cleartext is accepted", "sa-without-policy: no in policy asks for its reqid 2"}},
		{"an in policy that is too narrow", strings.Replace(good, "POLIN", "ip xfrm policy add src 192.168.1.64 dst 192.168.1.65 proto tcp dir in tmpl src 192.168.1.64 dst 192.168.1.65 proto esp mode transport", 1),
			[]string{"missing-in-policy: "}},
		{"an in policy that lets cleartext in", strings.Replace(good, "POLIN reqid 2", "ip xfrm policy add src 192.168.0.0/16 dst 192.168.0.0/16 dir in", 1),
			[]string{"missing-in-policy: on the way back policy ", "sa-without-policy: "}},
		{"an in policy that lets cleartext in, behind one that does not", good + "ip xfrm policy add src 192.168.0.0/16 dst 192.168.0.0/16 dir in priority 9\n", nil},
		{"an in policy that lets cleartext in, before one that does not",
			strings.Replace(good, "POLIN", "ip xfrm policy add src 192.168.1.64 dst 192.168.1.65 dir in priority 9 tmpl src 192.168.1.64 dst 192.168.1.65 proto esp mode transport", 1) +
				"ip xfrm policy add src 192.168.0.0/16 dst 192.168.0.0/16 dir in priority 5\n", []string{"missing-in-policy: on the way back policy "}},
		{"an in policy that blocks", strings.Replace(good, "POLIN reqid 2", "ip xfrm policy add src 192.168.0.0/16 dst 192.168.0.0/16 dir in action block", 1),
			[]string{"sa-without-policy: "}},
		{"an in policy that is wider", strings.Replace(good, "POLIN", "ip xfrm policy add src 192.168.0.0/16 dst 192.168.0.0/16 dir in tmpl src 192.168.1.64 dst 192.168.1.65 proto esp mode transport", 1), nil},
		{"out only", "OUT reqid 1\nPOLOUT reqid 1\nPOLIN reqid 2\n",
			[]string{"policy-without-sa: no SA with reqid 2", "one-sided: there is no SA in"}},
		{"in only", "IN reqid 2 replay-window 64\nPOLOUT reqid 1\nPOLIN reqid 2\n",
			[]string{"policy-without-sa: no SA with reqid 1", "one-sided: there is no SA out"}},
		{"packet offload of the SA only", strings.Replace(good, "OUT reqid 1", "OUT reqid 1 offload packet dev p4p1 dir out", 1),
			[]string{"half-offloaded: its SA 0x00001001 has packet offload, and the policy has none"}},
		{"packet offload of the policy only", strings.Replace(good, "POLOUT reqid 1", strings.Replace("POLOUT reqid 1", "POLOUT", "ip xfrm policy add src 192.168.1.65 dst 192.168.1.64 dir out offload packet dev p4p1 tmpl src 192.168.1.65 dst 192.168.1.64 proto esp mode transport", 1), 1),
			[]string{"half-offloaded: packet offload, but its SA 0x00001001 has none"}},
		{"a tunnel of which the far end differs", `
ip xfrm state add src 192.168.1.65 dst 192.168.1.64 proto esp spi 0x1001 reqid 1 mode tunnel aead 'rfc4106(gcm(aes))' KEY 128 dir out
ip xfrm state add src 192.168.1.64 dst 192.168.1.65 proto esp spi 0x1002 reqid 1 mode tunnel aead 'rfc4106(gcm(aes))' KEY 128 dir in replay-window 32
ip xfrm policy add src 10.1.0.0/16 dst 10.2.0.0/16 dir out tmpl src 192.168.1.65 dst 192.168.1.66 proto esp reqid 1 mode tunnel
ip xfrm policy add src 10.2.0.0/16 dst 10.1.0.0/16 dir in tmpl src 192.168.1.64 dst 192.168.1.65 proto esp reqid 1 mode tunnel
`, []string{"template-mismatch: wants src 192.168.1.65 dst 192.168.1.66, but SA 0x00001001 has src 192.168.1.65 dst 192.168.1.64: nothing is sent"}},
		{"a tunnel without an in policy", `
ip xfrm state add src 192.168.1.64 dst 192.168.1.65 proto esp spi 0x1002 reqid 1 mode tunnel aead 'rfc4106(gcm(aes))' KEY 128 dir in replay-window 32
`, []string{"sa-without-policy: no in policy asks for its reqid 1: what it decrypts is dropped (XfrmInNoPols)", "one-sided: "}},
	} {
		t.Run(c.name, func(t *testing.T) { compare(t, check(t, c.text), c.want) })
	}
}

func compare(t *testing.T, found []lint.Finding, want []string) {
	t.Helper()
	var got []string
	for _, f := range found {
		got = append(got, fmt.Sprintf("%s: %s", f.ID, f.Text))
		if f.About == "" || f.Fix == "" || f.Severity == "" || len(f.States)+len(f.Policies) == 0 {
			t.Errorf("not whole: %+v", f)
		}
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("found:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// Where packets without a policy are dropped by default, nothing comes in clear.
func TestDefaults(t *testing.T) {
	states, policies := script(t, "OUT reqid 1\nIN reqid 2 replay-window 64\nPOLOUT reqid 1\n")
	m := pair.Match(states, policies, nil)
	for in, want := range map[xfrm.DefaultAction]bool{xfrm.DefaultBlock: false, xfrm.DefaultAccept: true, xfrm.DefaultUnspec: true} {
		found := lint.Check(states, policies, m, &xfrm.Defaults{In: in})
		if got := slices.ContainsFunc(found, func(f lint.Finding) bool { return f.ID == lint.MissingIn }); got != want {
			t.Errorf("in %v: %+v", in, found)
		}
	}
}

// The NIC vendor's second server, as its document has it: the reqids in both templates are those of
// the other direction, and nothing passes. With them exchanged, all that is left is the window.
func TestVendorsSecondServer(t *testing.T) {
	b, err := os.ReadFile("../xfrm/testdata/second-server.xfrm.sh")
	if err != nil {
		t.Fatal(err)
	}
	compare(t, check(t, string(b)), []string{
		"reqid-mismatch: wants reqid 0x28f39549, which is the other direction's; the SA of this one has 0x622a73b4: nothing is sent (XfrmOutNoStates)",
		"reqid-mismatch: wants reqid 0x622a73b4, which is the other direction's; the SA of this one has 0x28f39549: nothing is accepted (XfrmInTmplMismatch)",
		"window-0: ",
	})
	var right []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "policy") {
			line = strings.NewReplacer("0x28f39549", "0x622a73b4", "0x622a73b4", "0x28f39549").Replace(line)
		}
		right = append(right, line)
	}
	compare(t, check(t, strings.Join(right, "")), []string{"window-0: "})
}

// A larval SA is told of, and nothing else is said about it.
func TestLarval(t *testing.T) {
	s := &xfrm.State{Src: netip.MustParseAddr(theirs), Dst: netip.MustParseAddr(ours), Proto: 50, SPI: 0x1000, Dir: xfrm.StateDirIn}
	states := []*xfrm.State{s}
	compare(t, lint.Check(states, nil, pair.Match(states, nil, nil), nil), []string{"larval: "})
}

// Ten thousand of each, of which nothing fits, take no time that grows with their square.
func TestMany(t *testing.T) {
	const n = 10_000
	var states []*xfrm.State
	var policies []*xfrm.Policy
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	here := netip.MustParseAddr(ours)
	for i := range n {
		states = append(states, &xfrm.State{Src: here, Dst: at(i), Proto: 50, SPI: ipsec.SPI(i + 256), Reqid: 1, Dir: xfrm.StateDirOut,
			AEAD: &xfrm.AEAD{Name: xfrm.AEADName, ICVBits: 128}})
		sel := ipsec.Selector{Src: netip.PrefixFrom(here, 32), Dst: netip.PrefixFrom(at(i), 32)}
		policies = append(policies, &xfrm.Policy{Sel: xfrm.Selector{Selector: sel, Family: 2}, Dir: xfrm.PolicyOut, Tmpls: []xfrm.Tmpl{{Proto: 50, Reqid: 2}}})
	}
	began := time.Now()
	found := lint.Check(states, policies, pair.Match(states, policies, nil), nil)
	took := time.Since(began)
	if len(found) != 3*n { // reqid-mismatch, missing-in-policy, one-sided
		t.Errorf("%d findings, want %d", len(found), 3*n)
	}
	t.Logf("%d SAs and policies: %s", n, took)
}
