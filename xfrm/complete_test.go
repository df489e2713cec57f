package xfrm

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestComplete(t *testing.T) {
	id, selector := "src dst proto spi", "src dst dev proto sport dport type code key"
	const added = "state add src 10.0.0.1 dst 10.0.0.2 proto esp spi 1 "
	afterID := "enc auth auth-trunc aead comp mode mark reqid dir seq replay-window replay-seq replay-seq-hi replay-oseq " +
		"replay-oseq-hi flag extra-flag sel limit encap coa ctx offload output-mark if_id tfcpad pcpu-num nat-keepalive mapping-maxage"
	withAEAD := strings.TrimPrefix(afterID, "enc auth auth-trunc aead ")
	stateFlags := "noecn decap-dscp nopmtudisc wildrecv icmp af-unspec align4 esn"
	policyKey := selector + " dir mark ctx ptype if_id"
	policyRest := "index action priority flag limit offload tmpl"
	modes := "transport tunnel beet ro in_trigger"
	protos := "esp ah comp route2 hao ipsec-any"
	limits := "time-soft time-hard time-use-soft time-use-hard byte-soft byte-hard packet-soft packet-hard"
	tests := []struct{ words, want string }{
		{"", "state policy monitor"},
		{"state", "add update allocspi delete deleteall list get flush count"},
		{"s", "add update allocspi delete deleteall list get flush count"},
		{"policy", "add update delete deleteall list get flush count set setdefault getdefault"},
		{"monitor", "all all-nsid nokeys file acquire expire SA aevent policy report"},
		{"monitor file", "<a file>"},

		{"state add", id + " " + afterID},
		{"state add src", "<an address>"},
		{"state add src 10.0.0.1", id}, // proto must come before anything else
		{"state add proto", protos},
		{"state add proto esp spi", "<an SPI>"},
		{"state add proto esp", id + " " + afterID},
		{added + "reqid 1", afterID}, // ID is over
		{added + "reqid", "<a reqid>"},
		{added + "mode", modes},
		{added + "aead", AEADName + " rfc4309(ccm(aes)) rfc4543(gcm(aes)) rfc7539esp(chacha20,poly1305) <the name of an algorithm>"},
		{added + "aead rfc4106(gcm(aes))", generateKey + " <a key>"},
		{added + "enc cbc(aes)", "<a key>"},
		{added + "aead rfc4106(gcm(aes)) @/no/such/file", "128 96 64 <a number of bits>"},
		{added + "aead rfc4106(gcm(aes)) 0x1234 128", withAEAD},
		{added + "comp deflate", strings.Replace(afterID, " comp", "", 1)},
		{added + "mark 7", "mask " + afterID},
		{added + "mark 7 mask", "<a mask>"},
		{added + "flag", stateFlags + " <a set of flags>"},
		{added + "flag esn", stateFlags + " " + afterID},
		{added + "limit", limits},
		{added + "limit byte-soft", "<a limit>"},
		{added + "encap", "espinudp espinudp-nonike espintcp"},
		{added + "encap espinudp 4500 4500", "<an address>"},
		{added + "sel", selector + " " + afterID},
		{added + "sel dev", "none <an interface>"},
		{added + "sel proto gre", "proto sport dport type code key src dst dev " + afterID},
		{added + "sel proto gre sport 1", "proto sport dport type code key"}, // which is none of GRE's
		{added + "offload", "crypto packet dev"},
		{added + "offload packet", "dev"},
		{added + "offload dev", "<an interface>"},
		{added + "offload dev nosuchdevice", "dir"},
		{added + "offload dev nosuchdevice dir", "in out"},
		{added + "coa 10.0.0.3", strings.Replace(afterID, " coa", "", 1)},

		{"state allocspi proto esp min", "<an SPI>"},
		{"state delete", id + " mark"},
		{"state list", id + " nokeys mode reqid flag"},
		{"state show dst 10.0.0.1", id + " nokeys mode reqid flag"},
		{"state flush", "proto"},
		{"state flush proto esp", ""},
		{"state count", ""},

		{"policy add", policyKey + " " + policyRest},
		{"policy add dir out", selector + " mark ctx ptype if_id " + policyRest},
		{"policy add offload", "packet"},
		{"policy add dir out tmpl", id + " mode reqid level"},
		{"policy add dir out tmpl src 10.0.0.1", id},
		{"policy add dir out tmpl mode tunnel", id + " mode reqid level"}, // no template without proto
		{"policy add dir out tmpl proto esp mode", modes},
		{"policy add dir out tmpl proto esp mode tunnel", "mode reqid level " + selector + " mark ctx ptype if_id " + policyRest},
		{"policy get index", "<an index>"},
		{"policy list", selector + " nosock dir index ptype action priority flag"},
		{"policy list action", "allow block"},
		{"policy set", "hthresh4 hthresh6"},
		{"policy set hthresh4 1 2", "hthresh6"},
		{"policy setdefault in", "accept block allow"},

		{"state add nosuchword", ""},
		{"nosuchword", ""},
	}
	for _, tt := range tests {
		if got := candidates(strings.Fields(tt.words)); !slices.Equal(got, strings.Fields(bracketed(tt.want))) {
			t.Errorf("%q: got  %s\nwant %s", tt.words, got, bracketed(tt.want))
		}
	}
}

// bracketed makes <a file> one word.
func bracketed(s string) string {
	inside := false
	return strings.Map(func(r rune) rune {
		switch {
		case r == '<' || r == '>':
			inside = r == '<'
		case r == ' ' && inside:
			return '_'
		}
		return r
	}, s)
}

func candidates(words []string) (list []string) {
	for _, c := range Complete(words, Env{}) {
		if c.Value != "" {
			c.Word = bracketed("<" + c.Value + ">")
		}
		list = append(list, c.Word)
	}
	return list
}

// Whatever Parse takes is what Complete would have offered there, word by word.
func checkCompletes(t rapid.TB, words []string) {
	t.Helper()
	for i, word := range words {
		offered := Complete(words[:i], Env{})
		if !slices.ContainsFunc(offered, func(c Candidate) bool { return c.Value != "" || c.Word == word }) {
			t.Fatalf("%q is not offered after %q, only %v", word, words[:i], offered)
		}
	}
}

// Whatever Complete offers Parse takes there, if not always what it amounts to.
func checkOffered(t rapid.TB, words []string) {
	t.Helper()
	for _, c := range Complete(words, Env{}) {
		if c.Word == "" {
			continue
		}
		_, err := Parse(append(slices.Clone(words), c.Word), numberedEnv)
		var syntax *SyntaxError
		if errors.As(err, &syntax) && syntax.Word == c.Word && !strings.HasPrefix(syntax.Problem, "needs ") {
			t.Fatalf("%q is offered after %q: %v", c.Word, words, err)
		}
	}
}

func TestCompleteState(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := StateWords(drawState(t), FormatOptions{ShowKey: true})
		checkCompletes(t, words)
		checkOffered(t, words[:rapid.IntRange(0, len(words)).Draw(t, "n")])
	})
}

func TestCompletePolicy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := PolicyWords(drawPolicy(t), FormatOptions{})
		checkCompletes(t, words)
		checkOffered(t, words[:rapid.IntRange(0, len(words)).Draw(t, "n")])
	})
}

func TestCompleteRest(t *testing.T) {
	for _, line := range []string{
		"state update src 10.0.0.1 dst 10.0.0.2 proto ah spi 1 auth hmac(sha1) 0x1234 replay-window 32",
		"state allocspi src 10.0.0.1 dst 10.0.0.2 proto esp mode tunnel mark 1 mask 2 reqid 3 dir in seq 4 min 5 max 6 pcpu-num 7",
		"state delete dst 10.0.0.2 proto esp spi 0x10 mark 3 mask 7",
		"state deleteall proto esp reqid 3",
		"state list src 10.0.0.0/8 proto esp nokeys mode tunnel reqid 7 flag esn icmp",
		"state flush proto ipsec-any",
		"policy get src 10.0.0.0/8 dst 10.1.0.0/16 dir in mark 3 ptype sub if_id 9 ctx a:b",
		"policy delete index 9 dir out",
		"policy list nosock dir fwd index 3 ptype main action block priority 7 flag localok src 10.0.0.0/8 dev lo proto tcp sport 1",
		"policy flush ptype main",
		"policy set hthresh4 24 24 hthresh6 64 64",
		"policy setdefault in block fwd accept out allow",
		"monitor nokeys all-nsid acquire expire SA aevent policy report file x",
	} {
		words := strings.Fields(line)
		if _, err := Parse(words, testEnv); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		checkCompletes(t, words)
		for i := range words {
			checkOffered(t, words[:i])
		}
	}
}

// No key is read for a completion.
func TestCompleteReadsNoKey(t *testing.T) {
	env := Env{
		Interface: func(string) (int, error) { t.Error("looked an interface up"); return 0, nil },
		KeyFile:   func(string) ([]byte, error) { t.Error("read a key"); return nil, nil },
	}
	got := Complete(strings.Fields("state add proto esp aead rfc4106(gcm(aes)) @key 128 offload dev lo dir in"), env)
	if len(got) == 0 {
		t.Error("nothing is offered")
	}
}
